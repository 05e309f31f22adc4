"""The plain residual transform: three halving blocks and a strided convolution, with room for attention.

x (3, H, W) -> RBS, RBs -> f1 (n1, H/2) -> RBS, RBs -> f2 (n2, H/4) -> RBS, RBs -> f3 (n3, H/8)
   [-> attention] -> conv, stride 2 [-> attention] -> y (M, H/16)
y [-> attention] -> RBU [-> attention], RBs -> d3 (n3, H/8) -> RBU, RBs -> d2 (n2, H/4)
   -> RBU, RBs -> d1 (n1, H/2) -> subpel -> x_hat (3, H, W)

Source: the convolutional skeleton of LIC-TCM (CVPR 2023) and of WeConvene's baseline, with all four halvings
in the analysis.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from zoo_core.interfaces import Shape, Transform
from zoo_core.layers.precision import full_precision
from zoo_core.layers.residual import (
    PreciseConv2d,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    residual_blocks,
    subpel_conv,
)

Three = tuple[int, int, int]
"""One number for each of 1/2, 1/4 and 1/8 of the size."""

FEATURES = (
    "g_a.stage2",
    "g_a.stage4",
    "g_a.stage8",
    "g_s.stage8",
    "g_s.stage4",
    "g_s.stage2",
)
"""Modules of a `ResidualTransform16` whose outputs are f1, f2, f3, d3, d2, d1."""


class ResidualTransform16(Transform):
    """Pictures to one latent at a sixteenth of the size.

    Args:
        widths: n1, n2, n3. blocks: residual blocks of each stage.
        latent: channels M of y.
        attend: makes the attention (channels -> module) at 1/8 and 1/16, in both transforms; None for none.
    """

    downscale = 16

    def __init__(
        self, widths: Three, blocks: Three, latent: int, attend: Callable[[int], nn.Module] | None = None
    ):
        super().__init__()
        self.latent, self.widths, self.blocks = latent, tuple(widths), tuple(blocks)
        half, quarter, eighth = widths
        few, some, many = blocks

        def attention(size: int, channels: int) -> list[tuple[str, nn.Module]]:
            return [(f"attend{size}", attend(channels))] if attend else []

        self.g_a = nn.Sequential(
            OrderedDict(
                [
                    ("stage2", _stage(ResidualBlockWithStride(3, half), half, few)),
                    ("stage4", _stage(ResidualBlockWithStride(half, quarter), quarter, some)),
                    ("stage8", _stage(ResidualBlockWithStride(quarter, eighth), eighth, many)),
                    *attention(8, eighth),
                    ("down16", PreciseConv2d(eighth, latent, 3, 2, 1)),
                    *attention(16, latent),
                ]
            )
        )
        up = ResidualBlockUpsample(latent, eighth)
        entry = nn.Sequential(OrderedDict([("up", up), *attention(8, eighth)])) if attend else up
        self.g_s = nn.Sequential(
            OrderedDict(
                [
                    *attention(16, latent),
                    ("stage8", _stage(entry, eighth, many)),
                    ("stage4", _stage(ResidualBlockUpsample(eighth, quarter), quarter, some)),
                    ("stage2", _stage(ResidualBlockUpsample(quarter, half), half, few)),
                    ("picture", subpel_conv(half, 3, 2, precise=True)),
                ]
            )
        )

    def analysis(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.to_latent(self.features(x)),)

    def features(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) -> f3 (B, n3, H/8, W/8)."""
        return self.g_a[:3](x)

    def to_latent(self, f3: Tensor) -> Tensor:
        """f3 -> y (B, M, H/16, W/16)."""
        f3 = self.g_a[3:-1](f3)
        with full_precision(f3):  # its output is quantised
            return self.g_a[-1](f3)

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        return self.g_s(latents[0])

    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        return ((self.latent, height // 16, width // 16),)

    def chain(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        return tuple(self.g_a), tuple(self.g_s)


def _stage(block: nn.Module, channels: int, count: int) -> nn.Sequential:
    """A block that changes the size, and the residual blocks after it."""
    return nn.Sequential(block, *residual_blocks(channels, count))
