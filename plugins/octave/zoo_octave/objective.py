"""Information fidelity (IF): early in training, an upsampled LR latent must resemble the HR latent.

    L_IF = mean((if_y(y_l) - y_h)^2) + mean((if_z(z_l) - z_h)^2)

on the noisy latents, with gradients to both sides. So information moves into the cheap LR latent, and
cross-resolution estimation has something to work with. The official code weighs it with 1 in the first
200,000 of its 1.0 to 1.5 million steps and with 0 after; here that is the first 15 % of a run.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.model import CodecModel
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms
from zoo_octave.entropy import OctaveEntropy
from zoo_octave.layers import conv_up
from zoo_octave.transform import OctaveTransform


class InformationFidelity(Objective):
    """The objective of the module's docstring.

    Args:
        channels: (LR, HR) of y and, with a second hyper layer, of z.
        kernel: of the upsampling convolutions.
        weight: of L_IF at first. until: share of the run after which it is 0.
        transform_rate: see `Objective`.
    """

    def __init__(
        self,
        channels: dict[str, tuple[int, int]],
        kernel: int,
        weight: float = 1.0,
        until: float = 0.15,
        transform_rate: float = TRANSFORM_RATE,
    ):
        super().__init__(transform_rate)
        if weight < 0 or not 0 <= until <= 1:
            raise UsageError(f"weight={weight}, until={until}: weight is not negative, until between 0 and 1")
        self.upsample = nn.ModuleDict({name: conv_up(*pair, kernel) for name, pair in channels.items()})
        self.first_weight, self.until = weight, until
        self.weight = weight

    def begin(self, model: CodecModel, progress: float) -> None:
        self.weight = self.first_weight if progress < self.until else 0.0

    def fidelity(self, values: dict[str, Tensor]) -> Tensor:
        """L_IF of each sample, (B,), from the latents of a walk by step name."""
        losses = [
            F.mse_loss(up(values[f"{name}_l"]), values[f"{name}_h"], reduction="none").mean((1, 2, 3))
            for name, up in self.upsample.items()
        ]
        return sum(losses[1:], losses[0])

    def forward(self, model: CodecModel, x: Tensor, level: Tensor) -> Terms:
        latents_hat, coder = model.estimate(x, level)
        out = {"x_hat": model.transform.synthesis(latents_hat), "likelihoods": coder.likelihoods}
        loss, bpp, mse = rate_distortion(x, out, level)
        if self.weight:
            loss = loss + self.weight * self.fidelity(coder.values)
        return Terms(loss, bpp, mse)


def objective(model: CodecModel, **settings: float) -> Objective:
    """Rate and distortion, with L_IF where there are two resolutions.

    Its weight is 1 at first, as published, for presets that train with noisy latents; for those that round, 0:
    the latents of the block-transform start share nothing, so at low rates the term outweighs all the rest.

    Raises:
        UsageError: a setting that this model's objective does not have, or a value that makes no sense.
    """
    transform, entropy = model.transform, model.entropy_model
    assert isinstance(transform, OctaveTransform) and isinstance(entropy, OctaveEntropy)
    y = transform.latent
    _known(settings, ("transform_rate", "weight", "until") if y.low else ("transform_rate",))
    if not y.low:
        return Objective(**settings)
    channels = {"y": (y.low, y.high)}
    if entropy.h_a2 is not None:
        channels["z"] = (entropy.hyper.low, entropy.hyper.high)
    settings = {"weight": 1.0 if entropy.noise_downstream else 0.0, **settings}
    return InformationFidelity(channels, entropy.hyper_kernel, **settings)


def _known(settings: dict[str, float], names: tuple[str, ...]) -> None:
    if unknown := [name for name in settings if name not in names]:
        raise UsageError(
            f"the objective of octave with {'two resolutions' if 'weight' in names else 'one resolution'} has no "
            f"{', '.join(unknown)}: choose from {', '.join(names)}"
        )
