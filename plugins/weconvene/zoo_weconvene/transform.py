"""Analysis and synthesis with convolutions in the wavelet domain (WeConv; WeConvene section 3).

The paper's stem (residual blocks at full size) holds 70 % of the analysis' multiplications; the base
preset starts with the first halving instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo_core.layers.gdn import GDN
from zoo_core.layers.residual import conv3x3
from zoo_core.layers.skeleton import ResidualTransform
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


def cores(wavelet: str | None) -> Callable[[int, bool], nn.Module] | None:
    """Maker of the cores of all blocks; None, for plain blocks, if there is no wavelet."""
    return None if wavelet is None else lambda channels, inverse: WeCore(channels, wavelet, inverse)


class WeConveneTransform(ResidualTransform):
    """Pictures to one latent at an eighth of the size; arguments as in `ResidualTransform`.

    `wavelet` is that of the WeConv blocks; None for the ablation without them.
    """

    def __init__(
        self,
        stages: tuple[tuple[int, int], tuple[int, int]],
        top: int,
        latent: int,
        stem: tuple[int, int] | None = None,
        wavelet: str | None = "haar",
    ):
        super().__init__(stages, top, latent, stem, cores(wavelet))
