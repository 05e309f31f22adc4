"""Start of training: transforms as principal components of blocks, scales to match, no residual prediction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zoo_core.model import CodecModel
from zoo_core.training.block_start import zero
from zoo_core.training.scale_start import start_scales
from zoo_core.training.swin_start import start_swin


def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to principal components of `photos` (uint8, (3, H, W)), and its scales to match.

    Raises:
        UsageError: the preset is too narrow, or all photos are smaller than a block.
    """
    deviation, step = start_swin(model, photos)
    slices = model.entropy_model.slices.slices
    for part, scale in zip(slices, deviation.split([part.width for part in slices]), strict=True):
        start_scales(part.anchors[-1], scale, step)
        start_scales(part.others[-1], scale, step)
        for prediction in part.predictions:
            zero(prediction.net[-1])
