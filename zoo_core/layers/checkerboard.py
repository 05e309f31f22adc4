"""The checkerboard: every second element first, then the others with their neighbours as context.

Anchors are where row + column is even (He et al., Checkerboard Context Model, CVPR 2021). Both halves are
kept dense, (B, C, H, W/2) with rows in place, so that networks of 1x1 convolutions run on the elements they
are needed for and on no others. The width must be even.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 5
TAPS = tuple((i, j) for i in range(KERNEL) for j in range(KERNEL) if (i + j) % 2)
"""The 12 places of a 5x5 window, counted from its corner, that are anchors if its middle is none."""


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> anchors and the others, (B, C, H, W/2) each."""
    even, odd = x[:, :, 0::2], x[:, :, 1::2]
    return (
        _interleave(even[..., 0::2], odd[..., 1::2]),
        _interleave(even[..., 1::2], odd[..., 0::2]),
    )


def merge(anchors: Tensor, others: Tensor) -> Tensor:
    """Inverse of `split`: two of (B, C, H, W/2) -> (B, C, H, W)."""
    even = torch.stack([anchors[:, :, 0::2], others[:, :, 0::2]], -1).flatten(3)
    odd = torch.stack([others[:, :, 1::2], anchors[:, :, 1::2]], -1).flatten(3)
    return _interleave(even, odd)


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """Rows of two maps in turn; the first has one more if their number is odd."""
    out = even.new_empty(*even.shape[:2], even.shape[2] + odd.shape[2], even.shape[3])
    out[:, :, 0::2], out[:, :, 1::2] = even, odd
    return out


class CheckerboardContext(nn.Module):
    """5x5 convolution that sees anchors only, at the other elements only: (B, in, H, W/2) -> (B, out, H, W/2).

    Same result as a masked 5x5 convolution of the whole map, without the 13 weights that are always zero and
    without the half of its outputs that nobody reads.
    """

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.conv = nn.Conv2d(len(TAPS) * in_ch, out_ch, 1)

    def forward(self, anchors: Tensor) -> Tensor:
        return self.conv(neighbours(anchors))


def neighbours(anchors: Tensor) -> Tensor:
    """The 12 anchors around each of the other elements, zeros outside: (B, C, H, W/2) -> (B, 12 C, H, W/2).

    The taps of a channel are consecutive, in the order of `TAPS`.
    """
    height, width = anchors.shape[2], 2 * anchors.shape[3]
    full = F.pad(merge(anchors, torch.zeros_like(anchors)), (2, 2, 2, 2))

    def rows(first: int) -> Tensor:
        start = 1 - first  # column of the first of the others in these rows
        taps = [
            full[:, :, first + i : first + i + height : 2, start + j : start + j + width : 2] for i, j in TAPS
        ]
        return torch.stack([tap[:, :, : (height - first + 1) // 2, : width // 2] for tap in taps], 2).flatten(
            1, 2
        )

    return _interleave(rows(0), rows(1))
