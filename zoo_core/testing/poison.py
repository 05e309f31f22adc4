"""A coder that proves causality: whatever the walk has not yet coded is poison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_core.entropy.coder import Coder


@dataclass
class Step:
    """What a walk asked the coder at one step."""

    name: str
    mean: Tensor | None
    scale: Tensor | None


class Recorder(Coder):
    """Rounds like a file, records every step, and may return poison for one of them.

    With `poisoned` = k, step k returns NaN. Every earlier step must then have asked with the same
    parameters as without poison, and none of its parameters may be NaN.
    """

    def __init__(self, poisoned: int | None = None):
        self.poisoned = poisoned
        self.steps: list[Step] = []

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        self.steps.append(Step(name, None, None))
        return self._result(latent.round())

    def gaussian(self, name, latent, mean, scale, gain=None):
        self.steps.append(Step(name, mean.clone(), scale.clone()))
        return self._result(mean + (latent - mean).round())

    def mixture(self, name, latent, parameters, gain=None):
        self.steps.append(
            Step(name, torch.cat([parameters.weight, parameters.mean], 1), parameters.scale.clone())
        )
        return self._result(latent.round())

    def channels(self, name, latent, count, gain=None):
        # Known to the decoder before the symbols, and no number that could carry poison.
        symbols = latent if gain is None else latent * gain.scale
        return (symbols.round() != 0).any(0).flatten(1).any(1)

    def _result(self, value: Tensor) -> Tensor:
        return torch.full_like(value, float("nan")) if self.poisoned == len(self.steps) - 1 else value
