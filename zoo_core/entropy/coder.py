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
from zoo_core.entropy.integer_mixture import IntegerMixture
from zoo_core.entropy.mixture import LIKELIHOOD_BOUND as MIXTURE_BOUND
from zoo_core.entropy.mixture import MixtureParameters, mixture_likelihood
from zoo_core.entropy.tables import SKIP_SCALE, TOTAL
from zoo_core.interfaces import Shape
from zoo_core.layers.bound import lower_bound, round_ste
from zoo_core.layers.rate import Gain

SCALE_BOUND = 0.11
LIKELIHOOD_BOUND = 1e-9
_VARINT_ENDS = (1 << 6, 1 << 13, 1 << 20)
"""Magnitudes from which an escaped symbol takes another byte (docs/format.md, "Symbols payload")."""


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

    def mixture(
        self, name: str, latent: Tensor | None, parameters: MixtureParameters, gain: Gain | None = None
    ) -> Tensor:
        """Code a latent (B, C, H, W) with a mixture for every element, given on the latent's own scale.

        Symbols are round(latent * gain.scale); they count from zero, since a mixture has no centre.
        """
        raise NotImplementedError(f"{type(self).__name__} codes no mixtures")

    def channels(self, name: str, latent: Tensor | None, count: int, gain: Gain | None = None) -> Tensor:
        """Which of the `count` channels of a latent (B, C, H, W) hold a symbol that is not 0; bool (C,).

        Costs one bit a channel. Symbols are those of `mixture`. For a batch: in any of its pictures.
        """
        raise NotImplementedError(f"{type(self).__name__} codes no channel flags")


class Estimator(Coder):
    """Sums likelihoods instead of writing symbols; differentiable.

    In training the likelihood sees additive uniform noise, and the walk goes on with values rounded
    straight through (Minnen and Singh 2020) or with the noisy ones (Balle et al. 2018). Otherwise symbols are
    rounded as in a file, those under the skip threshold included, and symbols that a table leaves to its escape
    cost what an escape costs, however rare they are.

    Args:
        training: add noise.
        noise_downstream: the walk goes on with the noisy values.
    """

    def __init__(self, training: bool, noise_downstream: bool = False):
        self.training = training
        self.noise_downstream = noise_downstream
        self._likelihoods: dict[str, list[Tensor]] = {}
        self._values: dict[str, list[Tensor]] = {}

    @property
    def likelihoods(self) -> dict[str, Tensor]:
        """(B, C, H, W) per step name, in coding order."""
        return {name: torch.cat(parts, 1) for name, parts in self._likelihoods.items()}

    @property
    def values(self) -> dict[str, Tensor]:
        """The latents that the walk went on with, (B, C, H, W) per step name, for losses on them."""
        return {name: torch.cat(parts, 1) for name, parts in self._values.items()}

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        step = 1.0 if gain is None else _wide(gain.step)
        scale = 1.0 if gain is None else _wide(gain.scale)
        symbols, seen = self._quantise((_wide(latent) - prior.medians) * scale)
        # The interval of one symbol is one step wide where the density is learned.
        likelihood = prior.likelihood(seen * step + prior.medians, 0.5 * step)
        likelihood = self._bounded(likelihood, symbols)
        return self._add(name, likelihood, symbols * step + prior.medians)

    def gaussian(self, name, latent, mean, scale, gain=None):
        mean, deviation = _wide(mean), _wide(scale)
        residual = _wide(latent) - mean
        if gain is not None:
            residual, deviation = residual * _wide(gain.scale), deviation * _wide(gain.scale)
        symbols, seen = self._quantise(residual)
        likelihood = self._bounded(_gaussian_likelihood(seen, deviation), symbols, deviation)
        if not self.training:
            skipped = deviation <= SKIP_SCALE
            symbols, likelihood = symbols.masked_fill(skipped, 0), likelihood.masked_fill(skipped, 1)
        return self._add(name, likelihood, mean + (symbols if gain is None else symbols * _wide(gain.step)))

    def mixture(self, name, latent, parameters, gain=None):
        latent, parameters = _wide(latent), parameters.to(_wide(parameters.mean).dtype)
        if gain is not None:
            latent, parameters = latent * _wide(gain.scale), parameters.scaled(_wide(gain.scale))
        symbols, seen = self._quantise(latent)
        if self.training or latent.is_meta:
            likelihood = mixture_likelihood(seen, parameters)
        else:
            certain = IntegerMixture.nearest(parameters).certain().to(symbols.device).view_as(symbols)
            symbols = symbols.masked_fill(certain, 0)
            likelihood = mixture_likelihood(symbols, parameters).masked_fill(certain, 1)
        value = symbols if gain is None else symbols * _wide(gain.step)
        return self._add(name, lower_bound(likelihood, MIXTURE_BOUND), value)

    def channels(self, name, latent, count, gain=None):
        """In training, where crops are small and every channel has to learn, all of them, free of charge."""
        if self.training or latent.is_meta:
            return torch.ones(count, dtype=torch.bool)
        symbols = (latent if gain is None else latent * gain.scale).round()
        bit = symbols.new_full((len(symbols), count, 1, 1), 0.5)
        self._likelihoods.setdefault(name, []).append(bit)
        return (symbols != 0).any(0).flatten(1).any(1)

    def _quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the walk goes on with, and what the likelihood sees."""
        if not self.training:
            symbols = round_ste(x)
            return symbols, symbols
        noisy = x + torch.empty_like(x).uniform_(-0.5, 0.5)
        return (noisy if self.noise_downstream else round_ste(x)), noisy

    def _bounded(self, likelihood: Tensor, symbols: Tensor, scale: Tensor | None = None) -> Tensor:
        """Likelihoods that are never 0: with a lower bound in training, else those of a file.

        There, a symbol rarer than half a slot costs an escape and the bytes of its value. Escapes have one slot; in
        the tables of normal variables it is a quarter of a wide `scale`.
        """
        if self.training:
            return lower_bound(likelihood, LIKELIHOOD_BOUND)
        slots = 1.0 if scale is None else (0.25 * scale).clamp_min(1)
        magnitude = symbols.abs()
        count = 1 + sum((magnitude >= end).to(likelihood.dtype) for end in _VARINT_ENDS)
        return torch.where(likelihood < 0.5 / TOTAL, slots / TOTAL * 2.0 ** (-8 * count), likelihood)

    def _add(self, name: str, likelihood: Tensor, value: Tensor) -> Tensor:
        self._likelihoods.setdefault(name, []).append(likelihood)
        self._values.setdefault(name, []).append(value)
        return value


def _wide(x: Tensor) -> Tensor:
    """Likelihoods need float32 at least, also under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def _gaussian_likelihood(x: Tensor, scale: Tensor) -> Tensor:
    """Probability that a centred normal variable lies within x +- 1/2."""
    factor = -math.sqrt(0.5) / lower_bound(scale, SCALE_BOUND)
    distance = x.abs()
    return 0.5 * (torch.erfc(factor * (0.5 - distance)) - torch.erfc(factor * (-0.5 - distance)))
