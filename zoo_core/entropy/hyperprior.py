"""Entropy models with one hyper-latent: z is coded by learned densities, then y with what z tells about it.

y (M, H/16) -> z = h_a(y) (Z, H/64);  z_hat -- h_s --> features (F, H/16) -> y

What every method of this kind shares is here: the order, gains for all rates, and the level's modulation of
the features. How y is coded is the method's own (Balle et al., Scale Hyperprior, ICLR 2018).
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from zoo_core.entropy.coder import Coder
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.interfaces import EntropyModel, Shape
from zoo_core.layers.rate import Gain, RateAffine, RateGains


class HyperpriorEntropy(EntropyModel):
    """The entropy model of the module's docstring.

    Args:
        latent: channels M of y. hyper_latent: channels Z of z. features: channels F of what h_s returns.
        h_a: (B, M, H, W) -> (B, Z, H/4, W/4). h_s: (B, Z, H/4, W/4) -> (B, F, H, W).
        variable_rate: one set of weights for all levels, by gains.
    """

    downscale = 4

    def __init__(
        self,
        latent: int,
        hyper_latent: int,
        features: int,
        h_a: nn.Module,
        h_s: nn.Module,
        variable_rate: bool = False,
    ):
        super().__init__()
        self.latent, self.hyper_latent = latent, hyper_latent
        self.latent_channels = (latent,)
        self.h_a, self.h_s = h_a, h_s
        self.prior = FactorizedPrior(hyper_latent)
        self.gains = RateGains(latent) if variable_rate else None
        self.hyper_gains = RateGains(hyper_latent) if variable_rate else None
        self.rate = RateAffine(features) if variable_rate else None

    def update(self) -> None:
        self.prior.update(self.hyper_gains)

    @abstractmethod
    def code_latent(self, coder: Coder, y: Tensor | None, features: Tensor, gain: Gain | None) -> Tensor:
        """Code y (B, M, H, W), None when decoding, given features (B, F, H, W); returns it as decoded."""

    def code(
        self,
        coder: Coder,
        latents: tuple[Tensor, ...] | None,
        shapes: tuple[Shape, ...],
        level: Tensor | None,
    ) -> tuple[Tensor, ...]:
        y = None if latents is None else latents[0]
        _, features = self.hyperprior(coder, None if y is None else self.h_a(y), shapes[0], level)
        return (self.code_latent(coder, y, features, self.gain(level)),)

    def gain(self, level: Tensor | None) -> Gain | None:
        """The gains of y; None for a model of one rate."""
        return None if self.gains is None else self.gains(level)

    def hyperprior(
        self, coder: Coder, z: Tensor | None, shape: Shape, level: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Code z, None when decoding, of a y of `shape`: z_hat, and the features, (B, F, H, W)."""
        z_shape = (self.hyper_latent, shape[1] // self.downscale, shape[2] // self.downscale)
        z_gain = None if self.hyper_gains is None else self.hyper_gains(level)
        z_hat = coder.factorized("z", z, self.prior, z_shape, z_gain, level)
        features = self.h_s(z_hat)
        return z_hat, features if self.rate is None else self.rate(features, level)
