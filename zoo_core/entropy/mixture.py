"""Mixtures of normal, Laplace and logistic distributions: parameters, and likelihoods that can be trained.

Source: the discretised Gaussian-Laplacian-logistic mixture (GLLMM; Fu et al., arXiv 2107.06463). The integer
form of a mixture, which files are written with, is in `zoo_core.entropy.integer_mixture`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo_core.layers.bound import lower_bound

SCALE_BOUND = 0.11
LIKELIHOOD_BOUND = 1e-6
FAMILIES = ("normal", "laplace", "logistic")


@dataclass(frozen=True)
class MixtureParameters:
    """A mixture of K components for every symbol.

    Attributes:
        families: family of each component, K names out of `FAMILIES`.
        weight: (B, K, C, H, W), not negative, sums to 1 over the components.
        mean, scale: (B, K, C, H, W); the scale is the deviation of a normal component, and Laplace's and the
            logistic distribution's own scale.
    """

    families: tuple[str, ...]
    weight: Tensor
    mean: Tensor
    scale: Tensor

    def scaled(self, factor: Tensor) -> MixtureParameters:
        """The mixture of a variable that is multiplied by `factor`, (B, C, 1, 1)."""
        factor = factor[:, None]
        return replace(self, mean=self.mean * factor, scale=self.scale * factor)

    def without(self, least: Tensor) -> MixtureParameters:
        """The mixture whose components of a weight up to `least` have none; what others have above it is kept.

        One broad component of no matter what weight makes the window of a symbol as wide as windows get. The
        weights change continuously, so that machines which differ in the last bits of one do not differ here.
        """
        weight = (self.weight - least).relu()
        return replace(self, weight=weight / weight.sum(1, keepdim=True))

    def to(self, dtype: torch.dtype) -> MixtureParameters:
        """The same mixture in another precision."""
        return replace(
            self, weight=self.weight.to(dtype), mean=self.mean.to(dtype), scale=self.scale.to(dtype)
        )


def mixture_likelihood(x: Tensor, parameters: MixtureParameters) -> Tensor:
    """Probability of the interval x +- 1/2, (B, C, H, W), differentiable.

    The distributions are symmetric, so both ends are evaluated on the side where the cumulative functions
    are small and their difference keeps its precision.
    """
    scale = lower_bound(parameters.scale, SCALE_BOUND)
    distance = (x[:, None] - parameters.mean).abs()  # (B, K, C, H, W)
    upper, lower = (0.5 - distance) / scale, (-0.5 - distance) / scale
    parts = [
        parameters.weight[:, k] * (_CUMULATIVE[family](upper[:, k]) - _CUMULATIVE[family](lower[:, k]))
        for k, family in enumerate(parameters.families)
    ]
    return torch.stack(parts).sum(0)


def _normal(u: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-math.sqrt(0.5) * u)


def _laplace(u: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-u.abs())
    return torch.where(u < 0, tail, 1 - tail)


_CUMULATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": _normal,
    "laplace": _laplace,
    "logistic": torch.sigmoid,
}
