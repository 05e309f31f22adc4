"""Analysis and synthesis with convolutions in the wavelet domain (WeConv; WeConvene section 3).

    x (3, H, W) -> [stem at full size] -> WeDown -> RBs -> WeDown -> RBs -> conv, stride 2 -> y (M, H/8, W/8)
    y -> RBU(1) -> RBs -> WeUp -> RBs -> WeUp -> RBs -> subpel -> x_hat (3, H, W)

The paper's stem (residual blocks at full size) holds 70 % of the analysis' multiplications; the base
preset starts with the first WeDown instead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.interfaces import Shape, Transform
from zoo_core.layers.gdn import GDN
from zoo_core.layers.residual import (
    SLOPE,
    PreciseConv2d,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    StridedPointwise,
    conv3x3,
    subpel_conv3x3,
)
from zoo_core.layers.wavelet import dwt2, idwt2


class WeCore(nn.Module):
    """Convolve and normalise the low and the high bands of a DWT apart, then transform back.

    (B, C, H, W) stays. Takes the place of "3x3 convolution, then GDN" in a residual block.
    """

    def __init__(self, channels: int, wavelet: str, inverse: bool):
        super().__init__()
        self.wavelet = wavelet
        self.conv_low = conv3x3(channels, channels)
        self.conv_high = conv3x3(3 * channels, 3 * channels)  # dense over LH, HL, HH
        self.gdn_low = GDN(channels, inverse)
        self.gdn_high = GDN(3 * channels, inverse)

    def forward(self, x: Tensor) -> Tensor:
        ll, *high = dwt2(x, self.wavelet)  # 4 x (B, C, H/2, W/2)
        low = self.gdn_low(self.conv_low(ll))
        lh, hl, hh = self.gdn_high(self.conv_high(torch.cat(high, 1))).chunk(3, 1)
        return idwt2(low, lh, hl, hh, x.shape[-2:], self.wavelet)


class WeDown(nn.Module):
    """(B, in, H, W) -> (B, out, H/2, W/2): strided residual block whose second convolution is a WeCore."""

    def __init__(self, in_ch: int, out_ch: int, wavelet: str):
        super().__init__()
        self.conv1 = conv3x3(in_ch, out_ch, 2)
        self.core = WeCore(out_ch, wavelet, inverse=False)
        self.skip = StridedPointwise(in_ch, out_ch, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.core(F.leaky_relu(self.conv1(x), SLOPE, inplace=True)) + self.skip(x)


class WeUp(nn.Module):
    """(B, in, H, W) -> (B, out, 2H, 2W): upsampling residual block whose second convolution is a WeCore."""

    def __init__(self, in_ch: int, out_ch: int, wavelet: str):
        super().__init__()
        self.subpel = subpel_conv3x3(in_ch, out_ch, 2)
        self.core = WeCore(out_ch, wavelet, inverse=True)
        self.skip = subpel_conv3x3(in_ch, out_ch, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.core(F.leaky_relu(self.subpel(x), SLOPE, inplace=True)) + self.skip(x)


def down(in_ch: int, out_ch: int, wavelet: str | None) -> nn.Module:
    """Halve the size: WeDown, or the plain block of the ablation if there is no wavelet."""
    return WeDown(in_ch, out_ch, wavelet) if wavelet else ResidualBlockWithStride(in_ch, out_ch, 2)


def up(in_ch: int, out_ch: int, wavelet: str | None) -> nn.Module:
    """Double the size: WeUp, or the plain block of the ablation if there is no wavelet."""
    return WeUp(in_ch, out_ch, wavelet) if wavelet else ResidualBlockUpsample(in_ch, out_ch, 2)


def blocks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]


class WeConveneTransform(Transform):
    """Pictures to one latent at an eighth of the size.

    Args:
        stages: (channels, residual blocks) at 1/2 and at 1/4 of the size.
        top: channels of the synthesis at 1/8.
        latent: channels M of y.
        stem: (channels, residual blocks) at full size; None to start with the first WeDown.
        wavelet: of the WeConv blocks; None for the ablation without them.
    """

    downscale = 8

    def __init__(
        self,
        stages: tuple[tuple[int, int], tuple[int, int]],
        top: int,
        latent: int,
        stem: tuple[int, int] | None = None,
        wavelet: str | None = "haar",
    ):
        super().__init__()
        self.latent = latent
        (half, half_blocks), (quarter, quarter_blocks) = stages
        first, stem_layers = 3, []
        if stem is not None:
            first = stem[0]
            stem_layers = [ResidualBlockWithStride(3, first, 1), *blocks(*stem)]
        self.g_a = nn.Sequential(
            *stem_layers,
            down(first, half, wavelet),
            *blocks(half, half_blocks),
            down(half, quarter, wavelet),
            *blocks(quarter, quarter_blocks),
            PreciseConv2d(quarter, latent, 3, 2, 1),
        )
        self.g_s = nn.Sequential(
            ResidualBlockUpsample(latent, top, 1),
            *blocks(top, quarter_blocks),
            up(top, quarter, wavelet),
            *blocks(quarter, quarter_blocks),
            up(quarter, half, wavelet),
            *blocks(half, half_blocks),
            subpel_conv3x3(half, 3, 2, precise=True),
        )

    def analysis(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.g_a(x),)

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        return self.g_s(latents[0])

    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        return ((self.latent, height // 8, width // 8),)
