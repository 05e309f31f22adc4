"""Sparse latents, and distillation of a large synthesis into a small one in three phases (section 8).

    base: bpp + lambda * 255^2 * MSE(x, x_hat) + beta / 256 * sum |y| / (h w), y not rounded

1. Analysis, entropy model and the large synthesis (the teacher) learn together, with the base loss.
2. All of that is frozen, medians of the hyper-latent included. The small synthesis (the student) learns to
   decode the same latents, from the photo, from the teacher's picture and from the teacher's features.
3. The analysis stays frozen, so that teacher and student see the same latents; student and entropy model
   learn with the base loss, the teacher's picture, and its features with a weight that falls to zero.

The abstract says that final and intermediate results are transferred and that the entropy coding is
trained again; tensors, weights and shares of the run are our reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo_core.entropy.hyperprior import HyperpriorEntropy
from zoo_core.errors import UsageError
from zoo_core.layers.rate import RateGains
from zoo_core.layers.residual import conv1x1
from zoo_core.model import CodecModel, bits_per_pixel
from zoo_core.training.loss import distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms
from zoo_deformable_checkerboard.start import gain, pass_through
from zoo_deformable_checkerboard.transform import DeformableTransform, Synthesis

_OFFSETS = ".offset."
_TEACHER_WEIGHT = 0.5
"""Of the teacher's picture, relative to the photo."""


class Sparse(Objective):
    """Rate, distortion, and the mean magnitude of the latent.

    Args:
        beta: weight of the magnitude in quantisation steps, in bits per 256 elements.
        transform_rate: see `Objective`.

    Raises:
        UsageError: a negative weight.
    """

    def __init__(self, beta: float = 0.01, transform_rate: float = TRANSFORM_RATE):
        super().__init__(transform_rate)
        _not_negative(beta=beta, transform_rate=transform_rate)
        self.beta = beta

    def forward(self, model: CodecModel, x: Tensor, level: Tensor) -> Terms:
        latent, likelihoods, magnitude = _walk(model, x, level)
        return self.base(likelihoods, magnitude, x, model.transform.synthesis((latent,)), level)

    def base(
        self, likelihoods: dict[str, Tensor], magnitude: Tensor, x: Tensor, x_hat: Tensor, level: Tensor
    ) -> Terms:
        """The base loss of a reconstruction; `magnitude` is the latent's in steps, (B,)."""
        pixels = x.shape[-2] * x.shape[-1]
        bpp = bits_per_pixel(likelihoods, pixels)
        mse = _mse(x_hat, x)
        # h w of the latent is pixels / 256, which cancels the 256 of the weight's unit.
        return Terms(bpp + distortion(mse, level) + self.beta * magnitude / pixels, bpp, mse)

    def learning_rate_factor(self, name: str) -> float:
        """Offsets learn at a tenth of the rate: they move what all other weights see."""
        return super().learning_rate_factor(name) * (0.1 if _OFFSETS in name else 1.0)


