"""Start of training: principal axes for the residual transform, attention nearly closed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_core.layers.attention import ResidualUnit
from zoo_core.model import CodecModel
from zoo_core.training.block_start import zero
from zoo_core.training.residual_start import start_residual
from zoo_feds.transform import FedsTransform, SwinAttention

_GATE = -5.0
"""Bias of an attention gate: it adds sigmoid(-5), 0.7 %, of what is positive."""


@torch.no_grad()
def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to principal axes of `photos` (uint8, (3, H, W)), and its scales to match.

    Raises:
        UsageError: the preset is too narrow, or all photos are smaller than a block.
    """
    assert isinstance(model.transform, FedsTransform)
    for module in model.transform.modules():
        if isinstance(module, SwinAttention):
            _close(module)
    opening = 1 / (1 + math.exp(-_GATE))
    start_residual(model, photos, 1 + opening / 2 if model.transform.swin else 1.0)


def _close(attention: SwinAttention) -> None:
    """x + g relu(x) with g = sigmoid(-5): on average over both signs, a gain of 1 + g / 2."""
    for unit in attention.trunk:
        assert isinstance(unit, ResidualUnit)
        zero(unit.conv[-1])
    zero(attention.gate[-1])
    attention.gate[-1].bias.fill_(_GATE)
