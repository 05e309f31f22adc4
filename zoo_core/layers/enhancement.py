"""Feature enhancement: a residual network on pictures, before an analysis and after a synthesis.

At full size its narrow convolutions cost much: `fold` turns blocks of fold x fold pixels into channels first.
Sources: the dense module of InvCompress (Xie et al., ACM MM 2021), which S2LIC names; three consecutive
convolutions as in the abstract of Res-SwinV2 (arXiv 2308.11864).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.residual import conv1x1, conv3x3, zeroed

SLOPE = 0.2
_GAIN = 0.1
Kind = Literal["dense", "plain", "none"]


class Enhancement(nn.Module):
    """x + factor * body(x), with blocks of `fold` x `fold` pixels as channels inside: (B, 3, H, W) stays.

    H and W must be multiples of `fold`. The body starts small, so that training starts near the identity.
    """

    def __init__(self, body: nn.Sequential, fold: int, factor: float):
        super().__init__()
        self.body, self.fold, self.factor = body, fold, factor

    @property
    def last(self) -> nn.Conv2d:
        """The convolution that the body ends in; with zeros in it, the module is the identity."""
        return [module for module in self.body.modules() if isinstance(module, nn.Conv2d)][-1]

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(F.pixel_unshuffle(x, self.fold))
        return x + self.factor * F.pixel_shuffle(out, self.fold)


class DenseBlock(nn.Module):
    """Five 3x3 convolutions, each sees the input and all outputs before: (B, in, H, W) -> (B, out, H, W).

    Args:
        growth: channels of each of the first four.
    """

    def __init__(self, in_ch: int, out_ch: int, growth: int):
        super().__init__()
        self.grow = nn.ModuleList(conv3x3(in_ch + i * growth, growth) for i in range(4))
        self.last = conv3x3(in_ch + 4 * growth, out_ch)
        for conv in (*self.grow, self.last):
            nn.init.xavier_normal_(conv.weight, _GAIN)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.grow:
            x = torch.cat([x, F.leaky_relu(conv(x), SLOPE)], 1)
        return self.last(x)


def dense_enhancement(width: int, growth: int, fold: int = 1) -> Enhancement:
    """Two dense blocks around 1x1, 3x3 and 1x1 convolutions of `width` channels, no activations between."""
    pixels = 3 * fold**2
    body = nn.Sequential(
        DenseBlock(pixels, width, growth),
        conv1x1(width, width),
        conv3x3(width, width),
        conv1x1(width, width),
        DenseBlock(width, pixels, growth),
    )
    return Enhancement(body, fold, 0.2)


def plain_enhancement(width: int, fold: int = 1) -> Enhancement:
    """Three 3x3 convolutions, `width` channels between them."""
    pixels = 3 * fold**2
    body = nn.Sequential(
        conv3x3(pixels, width),
        nn.LeakyReLU(SLOPE),
        conv3x3(width, width),
        nn.LeakyReLU(SLOPE),
        conv3x3(width, pixels),
    )
    module = Enhancement(body, fold, 1.0)
    with torch.no_grad():
        nn.init.kaiming_normal_(zeroed(module.last).weight).mul_(_GAIN)
    return module


def enhancement(kind: Kind, width: int, growth: int, fold: int) -> nn.Module:
    """The enhancement `kind`: "dense", "plain" (three convolutions), or "none".

    Raises:
        UsageError: there is no such kind.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "plain":
        return plain_enhancement(width, fold)
    if kind == "dense":
        return dense_enhancement(width, growth, fold)
    raise UsageError(f"enhancement={kind}: choose dense, plain or none")
