"""The residual transform of the WeConvene family, open in what halves and doubles the size.

x (3, H, W) -> [stem at full size] -> down -> RBs -> down -> RBs -> conv, stride 2 -> y (M, H/8, W/8)
y -> RBU(1) -> RBs -> up -> RBs -> up -> RBs -> subpel -> x_hat (3, H, W)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.interfaces import Shape, Transform
from zoo_core.layers.inplace import added
from zoo_core.layers.residual import (
    SLOPE,
    PreciseConv2d,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    StridedPointwise,
    conv3x3,
    residual_blocks,
    subpel_conv,
)

Resampler = Callable[[int, int], nn.Module]
"""Makes a block (B, in, H, W) -> (B, out, H/2, W/2), or one that doubles, from in and out."""


class CoreDown(nn.Module):
    """(B, in, H, W) -> (B, out, H/2, W/2): strided residual block; `core` follows its first convolution.

    `core` keeps (B, out, H/2, W/2) and takes the place of "3x3 convolution, then GDN".
    """

    def __init__(self, in_ch: int, out_ch: int, core: nn.Module):
        super().__init__()
        self.conv1 = conv3x3(in_ch, out_ch, 2)
        self.core = core
        self.skip = StridedPointwise(in_ch, out_ch, 2)

    def forward(self, x: Tensor) -> Tensor:
        return added(self.core(F.leaky_relu(self.conv1(x), SLOPE, inplace=True)), self.skip(x))


class CoreUp(nn.Module):
    """(B, in, H, W) -> (B, out, 2H, 2W): upsampling residual block with `core` as in `CoreDown`."""

    def __init__(self, in_ch: int, out_ch: int, core: nn.Module):
        super().__init__()
        self.subpel = subpel_conv(in_ch, out_ch, 2)
        self.core = core
        self.skip = subpel_conv(in_ch, out_ch, 2)

    def forward(self, x: Tensor) -> Tensor:
        return added(self.core(F.leaky_relu(self.subpel(x), SLOPE, inplace=True)), self.skip(x))


def resamplers(core: Callable[[int, bool], nn.Module] | None) -> tuple[Resampler, Resampler]:
    """Makers of the halving and of the doubling block.

    Args:
        core: called with (channels, whether in the synthesis); None for plain residual blocks.
    """
    if core is None:
        return ResidualBlockWithStride, ResidualBlockUpsample
    return (
        lambda in_ch, out_ch: CoreDown(in_ch, out_ch, core(out_ch, False)),
        lambda in_ch, out_ch: CoreUp(in_ch, out_ch, core(out_ch, True)),
    )


class ResidualTransform(Transform):
    """Pictures to one latent at an eighth of the size.

    Args:
        stages: (channels, residual blocks) at 1/2 and at 1/4 of the size.
        top: channels of the synthesis at 1/8.
        latent: channels M of y.
        stem: (channels, residual blocks) at full size; None to start with the first halving.
        core: of the blocks that halve and double, see `resamplers`.
    """

    downscale = 8

    def __init__(
        self,
        stages: tuple[tuple[int, int], tuple[int, int]],
        top: int,
        latent: int,
        stem: tuple[int, int] | None,
        core: Callable[[int, bool], nn.Module] | None,
    ):
        super().__init__()
        self.latent = latent
        (half, half_blocks), (quarter, quarter_blocks) = stages
        down, up = resamplers(core)
        first, stem_layers = 3, []
        if stem is not None:
            first = stem[0]
            stem_layers = [ResidualBlockWithStride(3, first, 1), *residual_blocks(*stem)]
        self.g_a = nn.Sequential(
            *stem_layers,
            down(first, half),
            *residual_blocks(half, half_blocks),
            down(half, quarter),
            *residual_blocks(quarter, quarter_blocks),
            PreciseConv2d(quarter, latent, 3, 2, 1),
        )
        self.g_s = nn.Sequential(
            ResidualBlockUpsample(latent, top, 1),
            *residual_blocks(top, quarter_blocks),
            up(top, quarter),
            *residual_blocks(quarter, quarter_blocks),
            up(quarter, half),
            *residual_blocks(half, half_blocks),
            subpel_conv(half, 3, 2, precise=True),
        )

    def analysis(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.g_a(x),)

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        return self.g_s(latents[0])

    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        return ((self.latent, height // 8, width // 8),)

    def chain(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        return tuple(self.g_a), tuple(self.g_s)
