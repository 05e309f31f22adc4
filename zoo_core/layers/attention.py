"""Gated residual attention of the convolutional codecs (Cheng et al. 2020, without the non-local block)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.layers.residual import conv1x1, conv3x3, residual_blocks


class ResidualUnit(nn.Module):
    """x + 1x1, 3x3, 1x1 convolutions through half of the channels, with ReLU between. (B, C, H, W) stays.

    `activated`: ReLU after the sum too.
    """

    def __init__(self, channels: int, activated: bool = True):
        super().__init__()
        self.activated = activated
        half = channels // 2
        self.conv = nn.Sequential(
            conv1x1(channels, half),
            nn.ReLU(inplace=True),
            conv3x3(half, half),
            nn.ReLU(inplace=True),
            conv1x1(half, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.conv(x)
        return F.relu(out, inplace=True) if self.activated else out


class GatedAttention(nn.Module):
    """(B, in, H, W) -> (B, out, H, W) through `width` channels, with `units` residual units in each branch.

    Source: the official code of WeConvene, there without its window attention.
    """

    def __init__(self, in_ch: int, out_ch: int, width: int, units: int):
        super().__init__()
        self.enter = conv1x1(in_ch, width)
        self.non_local = nn.Sequential(*residual_blocks(width, 2 if units > 1 else 1))
        self.trunk = nn.Sequential(*(ResidualUnit(width) for _ in range(units)))
        self.gate = nn.Sequential(*(ResidualUnit(width) for _ in range(units)), conv1x1(width, width))
        self.leave = conv1x1(width, out_ch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        gate = torch.sigmoid(self.gate(self.non_local(x)))
        return self.leave(self.trunk(x) * gate + x)
