"""The interface that a coding walk is written against, and its differentiable driver.

Three drivers implement `Coder`, and an entropy model's `code` runs unchanged on each:

- `Estimator` (here): likelihoods for training and for bit estimates;
- `Encoder` and `Decoder` (zoo_core.entropy.stream): real symbols of a real file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.entropy.tables import SKIP_SCALE
from zoo_core.interfaces import Shape
from zoo_core.layers.bound import lower_bound, round_ste
from zoo_core.layers.rate import Gain

SCALE_BOUND = 0.11
LIKELIHOOD_BOUND = 1e-9


class Coder(ABC):
    """Codes latents step by step. Each step returns the latent as the decoder will know it."""

    @abstractmethod
    def factorized(
        self,
        name: str,
        latent: Tensor | None,
        prior: FactorizedPrior,
        shape: Shape,
        gain: Gain | None = None,
        level: Tensor | None = None,
    ) -> Tensor:
        """Code a latent (B, C, H, W) of `shape` (C, H, W) with a learned density per channel."""

    @abstractmethod
    def gaussian(
        self, name: str, latent: Tensor | None, mean: Tensor, scale: Tensor, gain: Gain | None = None
    ) -> Tensor:
        """Code a latent (B, C, H, W) as normal with `mean` and `scale` of the same shape.

        Symbols are round((latent - mean) * gain.scale); they count from the mean, so nothing but the
        choice of the table depends on the exact value of `scale`.
        """


class Estimator(Coder):
    """Sums likelihoods instead of writing symbols; differentiable.

    In training the likelihood sees additive uniform noise and the walk goes on with values rounded
    straight through (WeConvene section 7; Minnen and Singh 2020). Otherwise symbols are rounded as in
    a file, those under the skip threshold included.

    Attributes:
        likelihoods: (B, C, H, W) per step name, in coding order.
    """

    def __init__(self, training: bool):
        self.training = training
        self._parts: dict[str, list[Tensor]] = {}

    @property
    def likelihoods(self) -> dict[str, Tensor]:
        return {name: torch.cat(parts, 1) for name, parts in self._parts.items()}

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        step = 1.0 if gain is None else _wide(gain.step)
        scale = 1.0 if gain is None else _wide(gain.scale)
        centred = (_wide(latent) - prior.medians) * scale
        symbols = round_ste(centred)
        seen = centred + torch.empty_like(centred).uniform_(-0.5, 0.5) if self.training else symbols
        # The interval of one symbol is one step wide where the density is learned.
        likelihood = prior.likelihood(seen * step + prior.medians, 0.5 * step)
        self._add(name, likelihood)
        return symbols * step + prior.medians

    def gaussian(self, name, latent, mean, scale, gain=None):
        mean, deviation = _wide(mean), _wide(scale)
        residual = _wide(latent) - mean
        if gain is not None:
            residual, deviation = residual * _wide(gain.scale), deviation * _wide(gain.scale)
        if self.training:
            symbols = round_ste(residual)
            noisy = residual + torch.empty_like(residual).uniform_(-0.5, 0.5)
            likelihood = _gaussian_likelihood(noisy, deviation)
        else:
            skipped = deviation <= SKIP_SCALE
            symbols = residual.round().masked_fill(skipped, 0)
            likelihood = _gaussian_likelihood(symbols, deviation).masked_fill(skipped, 1)
        self._add(name, likelihood)
        return mean + (symbols if gain is None else symbols * _wide(gain.step))

    def _add(self, name: str, likelihood: Tensor) -> None:
        self._parts.setdefault(name, []).append(lower_bound(likelihood, LIKELIHOOD_BOUND))


def _wide(x: Tensor) -> Tensor:
    """Likelihoods need float32 at least, also under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def _gaussian_likelihood(x: Tensor, scale: Tensor) -> Tensor:
    """Probability that a centred normal variable lies within x +- 1/2."""
    factor = -math.sqrt(0.5) / lower_bound(scale, SCALE_BOUND)
    distance = x.abs()
    return 0.5 * (torch.erfc(factor * (0.5 - distance)) - torch.erfc(factor * (-0.5 - distance)))
