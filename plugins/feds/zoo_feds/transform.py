"""Analysis and synthesis of student and teacher: the plain residual transform, for the teacher with attention.

The teacher is larger in three named ways, each a switch of its own: SwinV2 attention, more residual blocks,
and more latent channels. Where its attention sits (1/8 and 1/16 of the size) is our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.attention import ResidualUnit
from zoo_core.layers.residual import conv1x1
from zoo_core.layers.residual16 import ResidualTransform16, Three
from zoo_core.layers.swin import SwinStage

_HEAD_WIDTH = 32
_UNITS = 3


class SwinAttention(nn.Module):
    """x + trunk(x) * sigmoid(gate(x)), the gate behind two SwinV2 blocks. (B, C, H, W) stays.

    The frame is that of LIC-TCM's SWAtten. The Swin blocks start as the identity.

    Raises:
        UsageError: `channels` is not a multiple of 32, the width of a head.
    """

    def __init__(self, channels: int):
        super().__init__()
        if channels < _HEAD_WIDTH or channels % _HEAD_WIDTH:
            raise UsageError(
                f"attention over {channels} channels: choose multiples of {_HEAD_WIDTH} for the last of widths "
                "and for latent + wide_latent, or swin=false"
            )
        swin = SwinStage(
            channels, 2, channels // _HEAD_WIDTH, 8, mlp_ratio=2, residual=False, post_norm_gain=0.0
        )
        self.trunk = nn.Sequential(*(ResidualUnit(channels) for _ in range(_UNITS)))
        self.gate = nn.Sequential(
            swin, *(ResidualUnit(channels) for _ in range(_UNITS)), conv1x1(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.trunk(x) * torch.sigmoid(self.gate(x))


class FedsTransform(ResidualTransform16):
    """Pictures to one latent at a sixteenth of the size.

    Args:
        widths, blocks, latent: as in `ResidualTransform16`.
        swin: SwinV2 attention in both transforms.
        extra_rb: residual blocks more in every stage. wide_latent: channels more in y.

    Attributes:
        enlarged: in one of the teacher's three ways at least.

    Raises:
        UsageError: attention over channels that are no multiple of 32.
    """

    def __init__(
        self,
        widths: Three,
        blocks: Three,
        latent: int,
        swin: bool = False,
        extra_rb: int = 0,
        wide_latent: int = 0,
    ):
        few, some, many = (count + extra_rb for count in blocks)
        super().__init__(widths, (few, some, many), latent + wide_latent, SwinAttention if swin else None)
        self.swin = swin
        self.enlarged = bool(swin or extra_rb or wide_latent)
