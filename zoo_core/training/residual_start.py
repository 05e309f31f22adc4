"""Start of a residual transform at a sixteenth: its halvings as principal axes, its residual branches silent.

The first outputs of each halving block start as principal axes of 2x2 neighbours of what the block before it
gives, so that the analysis computes components of 16x16 blocks, low frequencies first; the synthesis is the
transpose, through the skips of its blocks. Training begins at the quality of transform coding.

LeakyReLU is no obstacle: where a block has channels to spare, an axis takes two of them, one with each sign,
and their difference is linear; the others are lifted over zero, and the next convolution takes the offset
away again. The strongest axes get the spare channels, since they would need the largest offsets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo_core.entropy.channelwise import ChannelwiseEntropy
from zoo_core.errors import UsageError
from zoo_core.layers.residual import SLOPE, ResidualBlock, ResidualBlockWithStride
from zoo_core.layers.residual16 import ResidualTransform16
from zoo_core.model import CodecModel
from zoo_core.training.axes import BLOCKS, Axes
from zoo_core.training.block_start import GAMMA, GREY, STEP, picture_unit, zero
from zoo_core.training.scale_start import start_slices

_DEVIATIONS = 6.0
"""Offset of an axis, in its own root mean squares."""

_SPARE = 8
"""Channels at 1/8 that are left for second signs, where the axes alone would take all."""


@torch.no_grad()
def start_residual(model: CodecModel, photos: Sequence[Tensor], gain: float = 1.0) -> None:
    """Set a `ResidualTransform16` to principal axes of `photos` (uint8, (3, H, W)), and the scales of a
    `ChannelwiseEntropy` to match.

    Args:
        gain: what the attention modules of the transform, if it has any, multiply their input by.

    Raises:
        UsageError: the transform is too narrow, or all photos are smaller than a block.
    """
    transform, entropy = model.transform, model.entropy_model
    assert isinstance(transform, ResidualTransform16) and isinstance(entropy, ChannelwiseEntropy)
    axes = Axes(photos, (*_counts(transform), transform.latent))
    for module in transform.modules():
        if isinstance(module, ResidualBlock):
            zero(module.conv2)
    unit = picture_unit(entropy.gains, entropy.h_a[0].conv1, entropy.h_a[0].skip)
    _analysis(transform.g_a, axes, gain**2 * unit)
    _synthesis(transform.g_s, axes, unit / gain, gain)
    start_slices(entropy.low, axes.deviations[-1] / unit, STEP / unit)


def _counts(transform: ResidualTransform16) -> list[int]:
    """Axes that the first three halvings keep."""
    half, quarter, eighth = transform.widths
    counts = [min(half, BLOCKS[0]), min(quarter, BLOCKS[1]), min(eighth - _SPARE, BLOCKS[2])]
    if transform.latent > 4 * counts[2] or counts[2] > 4 * counts[1] or counts[1] > 4 * counts[0]:
        raise UsageError("the block-transform start needs widths that grow by 4 at most, and 4 * width > M")
    return counts


# --- transforms -----------------------------------------------------------------------------------------


def _analysis(g_a: nn.Sequential, axes: Axes, unit: float) -> None:
    centre = GREY
    stages = (g_a.stage2, g_a.stage4, g_a.stage8)
    for stage, matrix, deviation in zip(stages, axes.steps, axes.deviations, strict=False):
        halve(stage[0], matrix, deviation, centre)
        centre = 0.0
    zero(g_a.down16)
    _set(g_a.down16, axes.steps[3] / unit)


def halve(block: ResidualBlockWithStride, matrix: Tensor, deviation: Tensor, centre: float) -> None:
    """First outputs of a block: `matrix` (out, 4 in) of 2x2 neighbours of (input - centre), carried linearly.

    Args:
        deviation: root mean square of each output, (out,).
    """
    out, first, last = len(matrix), block.conv1, block.conv2
    paired = min(last.out_channels - out, out)
    offset = _DEVIATIONS * deviation
    offset[:paired] = 0
    both = torch.cat([matrix, -matrix[:paired]])
    first.weight[: len(both)] = 0
    _set(first, both)
    first.bias[: len(both)] = -centre * both.sum(1)
    first.bias[:out] += offset
    last.weight[:out], last.bias[:out] = 0, -offset
    rows = torch.arange(out)
    last.weight[rows, rows, 1, 1] = 1
    rows = rows[:paired]
    last.weight[rows, rows, 1, 1] = 1 / (1 + SLOPE)
    last.weight[rows, rows + out, 1, 1] = -1 / (1 + SLOPE)
    block.gdn.gamma[:out] = GAMMA
    block.skip.weight[:out], block.skip.bias[:out] = 0, 0


def _set(conv: nn.Conv2d, matrix: Tensor) -> None:
    """Strided 3x3 convolution: `matrix` (out, 4 in) of 2x2 neighbours."""
    out, columns = matrix.shape
    conv.weight[:out, : columns // 4, 1:, 1:] = matrix.unflatten(1, (-1, 2, 2))


def _synthesis(g_s: nn.Sequential, axes: Axes, unit: float, gain: float) -> None:
    factors = {"stage8": unit, "stage4": 1 / gain, "stage2": 1.0}
    for (name, factor), matrix in zip(factors.items(), axes.steps[:0:-1], strict=True):
        block = g_s.get_submodule(name)[0]
        block = getattr(block, "up", block)
        zero(block.conv)
        _transpose(block.skip[0], matrix * factor)
    _transpose(g_s.picture[0], axes.steps[0])
    g_s.picture[0].bias.fill_(GREY)


def _transpose(conv: nn.Conv2d, matrix: Tensor) -> None:
    """3x3 convolution before a pixel shuffle: the transpose of `matrix` (in, 4 out)."""
    zero(conv)
    rows, columns = matrix.shape
    conv.weight[:columns, :rows, 1, 1] = matrix.T
