"""Analysis and synthesis: residual blocks of the GLLMM family with deformable residual modules (section 3, 5).

x (3, H, W) -> DOWN -> DOWN -> ATT -> DOWN -> conv, stride 2 -> ATT -> y (M, H/16, W/16)
y -> ATT -> UP -> UP -> ATT -> UP -> subpel -> x_hat (3, H, W)

with residual units at every size, and deformable modules at 1/4 and 1/8. Which of them a model has is set
by flags, since distillation trains a small synthesis from a large one: both use the same names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.interfaces import Shape, Transform
from zoo_core.layers.attention import ResidualUnit
from zoo_core.layers.deformable import DeformableConv2d
from zoo_core.layers.precision import full_precision
from zoo_core.layers.residual import (
    PreciseConv2d,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv1x1,
    conv3x3,
    subpel_conv,
)
from zoo_deformable_checkerboard.estimation import SLOPE

Deformation = Literal["deformable", "frozen", "none"]
Blocks = list[tuple[str, nn.Module]]


class Attention(nn.Module):
    """x + trunk(x) * sigmoid(gate(x)); the simplified attention of Cheng et al. 2020. (B, C, H, W) stays.

    Args:
        units: residual units of trunk and gate, each.
    """

    def __init__(self, channels: int, units: int = 3):
        super().__init__()
        trunk, gate = ([ResidualUnit(channels, activated=False) for _ in range(units)] for _ in range(2))
        self.trunk = nn.Sequential(*trunk)
        self.gate = nn.Sequential(*gate, conv1x1(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.trunk(x) * torch.sigmoid(self.gate(x))


class ConcatenatedBlocks(nn.Module):
    """Two residual blocks and a shortcut around both (CRB). (B, C, H, W) stays."""

    def __init__(self, channels: int):
        super().__init__()
        self.blocks = nn.Sequential(ResidualBlock(channels, SLOPE), ResidualBlock(channels, SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


class DeformableModule(nn.Module):
    """Residual block whose convolutions, or the first of them, are deformable (DRM). (B, C, H, W) stays.

    With zero offsets, as at the start, it is an ordinary residual block.

    Raises:
        UsageError: groups of unequal size, or not one or two deformable convolutions.
    """

    def __init__(self, channels: int, groups: int, deformable_convs: int, modulated: bool, frozen: bool):
        super().__init__()
        if groups < 1 or channels % groups:
            raise UsageError(
                f"offset_groups={groups}: choose a number that divides the {channels} channels of a deformable module"
            )
        if deformable_convs not in (1, 2):
            raise UsageError(f"deformable_convs={deformable_convs}: choose 1 or 2, of the two of a module")
        self.conv1 = DeformableConv2d(channels, groups, modulated, frozen)
        self.conv2 = (
            DeformableConv2d(channels, groups, modulated, frozen)
            if deformable_convs == 2
            else conv3x3(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv1(x), SLOPE, inplace=True)
        return x + F.leaky_relu(self.conv2(out), SLOPE, inplace=True)


class BlockMaker:
    """Makes the blocks that keep size and channels, or none where the flag is off.

    Args:
        concatenated: residual units are CRBs, not single residual blocks.
        groups, deformable_convs, modulated: of the deformable modules.
        drm: "deformable", "frozen" (offsets stay zero: residual blocks of equal size), or "none".
        attention_units: of `Attention`.
    """

    def __init__(
        self,
        concatenated: bool,
        groups: int,
        deformable_convs: int,
        modulated: bool,
        drm: Deformation,
        attention_units: int,
    ):
        if drm not in ("deformable", "frozen", "none"):
            raise UsageError(f"drm={drm}: choose deformable, frozen or none")
        self.unit = ConcatenatedBlocks if concatenated else lambda channels: ResidualBlock(channels, SLOPE)
        self.module = (groups, deformable_convs, modulated, drm == "frozen")
        self.drm, self.attention_units = drm, attention_units

    def attend(self, size: int, channels: int, wanted: bool = True) -> Blocks:
        return [(f"attend{size}", Attention(channels, self.attention_units))] if wanted else []

    def refine(self, size: int, channels: int, wanted: bool) -> Blocks:
        return [(f"refine{size}", self.unit(channels))] if wanted else []

    def deform(self, size: int, channels: int, wanted: bool) -> Blocks:
        wanted = wanted and self.drm != "none"
        return [(f"deform{size}", DeformableModule(channels, *self.module))] if wanted else []


def analysis_blocks(
    latent: int,
    widths: tuple[int, int, int],
    refine: tuple[bool, bool, bool],
    deform: tuple[bool, bool],
    make: BlockMaker,
) -> nn.Sequential:
    """The analysis, block by block; names end in the size that they work at, 2 for a half."""
    half, quarter, eighth = widths
    return nn.Sequential(
        OrderedDict(
            [
                ("down2", ResidualBlockWithStride(3, half, 2, SLOPE)),
                *make.refine(2, half, refine[0]),
                ("down4", ResidualBlockWithStride(half, quarter, 2, SLOPE)),
                *make.attend(4, quarter),
                *make.refine(4, quarter, refine[1]),
                *make.deform(4, quarter, deform[0]),
                ("down8", ResidualBlockWithStride(quarter, eighth, 2, SLOPE)),
                *make.refine(8, eighth, refine[2]),
                *make.deform(8, eighth, deform[1]),
                ("down16", PreciseConv2d(eighth, latent, 3, 2, 1, bias=False)),
                *make.attend(16, latent),
            ]
        )
    )


class Synthesis(nn.Sequential):
    """y (B, M, H/16, W/16) -> x_hat (B, 3, H, W).

    Args:
        widths: channels at 1/2, 1/4 and 1/8, as in the analysis.
        refine: residual units at 1/16, 1/8, 1/4, 1/2. deform: modules at 1/8 and 1/4. attend: at 1/4.
    """

    HINTS = ("up8", "up4", "up2")
    """The blocks whose outputs distillation compares."""

    def __init__(
        self,
        latent: int,
        widths: tuple[int, int, int],
        make: BlockMaker,
        refine: tuple[bool, bool, bool, bool],
        deform: tuple[bool, bool],
        attend: bool,
    ):
        half, quarter, eighth = widths
        blocks: Blocks = [
            *make.attend(16, latent),
            *make.refine(16, latent, refine[0]),
            ("up8", ResidualBlockUpsample(latent, eighth, 2, SLOPE, skip_kernel=1)),
            *make.refine(8, eighth, refine[1]),
            *make.deform(8, eighth, deform[0]),
            ("up4", ResidualBlockUpsample(eighth, quarter, 2, SLOPE, skip_kernel=1)),
            *make.attend(4, quarter, attend),
            *make.refine(4, quarter, refine[2]),
            *make.deform(4, quarter, deform[1]),
            ("up2", ResidualBlockUpsample(quarter, half, 2, SLOPE, skip_kernel=1)),
            *make.refine(2, half, refine[3]),
            ("picture", subpel_conv(half, 3, 2, precise=True)),
        ]
        super().__init__(OrderedDict(blocks))

    def with_hints(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The picture, and the outputs of the blocks in `HINTS`."""
        hints = {}
        for name, block in self.named_children():
            y = block(y)
            if name in self.HINTS:
                hints[name] = y
        return y, hints


