"""Scales that start as wide as the latents are: far from a symbol, a likelihood has no gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.entropy.autoregressive import ChannelAutoregression
from zoo_core.entropy.subbands import SubbandEntropy
from zoo_core.model import CodecModel
from zoo_core.training.block_start import QUIET

_SIDE = 512
"""Statistics come from the middle of each photo, at most so many pixels wide and high."""


@torch.no_grad()
def start_scales(last: nn.Conv2d, deviation: Tensor, step: float) -> None:
    """Let a network that ends in `last` (scale first, then mean) start with scales as wide as the channels.

    Means start within a fraction of a step around zero.

    Args:
        deviation: root mean square of each channel, (M,). step: of quantisation, in the same unit.
    """
    last.weight.mul_(QUIET * step)
    last.bias.copy_(torch.cat([deviation, torch.zeros_like(deviation)]))


@torch.no_grad()
def start_slices(group: ChannelAutoregression, deviation: Tensor, step: float = 1.0) -> None:
    """As `start_scales`, for slices with networks apart for mean and scale, and a quiet residual prediction."""
    start = 0
    for nets in group.slices:
        for last, factor in (
            (nets.mean[-1], QUIET * step),
            (nets.scale[-1], QUIET * step),
            (nets.lrp[-1], QUIET),
        ):
            last.weight.mul_(factor)
            nn.init.zeros_(last.bias)
        nets.scale[-1].bias.copy_(deviation[start : start + nets.width])
        start += nets.width


@torch.no_grad()
def start_subbands(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Scales of a `SubbandEntropy` as its subbands have them on `photos` (uint8, (3, H, W)).

    The transform has its start already, with y in quantisation steps.
    """
    entropy = model.entropy_model
    assert isinstance(entropy, SubbandEntropy)
    deviation = torch.stack([_powers(model, photo) for photo in photos]).mean(0).sqrt()
    groups = [group for group in (entropy.low, entropy.high) if group is not None]
    for group, part in zip(groups, deviation.split([c for c in entropy.channels if c]), strict=True):
        start_slices(group, part)


def _powers(model: CodecModel, photo: Tensor) -> Tensor:
    """Mean squares of each subband channel of a photo, (C,)."""
    _, height, width = photo.shape
    top, left = max(0, height - _SIDE) // 2, max(0, width - _SIDE) // 2
    x = photo[None, :, top : top + _SIDE, left : left + _SIDE].float() / 255
    x = F.pad(x, (0, -x.shape[3] % model.downscale, 0, -x.shape[2] % model.downscale), mode="replicate")
    parts = model.entropy_model.split(model.transform.analysis(x))
    return torch.cat([part.square().mean((0, 2, 3)) for part in parts if part is not None])
