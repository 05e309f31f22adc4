"""Principal axes of picture blocks, found in steps of 2x2 neighbours, for layers that start as such a step.

One step takes 2x2 neighbours of features to the first of their principal axes. Steps in a row describe blocks
of 4x4, 8x8 and 16x16 pixels; together they are orthonormal, so their transpose is the best way back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.training.block_start import GREY

BLOCKS = (12, 48, 192)
"""Components of blocks of 2x2, 4x4 and 8x8 pixels: all there are."""

_MAX_SIDE = 512


class Axes:
    """Orthonormal matrices (out, 4 in) of each step, for 2x2 neighbours ordered as `pixel_unshuffle` does.

    Args:
        photos: uint8 (3, H, W) each. counts: axes that each step keeps.

    Attributes:
        steps: the matrices. deviations: root mean square along the axes of each, (out,).

    Raises:
        UsageError: all photos are smaller than a block.
    """

    def __init__(self, photos: Sequence[Tensor], counts: Sequence[int]):
        side = 2 ** len(counts)
        x = [centred(photo, side) for photo in photos if min(photo.shape[1:]) >= side]
        if not x:
            raise UsageError(f"the block-transform start needs photos of at least {side} pixels a side")
        self.steps: list[Tensor] = []
        self.deviations: list[Tensor] = []
        for count in counts:
            matrix, deviation = principal_axes(x, count)
            self.steps.append(matrix)
            self.deviations.append(deviation)
            x = [torch.einsum("oc,chw->ohw", matrix, F.pixel_unshuffle(feature, 2)) for feature in x]


def centred(photo: Tensor, side: int) -> Tensor:
    """A corner of a photo in sides of a multiple of `side`, about grey; (3, H, W)."""
    height, width = (min(_MAX_SIDE, n) // side * side for n in photo.shape[1:])
    return photo[:, :height, :width].float() / 255 - GREY


def principal_axes(features: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """First axes of 2x2 neighbours (not centred), (count, 4C), and root mean squares along them, (count,)."""
    samples = [F.pixel_unshuffle(x, 2).flatten(1).double() for x in features]  # (4C, N) each
    moment = sum(s @ s.T / s.shape[1] for s in samples) / len(samples)
    values, vectors = torch.linalg.eigh(moment)
    return vectors.flip(1)[:, :count].T.float(), values.flip(0)[:count].clamp_min(0).sqrt().float()