class DeformableTransform(Transform):
    """Pictures to one latent at a sixteenth of the size.

    Args:
        latent: channels M of y. widths: channels at 1/2, 1/4, 1/8.
        refine: residual units of the analysis at 1/2, 1/4, 1/8. deform: its modules at 1/4 and 1/8.
        synthesis: refine, deform and attend of `Synthesis`.
        teacher: the same of the larger synthesis that it learns from; None if it is trained by itself.
        concatenated, offset_groups, deformable_convs, modulated, drm, attention_units: see `BlockMaker`.
    """

    downscale = 16

    def __init__(
        self,
        latent: int,
        widths: tuple[int, int, int],
        refine: tuple[bool, bool, bool],
        deform: tuple[bool, bool],
        synthesis: Mapping[str, Any],
        teacher: Mapping[str, Any] | None,
        concatenated: bool,
        offset_groups: int,
        deformable_convs: int,
        modulated: bool = False,
        drm: Deformation = "deformable",
        attention_units: int = 3,
    ):
        super().__init__()
        self.latent, self.widths, self.teacher = latent, widths, teacher
        self.make = BlockMaker(concatenated, offset_groups, deformable_convs, modulated, drm, attention_units)
        self.g_a = analysis_blocks(latent, self.widths, refine, deform, self.make)
        self.g_s = Synthesis(latent, self.widths, self.make, **synthesis)

    def analysis(self, x: Tensor) -> tuple[Tensor, ...]:
        *blocks, last = self.g_a
        for block in blocks:
            x = block(x)
        with full_precision(x):  # its output is quantised
            return (last(x),)

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        return self.g_s(latents[0])

    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        return ((self.latent, height // 16, width // 16),)

    def chain(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        return tuple(self.g_a), tuple(self.g_s)
