"""Residual blocks of the field's convolutional transforms.

With the default slope they are CompressAI's; with slope 0.2 and a 1x1 skip those of the GLLMM family.
"""

from __future__ import annotations

from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.layers.gdn import GDN
from zoo_core.layers.inplace import added
from zoo_core.layers.precision import full_precision

SLOPE = 0.01

Conv = TypeVar("Conv", bound=nn.Conv2d | nn.ConvTranspose2d)


def conv3x3(in_ch: int, out_ch: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_ch, out_ch, 3, stride, 1)


def conv1x1(in_ch: int, out_ch: int) -> nn.Conv2d:
    return nn.Conv2d(in_ch, out_ch, 1)


def zeroed(conv: Conv) -> Conv:
    """The convolution with zeros for weights and bias: what it feeds starts without it."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class PreciseConv2d(nn.Conv2d):
    """Convolution in the precision of its weights, also under autocast.

    For outputs that are quantised or shown: bfloat16 resolves a latent of 40 steps to a quarter of a step.
    """

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            return super().forward(x.to(self.weight.dtype))


class PreciseConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution in the precision of its weights, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            return super().forward(x.to(self.weight.dtype))


class StridedPointwise(nn.Conv2d):
    """1x1 convolution with a stride, as a plain 1x1 convolution of every `step`-th sample.

    Same result and parameters as `nn.Conv2d(..., 1, stride)`, whose backward pass over three channels
    in channels_last corrupts memory in torch 2.13 on the CPU.
    """

    def __init__(self, in_ch: int, out_ch: int, step: int):
        super().__init__(in_ch, out_ch, 1)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., :: self.step, :: self.step])


def subpel_conv(
    in_ch: int, out_ch: int, upscale: int = 1, kernel: int = 3, precise: bool = False
) -> nn.Sequential:
    """Upsample by `upscale`: a convolution to out_ch * upscale^2 channels, then pixel shuffle."""
    kind = PreciseConv2d if precise else nn.Conv2d
    return nn.Sequential(kind(in_ch, out_ch * upscale**2, kernel, 1, kernel // 2), nn.PixelShuffle(upscale))


class ResidualBlock(nn.Module):
    """x + two 3x3 convolutions, each with LeakyReLU of `slope`. (B, C, H, W) stays."""

    def __init__(self, channels: int, slope: float = SLOPE):
        super().__init__()
        self.slope = slope
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv1(x), self.slope, inplace=True)
        return added(F.leaky_relu(self.conv2(out), self.slope, inplace=True), x)


def residual_blocks(channels: int, count: int, slope: float = SLOPE) -> list[nn.Module]:
    """`count` residual blocks, to be put into a sequence."""
    return [ResidualBlock(channels, slope) for _ in range(count)]


class ResidualBlockWithStride(nn.Module):
    """(B, in, H, W) -> (B, out, H/stride, W/stride), with GDN at the end of the main branch."""

    def __init__(self, in_ch: int, out_ch: int, stride: int = 2, slope: float = SLOPE):
        super().__init__()
        self.slope = slope
        self.conv1 = conv3x3(in_ch, out_ch, stride)
        self.conv2 = conv3x3(out_ch, out_ch)
        self.gdn = GDN(out_ch)
        changes = stride != 1 or in_ch != out_ch
        self.skip = StridedPointwise(in_ch, out_ch, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv1(x), self.slope, inplace=True)
        return added(self.gdn(self.conv2(out)), self.skip(x))


class ResidualBlockUpsample(nn.Module):
    """(B, in, H, W) -> (B, out, upscale H, upscale W), with IGDN at the end of the main branch."""

    def __init__(self, in_ch: int, out_ch: int, upscale: int = 2, slope: float = SLOPE, skip_kernel: int = 3):
        super().__init__()
        self.slope = slope
        self.subpel = subpel_conv(in_ch, out_ch, upscale)
        self.conv = conv3x3(out_ch, out_ch)
        self.igdn = GDN(out_ch, inverse=True)
        self.skip = subpel_conv(in_ch, out_ch, upscale, skip_kernel)

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.subpel(x), self.slope, inplace=True)
        return added(self.igdn(self.conv(out)), self.skip(x))
