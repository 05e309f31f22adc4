"""The mask as part of the file, for the ablation in which the decoder is told it.

A pixel of the mask is coded given its left and its upper neighbour, with fixed probabilities: what both agree
on is likely, and where they differ nothing is. All pixels of an anti-diagonal are coded at once, since their
neighbours lie on the one before. Beyond the border everything is region.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.entropy.coder import Coder

_SURE, _UNSURE = 0.25, 0.6
"""Scales of a normal variable about the expected value: 4.6 % and 40 % of it lie more than 1/2 off."""


def code_mask(coder: Coder, mask: Tensor | None, like: Tensor) -> Tensor:
    """Code a mask, and return it as the decoder knows it.

    Args:
        mask: (B, 1, H, W) in [0, 1], split at 0.5; None when decoding.
        like: any tensor (B, *, H, W) of the walk's precision.
    """
    batch, _, height, width = like.shape
    symbols = None if mask is None else (mask >= 0.5).to(like.dtype)
    known = like.new_ones(batch, height + 1, width + 1)  # with a border above and to the left
    for diagonal in range(height + width - 1):
        rows = torch.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        columns = diagonal - rows
        above, left = known[:, rows, columns + 1], known[:, rows + 1, columns]
        agree = above == left
        expected = torch.where(agree, above, 0.0)
        scale = torch.where(agree, _SURE, _UNSURE).to(like.dtype)
        part = None if symbols is None else symbols[:, 0, rows, columns, None, None]
        value = coder.gaussian("roi", part, expected[..., None, None], scale[..., None, None])
        known[:, rows + 1, columns + 1] = value[..., 0, 0].to(like.dtype)
    return known[:, None, 1:, 1:]
