"""Channel slices in a checkerboard with adaptive channel-wise and global contexts (ACGC; arXiv 2403.14471).

y (M, H/16) -> z = h_a(y) (Z, H/64);  z_hat -- h_s --> hyper features (2P, H/16)
slice by slice, each with AC and AG of the slices before it:
    anchors, given AC, AG and the hyper features; then their residual prediction
    the others, given the same and a 5x5 convolution of the anchors; then their residual prediction

The residual prediction sees the second half of the hyper features, the slices before, and what is decoded of the
slice itself.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo_core.entropy.autoregressive import ChannelAutoregression
from zoo_core.entropy.coder import Coder
from zoo_core.entropy.hyperprior import HyperpriorEntropy
from zoo_core.layers.rate import Gain
from zoo_core.layers.residual import PreciseConv2d, conv3x3, subpel_conv
from zoo_s2lic.slices import AdaptiveSlice, SliceSizes


class AdaptiveEntropy(HyperpriorEntropy):
    """The entropy model of the module's docstring.

    Args:
        slices: channels of each slice of y. hyper_latent: channels Z of z. params: channels P.
        hyper_widths: inside the hyper synthesis.
        variable_rate: one set of weights for all levels, by gains.
        sizes: of the slices' networks, and switches: see `SliceSizes`.
    """

    def __init__(
        self,
        slices: tuple[int, ...],
        hyper_latent: int,
        params: int,
        hyper_widths: tuple[int, int],
        variable_rate: bool = False,
        **sizes: Any,
    ):
        latent, chosen = sum(slices), SliceSizes(params, **sizes)
        h_a = hyper_analysis(latent, hyper_latent)
        h_s = hyper_synthesis(hyper_latent, hyper_widths, 2 * params)
        super().__init__(latent, hyper_latent, 2 * params, h_a, h_s, variable_rate)
        self.slices = ChannelAutoregression(
            slices, lambda _, before, width: AdaptiveSlice(before, width, chosen)
        )

    def code_latent(self, coder: Coder, y: Tensor | None, features: Tensor, gain: Gain | None) -> Tensor:
        return self.slices.code(coder, "y", y, (features,), gain)


def hyper_analysis(latent: int, hyper_latent: int) -> nn.Sequential:
    """h_a: (B, M, H, W) -> (B, Z, H/4, W/4), five 3x3 convolutions."""
    layers: list[nn.Module] = [conv3x3(latent, hyper_latent), nn.GELU()]
    for stride in (1, 2, 1):
        layers += [conv3x3(hyper_latent, hyper_latent, stride), nn.GELU()]
    return _kept_alive(nn.Sequential(*layers, PreciseConv2d(hyper_latent, hyper_latent, 3, 2, 1)))


def hyper_synthesis(hyper_latent: int, widths: tuple[int, int], out_ch: int) -> nn.Sequential:
    """h_s: (B, Z, H/4, W/4) -> (B, out, H, W), the layers of MLIC."""
    narrow, wide = widths
    return _kept_alive(
        nn.Sequential(
            conv3x3(hyper_latent, narrow),
            nn.GELU(),
            subpel_conv(narrow, narrow, 2),
            nn.GELU(),
            conv3x3(narrow, wide),
            nn.GELU(),
            subpel_conv(wide, wide, 2),
            nn.GELU(),
            conv3x3(wide, out_ch),
        )
    )


def _kept_alive(layers: nn.Sequential) -> nn.Sequential:
    """Torch's default weights shrink what passes five layers a hundredfold, and z would round to zero."""
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return layers
