"""Start of training: the transforms as principal components of 16x16 blocks, scales as wide as their channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.model import CodecModel
from zoo_core.training.block_start import picture_unit, zero
from zoo_core.training.swin_start import start_swin_transform
from zoo_roi_swin.entropy import RoiSwinEntropy
from zoo_roi_swin.stages import ConvBlock
from zoo_roi_swin.transform import RoiSwinTransform


@torch.no_grad()
def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to principal components of `photos` (uint8, (3, H, W)), and its scales to match.

    Raises:
        UsageError: the preset is too narrow, or all photos are smaller than a block.
    """
    if not isinstance(model.transform, RoiSwinTransform):
        raise UsageError("this start is for the transform of roi-swin")
    for module in model.transform.modules():
        if isinstance(module, ConvBlock):
            zero(module.conv2)
    entropy = model.entropy_model
    deviations = start_swin_transform(
        model.transform, photos, lambda: picture_unit(entropy.gains, entropy.h_a.convs[0])
    )
    _scales(entropy, deviations)


def _scales(entropy: RoiSwinEntropy, deviations: Tensor) -> None:
    """Mean 0, a scale of `deviations` (M,), and no residual prediction: far off, likelihoods have no gradient."""
    if entropy.slices is None:
        _set(entropy.h_s[-1], deviations)
        return
    done = 0
    for nets in entropy.slices.slices:
        _set(nets.ctx[-1], deviations[done : done + nets.width])
        zero(nets.lrp[-1])
        done += nets.width


def _set(last: nn.Module, deviations: Tensor) -> None:
    """Let a network whose last layer gives means, then scales, start with these."""
    last.weight.mul_(0.1)
    last.bias.copy_(torch.cat([torch.zeros_like(deviations), deviations]))
