"""Hyperprior with window attention, and one checkerboard over all channels: two passes at any size.

y (M, H/16) -> z = h_a(y) (Z, H/64);  z_hat -- h_s --> hyper features (F, H/16)
pass 1: anchors, given the hyper features and zeros
pass 2: the others, given the hyper features and a 5x5 convolution of the anchors, by the same network

Attention in the hyper coders too is what Res-SwinV2 claims (arXiv 2308.11864). The checkerboard is our choice
(He et al., CVPR 2021): its predecessor attends serially, with one call of the network for each position.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from zoo_core.entropy.autoregressive import convolutions
from zoo_core.entropy.checkerboard import CheckerboardSlice
from zoo_core.entropy.coder import Coder
from zoo_core.entropy.hyperprior import HyperpriorEntropy
from zoo_core.errors import UsageError
from zoo_core.layers.checkerboard import CheckerboardContext
from zoo_core.layers.rate import Gain
from zoo_core.layers.residual import PreciseConv2d, conv3x3
from zoo_core.layers.swin import SwinStage
from zoo_core.layers.swin_transform import doubling, drop_rates, halving

WINDOW = 4
"""Half of the transforms' window; hyper maps are often smaller still."""


class ResSwinEntropy(HyperpriorEntropy):
    """The entropy model of the module's docstring.

    Args:
        latent: channels M of y. hyper_latent: channels Z of z, and width of the hyper coders.
        hyper_depth, hyper_heads: blocks and heads of their stages.
        features: channels F. context_channels: of the anchors' convolution.
        parameter_widths: hidden widths of the 1x1 parameter network.
        mlp_ratio, swin_version, drop_path: of the stages. The rates of stochastic depth are the last of those
            that rise evenly over the stages of an analysis, of `depths` blocks, and of the hyper analysis.
        context: "checkerboard", or "none" for the ablation (zeros in both passes).
        hyper_attention: False for the ablation without stages in the hyper coders.
        variable_rate: one set of weights for all levels, by gains.
    """

    def __init__(
        self,
        latent: int,
        depths: tuple[int, int, int],
        hyper_latent: int,
        hyper_heads: int,
        features: int,
        context_channels: int,
        parameter_widths: tuple[int, int],
        mlp_ratio: float,
        hyper_depth: int = 1,
        context: Literal["checkerboard", "none"] = "checkerboard",
        hyper_attention: bool = True,
        swin_version: int = 2,
        drop_path: float = 0.0,
        variable_rate: bool = False,
    ):
        if context not in ("checkerboard", "none"):
            raise UsageError(f"context={context}: choose checkerboard or none")

        def stages() -> list[nn.Module]:
            sizes = (hyper_latent, hyper_depth, hyper_heads, WINDOW, mlp_ratio, swin_version)
            rates = drop_rates(drop_path, (*depths, hyper_depth, hyper_depth))[3:]
            return [SwinStage(*sizes, drop_path=rate) if hyper_attention else nn.Identity() for rate in rates]

        h_a = _hyper_analysis(latent, hyper_latent, stages())
        h_s = _hyper_synthesis(hyper_latent, features, stages())
        super().__init__(latent, hyper_latent, features, h_a, h_s, variable_rate)
        net = convolutions((features + context_channels, *parameter_widths, 2 * latent), (1, 1, 1), nn.GELU)
        local = CheckerboardContext(latent, context_channels) if context == "checkerboard" else None
        self.checkerboard = CheckerboardSlice(latent, net, net, local, zeros=context_channels)

    def code_latent(self, coder: Coder, y: Tensor | None, features: Tensor, gain: Gain | None) -> Tensor:
        return self.checkerboard.code(coder, "y", y, (features,), gain)


def _hyper_analysis(latent: int, width: int, stages: list[nn.Module]) -> nn.Sequential:
    """h_a: (B, M, H, W) -> (B, width, H/4, W/4)."""
    return nn.Sequential(
        conv3x3(latent, width),
        stages[0],
        halving(width, width),
        stages[1],
        PreciseConv2d(width, width, 3, 2, 1),
    )


def _hyper_synthesis(width: int, out_ch: int, stages: list[nn.Module]) -> nn.Sequential:
    """h_s: (B, width, H/4, W/4) -> (B, out, H, W)."""
    return nn.Sequential(
        doubling(width, width),
        stages[0],
        doubling(width, width),
        stages[1],
        conv3x3(width, out_ch),
    )
