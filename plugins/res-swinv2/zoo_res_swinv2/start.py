"""Start of training: the transforms as principal components of blocks, and scales that fit them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zoo_core.model import CodecModel
from zoo_core.training.scale_start import start_scales
from zoo_core.training.swin_start import start_swin


def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to principal components of `photos` (uint8, (3, H, W)), and its scales to match.

    Raises:
        UsageError: the preset is too narrow, or all photos are smaller than a block.
    """
    start_scales(model.entropy_model.checkerboard.anchors[-1], *start_swin(model, photos))
