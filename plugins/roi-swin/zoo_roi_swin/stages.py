"""The stages between two changes of size: residual Swin blocks, or convolutions of equal cost for ablation."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.residual import conv3x3
from zoo_core.layers.swin import SwinStage

Blocks = Literal["swin", "conv"]


class ConvBlock(nn.Module):
    """x + two 3x3 convolutions through `hidden` channels. (B, C, H, W) stays."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.conv1 = conv3x3(channels, hidden)
        self.conv2 = conv3x3(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(x)))


class ConvStage(nn.Module):
    """x + `depth` blocks of convolutions, each as many multiplications as a Swin block. (B, C, H, W) stays."""

    def __init__(self, channels: int, depth: int, window: int, mlp_ratio: float):
        super().__init__()
        # Per position: 4 C^2 for q, k, v and the projection, 2 r C^2 for the MLP, 2 w^2 C for the attention.
        hidden = round(((4 + 2 * mlp_ratio) * channels + 2 * window**2) / 18)
        self.blocks = nn.Sequential(*(ConvBlock(channels, hidden) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


def stage(kind: Blocks, channels: int, depth: int, heads: int, window: int, mlp_ratio: float) -> nn.Module:
    """A residual Swin block (RSTB) of version 1, or what stands in for it: x + `depth` blocks."""
    if kind == "swin":
        return SwinStage(channels, depth, heads, window, mlp_ratio, version=1)
    if kind == "conv":
        return ConvStage(channels, depth, window, mlp_ratio)
    raise UsageError(f"blocks={kind}: choose swin or conv")
