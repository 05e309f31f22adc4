"""Convolutions in the domain of a 3-D multi-level wavelet transform (3DM-WeConv).

One DWT along the channels, then several levels in space; 3x3 convolutions on the low band and 1x1
convolutions on the high bands, whose coefficients are sparse. The order (channels, then space, recursion
on the low band) and the kernel sizes are the paper's; own weights for each half of the channels and one
joint convolution over the three orientations of a level are our reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.gdn import GDN
from zoo_core.layers.precision import full_precision
from zoo_core.layers.residual import conv3x3
from zoo_core.layers.skeleton import ResidualTransform
from zoo_core.layers.wavelet import WAVELETS, dwt2, dwt_channels, idwt2, idwt_channels


class SpatialCore(nn.Module):
    """Multi-level DWT in space, a convolution and a GDN on each part, and back. (B, C, H, W) stays.

    Args:
        levels: of the DWT, at least 1. hf_kernel: size of the convolutions on the high bands, odd.
        inverse: IGDN, for the synthesis.

    Raises:
        UsageError: no such wavelet, or levels or hf_kernel make no sense.
    """

    def __init__(self, channels: int, wavelet: str, levels: int, hf_kernel: int, inverse: bool):
        super().__init__()
        if levels < 1:
            raise UsageError(f"levels={levels}: choose 1 or more")
        if hf_kernel < 1 or hf_kernel % 2 == 0:
            raise UsageError(f"hf_kernel={hf_kernel}: choose an odd size, 1 or 3")
        self.wavelet = known_wavelet(wavelet)
        self.conv_low = conv3x3(channels, channels)
        self.gdn_low = GDN(channels, inverse)
        high = 3 * channels  # LH, HL, HH
        self.conv_high = nn.ModuleList(
            nn.Conv2d(high, high, hf_kernel, 1, hf_kernel // 2) for _ in range(levels)
        )
        self.gdn_high = nn.ModuleList(GDN(high, inverse) for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        low, details, sizes = x, [], []
        for conv, gdn in zip(self.conv_high, self.gdn_high, strict=True):
            sizes.append(low.shape[-2:])
            low, *high = dwt2(low, self.wavelet)  # 4 x (B, C, H/2, W/2)
            details.append(gdn(conv(torch.cat(high, 1))))
        low = self.gdn_low(self.conv_low(low))
        for detail, size in zip(reversed(details), reversed(sizes), strict=True):
            lh, hl, hh = detail.chunk(3, 1)
            low = idwt2(low, lh, hl, hh, size, self.wavelet)
        return low


class Core3D(nn.Module):
    """The core of a residual block in the 3-D wavelet domain. (B, C, H, W) stays; C is even.

    `channel_dwt=False` leaves the transform along the channels out; with one level, 3x3 kernels and Haar
    that is WeConvene's core.

    Raises:
        UsageError: an odd number of channels, or what `SpatialCore` refuses.
    """

    def __init__(
        self,
        channels: int,
        inverse: bool,
        wavelet: str = "9/7",
        levels: int = 2,
        hf_kernel: int = 1,
        channel_dwt: bool = True,
    ):
        super().__init__()
        if channel_dwt and channels % 2:
            raise UsageError(
                f"a width of {channels} has no two halves for the DWT along the channels: choose even "
                "widths (stages, hyper), or channel_dwt=false"
            )
        self.wavelet = wavelet
        halves = 2 if channel_dwt else 1
        self.halves = nn.ModuleList(
            SpatialCore(channels // halves, wavelet, levels, hf_kernel, inverse) for _ in range(halves)
        )

    def forward(self, x: Tensor) -> Tensor:
        # A low band is the sum of its inputs, up to eight times as large: bfloat16 would lose the details under it.
        with full_precision(x):
            return self._core(x.to(next(self.parameters()).dtype))

    def _core(self, x: Tensor) -> Tensor:
        if len(self.halves) == 1:
            return self.halves[0](x)
        parts = dwt_channels(x, self.wavelet)  # 2 x (B, C/2, H, W)
        low, high = (half(part) for half, part in zip(self.halves, parts, strict=True))
        return idwt_channels(low, high, self.wavelet)


def known_wavelet(name: str) -> str:
    """`name` itself.

    Raises:
        UsageError: there is no wavelet of that name.
    """
    if name not in WAVELETS:
        raise UsageError(f"wavelet={name!r}: choose from {', '.join(WAVELETS)}")
    return name


def cores(
    wavelet: str | None, levels: int, hf_kernel: int, channel_dwt: bool
) -> Callable[[int, bool], nn.Module] | None:
    """Maker of the cores of all blocks; None, for plain blocks, if there is no wavelet."""
    if wavelet is None:
        return None
    return lambda channels, inverse: Core3D(channels, inverse, wavelet, levels, hf_kernel, channel_dwt)


class WaveletTransform3D(ResidualTransform):
    """Pictures to one latent at an eighth of the size; `stages` to `stem` as in `ResidualTransform`.

    Args:
        wavelet: of the cores; None for the ablation without them.
        levels, hf_kernel, channel_dwt: see `Core3D`.
    """

    def __init__(
        self,
        stages: tuple[tuple[int, int], tuple[int, int]],
        top: int,
        latent: int,
        stem: tuple[int, int] | None = None,
        wavelet: str | None = "9/7",
        levels: int = 2,
        hf_kernel: int = 1,
        channel_dwt: bool = True,
    ):
        super().__init__(stages, top, latent, stem, cores(wavelet, levels, hf_kernel, channel_dwt))
