"""One set of weights for every rate: gains that set the quantisation step of each channel.

Source: Cui et al., Asymmetric Gained Deep Image Compression With Continuous Rate Adaptation (CVPR 2021).
A level is a real number from 1 to 6; between two whole levels the gains are interpolated geometrically.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo_core.constants import LAMBDAS

LEVELS = len(LAMBDAS)


class Gain(NamedTuple):
    """Per-channel factors, each (B, C, 1, 1): symbols = round(latent * scale), latent = symbols * step."""

    scale: Tensor
    step: Tensor

    def narrow(self, start: int, length: int) -> Gain:
        """The gains of `length` channels from `start` on."""
        return Gain(self.scale.narrow(1, start, length), self.step.narrow(1, start, length))


def interpolate(table: Tensor, level: Tensor) -> Tensor:
    """Rows of `table` (6, C) at real levels (B,) -> (B, C), linear between neighbours."""
    position = (level - 1).clamp(0, LEVELS - 1)
    below = position.floor().long().clamp_max(LEVELS - 2)
    weight = (position - below).to(table.dtype)[:, None]
    return torch.lerp(table[below], table[below + 1], weight)


class RateGains(nn.Module):
    """Gain and inverse gain of `channels` channels at every level, positive by construction.

    They start where uniform quantisation of an orthonormal transform is optimal: proportional to the
    square root of lambda, and 1 in the middle between the third and the fourth level.
    """

    def __init__(self, channels: int):
        super().__init__()
        log_lambda = torch.tensor(LAMBDAS, dtype=torch.float64).log()
        start = (0.5 * (log_lambda - log_lambda.mean())).float()[:, None].repeat(1, channels)  # (6, C)
        self.log_scale = nn.Parameter(start)
        self.log_step = nn.Parameter(-start)

    def forward(self, level: Tensor) -> Gain:
        scale = interpolate(self.log_scale, level).exp()[:, :, None, None]
        step = interpolate(self.log_step, level).exp()[:, :, None, None]
        return Gain(scale, step)


class RateAffine(nn.Module):
    """Tells a feature map the level: x * (1 + a) + b, with a and b per channel and level, 0 at first."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(LEVELS, channels))
        self.bias = nn.Parameter(torch.zeros(LEVELS, channels))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        weight = interpolate(self.weight, level)[:, :, None, None]
        bias = interpolate(self.bias, level)[:, :, None, None]
        return x * (1 + weight) + bias
