"""A start from another method: the layers of a transform learn to do what those of a trained codec do.

Two transforms that are chains of layers are cut where both have features of one shape, for instance after
each halving. Every part of the one learns by itself to map the features that enter the other's part to those
that leave it, so nothing waits for the layers before it to be good, and no gradient crosses a border. The
last part of the synthesis learns the picture itself. In the second half of the run the parts are given what
those before them return, so that they make up for each other's errors.

Layers of a kind that both parts have are copied in their order, and a part that then does just what the
teacher's does stays as it is. The entropy model learns to code the teacher's latent, with the teacher's gains.

What comes out is a start for training at rate and distortion (`zoo train --init`), no codec to publish.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo_core import registry, weights
from zoo_core.entropy.coder import Estimator
from zoo_core.errors import UsageError
from zoo_core.interfaces import EntropyModel, Shape
from zoo_core.model import CodecModel, bits_per_pixel
from zoo_core.training.initial import fill
from zoo_core.training.objective import Objective, Terms

_PROBE = 2
"""Side of the picture whose features tell where to cut, in multiples of what the models take."""


class Part(NamedTuple):
    """Layers of the student and of the teacher that take features of `shape` (C, H, W) to the same shape."""

    mine: nn.Sequential
    theirs: nn.Sequential
    shape: tuple[int, ...]


class Imitation(Objective):
    """The objective of the module's docstring.

    The loss of a sample is the sum of the errors of all parts, each relative to the variance of what it is to
    return (for the picture: to the error of the teacher's picture), and the bits per pixel. Optimisers that
    scale each parameter's gradient by itself need no weights between the terms, which share no parameter.

    Args:
        model: the student; what it can copy from the teacher is copied here.
        teacher: a trained codec of one latent of the same shape.

    Raises:
        UsageError: one of them is no chain of layers, or their latents differ.
    """

    def __init__(self, model: CodecModel, teacher: CodecModel):
        super().__init__(transform_rate=1.0)
        self.teacher = teacher.requires_grad_(False)
        chains = zip(model.transform.chain(), teacher.transform.chain(), strict=True)
        side = _PROBE * max(model.downscale, teacher.downscale)
        latent = model.transform.latent_shapes(side, side)
        if latent != teacher.transform.latent_shapes(side, side):
            raise UsageError(
                "the latents of the two methods differ: only a codec of equal latents can be imitated"
            )
        # Kept out of the submodules: the student's parts are the model's, which learn as its own parameters.
        self._parts = tuple(
            _cut(*pair, shape) for pair, shape in zip(chains, ((3, side, side), *latent), strict=True)
        )
        self.together = False
        for part in self._all_parts():
            _copy_in_order(part)
            part.mine.requires_grad_(not _equal(part))
        _copy_gains(model.entropy_model, teacher.entropy_model)

    def train(self, mode: bool = True) -> Imitation:
        super().train(mode)
        self.teacher.eval()
        return self

    def get_extra_state(self) -> list[bool]:
        """Which parts learn: decided once, since a run that is resumed begins with other random weights."""
        return [next(part.mine.parameters()).requires_grad for part in self._all_parts()]

    def set_extra_state(self, state: list[bool]) -> None:
        for part, learns in zip(self._all_parts(), state, strict=True):
            part.mine.requires_grad_(learns)

    def _all_parts(self) -> list[Part]:
        return [part for parts in self._parts for part in parts]

    def begin(self, model: CodecModel, progress: float) -> None:
        self.together = progress >= 0.5

    def forward(self, model: CodecModel, x: Tensor, level: Tensor, **conditions: Any) -> Terms:
        analysis, synthesis = self._parts
        fine, coarse = self._features(x, level)
        errors = [_relative(*pair) for pair in zip(self._outputs(analysis, fine), fine[1:], strict=True)]
        *outputs, picture = self._outputs(synthesis, coarse)
        errors += [_relative(*pair) for pair in zip(outputs, coarse[1:-1], strict=True)]
        mse, floor = (_error(out, x) for out in (picture, coarse[-1]))
        coder = Estimator(True, model.entropy_model.noise_downstream)
        shapes = model.transform.latent_shapes(*x.shape[-2:])
        model.entropy_model.code(coder, (fine[-1].float(),), shapes, level)
        bpp = bits_per_pixel(coder.likelihoods, x.shape[-2] * x.shape[-1])
        return Terms(torch.stack([*errors, mse / floor, bpp]).sum(0), bpp, mse)

    @torch.no_grad()
    def _features(self, x: Tensor, level: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What enters the teacher's parts and leaves the last, from x to y and from y_hat to x_hat."""
        analysis, synthesis = self._parts
        fine = _through((part.theirs for part in analysis), x)
        shapes = self.teacher.transform.latent_shapes(*x.shape[-2:])
        y_hat = self.teacher.entropy_model.code(Estimator(False), (fine[-1].float(),), shapes, level)[0]
        return fine, _through((part.theirs for part in synthesis), y_hat.to(x.dtype))

    def _outputs(self, parts: Sequence[Part], features: Sequence[Tensor]) -> list[Tensor]:
        """What each part returns, given the features that enter the teacher's, or those of the part before."""
        outputs: list[Tensor] = []
        for part, given in zip(parts, features, strict=False):
            outputs.append(part.mine(outputs[-1].detach() if self.together and outputs else given))
        return outputs


def teacher_of(name: str) -> CodecModel:
    """The trained base preset of a method.

    Raises:
        UnknownModelError: there is no such method.
        UsageError: it has no trained weights.
    """
    entry = registry.find(name, "codec")
    file = weights.locate(entry)
    if file is None:
        raise UsageError(f"{name!r} has no trained weights: there is nothing to imitate")
    teacher = registry.build(entry)
    fill(teacher, file.path)
    return teacher


def _cut(mine: Sequence[nn.Module], theirs: Sequence[nn.Module], shape: Shape) -> list[Part]:
    """The two chains in parts, cut where features of the same shape leave both; `shape` enters."""
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    parts, start = [], (0, 0)
    ends, others = _ends(mine, x), _ends(theirs, x)
    for left, end in ends.items():
        learners = nn.Sequential(*mine[start[0] : end])
        if left in others and any(True for _ in learners.parameters()):
            parts.append(Part(learners, nn.Sequential(*theirs[start[1] : others[left]]), x.shape[1:]))
            start, x = (end, others[left]), x.new_empty(left)
    return parts


@torch.no_grad()
def _ends(layers: Sequence[nn.Module], x: Tensor) -> dict[torch.Size, int]:
    """Number of layers up to the last one at each size, by the shape of what it returns."""
    last: dict[int, tuple[torch.Size, int]] = {}
    for count, layer in enumerate(layers, 1):
        x = layer(x)
        last[x.shape[-1]] = x.shape, count
    return dict(last.values())


def _through(parts: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """x, and what leaves each of the parts."""
    features = [x]
    for part in parts:
        features.append(part(features[-1]))
    return features


@torch.no_grad()
def _equal(part: Part) -> bool:
    """Whether both do the same, up to rounding, as far as one input of noise tells."""
    x = torch.randn(1, *part.shape, generator=torch.Generator().manual_seed(0))
    return torch.allclose(part.mine(x), part.theirs(x), rtol=1e-4, atol=1e-4)


def _copy_in_order(part: Part) -> None:
    """Copy the first block of each class into the first of the same class, the second into the second."""
    theirs = _blocks(part.theirs)
    for block in _blocks(part.mine):
        same = next((other for other in theirs if type(other) is type(block)), None)
        if same is not None:
            theirs.remove(same)
            _copy(block, same)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The layers inside of nested sequences."""
    if isinstance(module, nn.Sequential):
        return [block for child in module for block in _blocks(child)]
    return [module]


def _copy_gains(mine: EntropyModel, theirs: EntropyModel) -> None:
    """Quantise as the teacher does, where both have gains."""
    ours, given = (getattr(entropy_model, "gains", None) for entropy_model in (mine, theirs))
    if ours is not None and given is not None:
        _copy(ours, given)
        ours.requires_grad_(False)


@torch.no_grad()
def _copy(mine: nn.Module, theirs: nn.Module) -> None:
    """Copy the parameters of equal shape, module by module as long as their classes agree."""
    if type(mine) is not type(theirs):
        return
    for name, parameter in mine.named_parameters(recurse=False):
        other = getattr(theirs, name)
        if other is not None and other.shape == parameter.shape:
            parameter.copy_(other)
    children = dict(theirs.named_children())
    for name, child in mine.named_children():
        if name in children:
            _copy(child, children[name])


def _error(out: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each sample, (B,)."""
    return (out.float() - wanted.float()).square().mean((1, 2, 3))


def _relative(out: Tensor, wanted: Tensor) -> Tensor:
    """The same over the variance of the batch."""
    return _error(out, wanted) / wanted.float().var()