class Distillation(Sparse):
    """The three phases of the module's docstring.

    Args:
        model: whose synthesis is the student.
        teacher: refine, deform and attend of the large synthesis.
        phases: shares of the run at which phases 2 and 3 begin; (0.6, 1.0) has no phase 3.
        features: weight of the features' distance; 0 for distillation from pictures alone.
        teacher_width: factor on the widths of the teacher; 1x1 convolutions adapt the student's features.

    Raises:
        UsageError: phases that do not rise, a negative weight, or a teacher without channels.
    """

    def __init__(
        self,
        model: CodecModel,
        teacher: Mapping[str, Any],
        phases: tuple[float, float] = (0.6, 0.8),
        features: float = 0.1,
        teacher_width: float = 1.0,
        beta: float = 0.01,
        transform_rate: float = TRANSFORM_RATE,
    ):
        super().__init__(beta, transform_rate)
        first, second = phases
        if not 0 < first <= second <= 1:
            raise UsageError(f"phases={phases}: two rising shares of the run are needed")
        _not_negative(features=features)
        self.phases, self.features = (first, second), features
        transform = _transform(model)
        half, quarter, eighth = (round(teacher_width * width) for width in transform.widths)
        if min(half, quarter, eighth) < 1:
            raise UsageError(f"teacher_width={teacher_width}: choose a positive factor, such as 2")
        self.teacher = Synthesis(transform.latent, (half, quarter, eighth), transform.make, **teacher)
        pass_through(self.teacher)
        _keep_size(self.teacher, transform.g_s)
        _copy_equal(transform.g_s, self.teacher)
        self.adapters = nn.ModuleDict(
            {
                name: nn.Identity() if mine == theirs else conv1x1(mine, theirs)
                for name, mine, theirs in zip(
                    Synthesis.HINTS, transform.widths[::-1], (eighth, quarter, half), strict=True
                )
            }
        )
        self.progress = 0.0
        self._held: dict[nn.Parameter, RemovableHandle] = {}

    @property
    def phase(self) -> int:
        """1, 2 or 3."""
        return 1 + sum(self.progress >= border for border in self.phases)

    def begin(self, model: CodecModel, progress: float) -> None:
        self.progress = progress
        transform, entropy = _transform(model), model.entropy_model
        student = transform.g_s
        if self.phase == 1:  # the student follows, so that its average is young when its turn comes
            _copy_equal(self.teacher, student)
        _learn(self.teacher.parameters(), self.phase == 1)
        _learn(transform.g_a.parameters(), self.phase == 1)
        _learn(student.parameters(), self.phase > 1)
        _learn(self.adapters.parameters(), self.phase > 1)
        quantiles = [p for name, p in entropy.named_parameters() if name.endswith("quantiles")]
        others = [p for name, p in entropy.named_parameters() if not name.endswith("quantiles")]
        _learn(others, self.phase != 2)
        self._hold(quantiles, self.phase == 2)
        gains = _gains(model)
        if gains is not None:  # they decide the symbols, as the analysis does
            _learn(gains.parameters(), self.phase == 1)

    def _hold(self, quantiles: Iterable[nn.Parameter], wanted: bool) -> None:
        """Hold what the training loop's auxiliary loss moves, or let it go.

        That loss depends on nothing else, so that it needs a gradient to exist; an optimiser leaves alone what has
        lost it by the time of the step.
        """
        for parameter in quantiles:
            if wanted and parameter not in self._held:
                self._held[parameter] = parameter.register_post_accumulate_grad_hook(_forget_gradient)
            elif not wanted and parameter in self._held:
                self._held.pop(parameter).remove()

    def forward(self, model: CodecModel, x: Tensor, level: Tensor) -> Terms:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.phase != 2):
            latent, likelihoods, magnitude = _walk(model, x, level)
        if self.phase == 1:
            return self.base(likelihoods, magnitude, x, self.teacher(latent), level)
        with torch.no_grad():
            taught, their_hints = self.teacher.with_hints(latent)
        x_hat, hints = _transform(model).g_s.with_hints(latent)
        terms = self.base(likelihoods, magnitude, x, x_hat, level)
        imitation = distortion(_TEACHER_WEIGHT * _mse(x_hat, taught), level)
        return terms._replace(loss=terms.loss + imitation + self._feature_loss(hints, their_hints))

    def _feature_loss(self, hints: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
        """Distance of the features of each sample, (B,), relative to the variance of the teacher's."""
        weight = self.features
        if self.phase == 3:
            weight *= (1 - self.progress) / (1 - self.phases[1])
        parts = [
            _mse(self.adapters[name](hint), theirs[name]) / theirs[name].float().var((1, 2, 3))
            for name, hint in hints.items()
        ]
        return weight * torch.stack(parts).sum(0)

    def helper_rate_factor(self, name: str) -> float:
        """The teacher learns as the synthesis does that it stands for, its offsets slowly; adapters freely."""
        of_synthesis = name.removeprefix("teacher.")
        return 1.0 if of_synthesis == name else self.learning_rate_factor(f"transform.g_s.{of_synthesis}")


def objective(model: CodecModel, distillation: bool | None = None, **settings: Any) -> Objective:
    """Distillation where the preset names a teacher, unless it is switched off; else the plain loss.

    Raises:
        UsageError: distillation is asked for, but the preset names no teacher.
    """
    teacher = _transform(model).teacher
    if distillation and teacher is None:
        raise UsageError("this preset has no teacher to learn from: leave distillation out")
    if teacher is None or distillation is False:
        return Sparse(**settings)
    return Distillation(model, teacher, **settings)


def _transform(model: CodecModel) -> DeformableTransform:
    assert isinstance(model.transform, DeformableTransform)
    return model.transform


def _gains(model: CodecModel) -> RateGains | None:
    assert isinstance(model.entropy_model, HyperpriorEntropy)
    return model.entropy_model.gains


def _not_negative(**weights: float) -> None:
    for name, value in weights.items():
        if not value >= 0:
            raise UsageError(f"{name}={value}: choose 0 or more")


def _walk(model: CodecModel, x: Tensor, level: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The latent as decoded (B, M, h, w), likelihoods, and the magnitude of the latent in steps, (B,).

    The magnitude is that of y before it is rounded: one of symbols would have no gradient where they are 0.
    """
    entropy = model.entropy_model
    assert isinstance(entropy, HyperpriorEntropy)
    seen: list[Tensor] = []
    handle = entropy.h_a.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        (latent,), coder = model.estimate(x, level)
    finally:
        handle.remove()
    gains = entropy.gains
    scale = 1.0 if gains is None else gains(level).scale.detach()
    return latent, coder.likelihoods, (seen[0].float() * scale).abs().sum((1, 2, 3))


def _mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each sample, (B,)."""
    return (a.float() - b.float()).square().mean((1, 2, 3))


def _learn(parameters: Iterable[nn.Parameter], wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(wanted)


def _forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _keep_size(teacher: Synthesis, student: Synthesis) -> None:
    """Divide what comes out of blocks that the teacher alone has by what they multiply it by at the start.

    So the parts that both have see the same in both: a teacher begins with the student's picture, and its parts suit
    a student that has no such blocks.
    """
    own = dict(student.named_children())
    for name, block in teacher.named_children():
        if name not in own and gain(block) != 1:
            block.register_forward_hook(partial(_divided, gain(block)))


def _divided(divisor: float, block: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    return out / divisor


@torch.no_grad()
def _copy_equal(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters that have the same name and shape in both."""
    found = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        if name in found and found[name].shape == parameter.shape:
            found[name].copy_(parameter)
