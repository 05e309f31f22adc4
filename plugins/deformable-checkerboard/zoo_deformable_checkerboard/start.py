"""Start of training: the transforms as principal components of blocks, everything else near the identity.

Halving blocks start as the principal axes of 2x2 neighbours: twice a Haar step, then the axes of 8x8 blocks,
then of 16x16 blocks. LeakyReLU is linear above zero, so an offset lifts the coefficients over it and the
next convolution takes it away again. The synthesis starts as the transpose, through the skips of its
blocks. Residual branches start at zero and attention gates nearly closed. So training begins at the quality
of transform coding instead of noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.attention import ResidualUnit
from zoo_core.layers.residual import ResidualBlock, ResidualBlockUpsample, ResidualBlockWithStride
from zoo_core.model import CodecModel
from zoo_core.training.axes import Axes
from zoo_core.training.block_start import GAMMA, GREY, QUIET, STEP, zero
from zoo_deformable_checkerboard.estimation import ParameterNet
from zoo_deformable_checkerboard.transform import Attention, ConcatenatedBlocks, DeformableModule

_GATE = -3.0
"""Bias of an attention gate: it adds sigmoid(-3), a twentieth of the input."""
_SPREAD = (0.3, 1.0, 3.0)
"""Scales of a mixture's components, relative to the root mean square of their channel."""
_DEVIATIONS = 6.0


@torch.no_grad()
def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to principal components of `photos` (uint8, (3, H, W)), and its scales to match.

    Raises:
        UsageError: the preset is too narrow, or all photos are smaller than a block.
    """
    transform = model.transform
    half, quarter, eighth = transform.widths
    if half < 12 or quarter < 48 or 4 * eighth < transform.latent:
        raise UsageError("the block-transform start needs widths of 12, 48 and M/4 channels at least")
    axes = Axes(photos, (12, 48, min(eighth, 192), transform.latent))
    _analysis(transform.g_a, axes)
    pass_through(transform.g_s)
    _synthesis(transform.g_s, axes)
    nets = {net for net in model.entropy_model.modules() if isinstance(net, ParameterNet)}
    for net in nets:
        _scales(net, axes.deviations[-1] / STEP)


# --- blocks that keep their size ------------------------------------------------------------------------


@torch.no_grad()
def pass_through(module: nn.Module) -> None:
    """Let every block inside that keeps its size only scale its input, by `gain`."""
    for block in module.modules():
        if isinstance(block, (ResidualBlock, DeformableModule)):
            zero(block.conv2)
        elif isinstance(block, ResidualUnit):
            zero(block.conv[-1])
        elif isinstance(block, Attention):
            zero(block.gate[-1])
            block.gate[-1].bias.fill_(_GATE)


def gain(block: nn.Module) -> float:
    """What a block that passes through multiplies its input by."""
    if isinstance(block, ConcatenatedBlocks):
        return 2.0
    if isinstance(block, Attention):
        return 1 + 1 / (1 + math.exp(-_GATE))
    return 1.0


# --- transforms -----------------------------------------------------------------------------------------


def _analysis(g_a: nn.Sequential, axes: Axes) -> None:
    pass_through(g_a)
    centre, factor = GREY, 1.0  # of the features that come next, before the first step and after it
    steps = iter(zip(axes.steps, axes.deviations, strict=True))
    after = gain(g_a.attend16)
    for block in g_a:
        if isinstance(block, ResidualBlockWithStride):
            _set_down(block, *next(steps), centre, factor)
            centre, factor = 0.0, 1.0
        elif isinstance(block, nn.Conv2d):
            zero_weight = torch.zeros_like(block.weight)
            matrix = next(steps)[0] / (STEP * factor * after)
            zero_weight[:, : matrix.shape[1] // 4, 1:, 1:] = matrix.unflatten(1, (-1, 2, 2))
            block.weight.copy_(zero_weight)
        else:
            factor *= gain(block)


def _set_down(
    block: ResidualBlockWithStride, matrix: Tensor, deviation: Tensor, centre: float, factor: float
) -> None:
    """First outputs: `matrix` (out, 4 in) of the 2x2 neighbours of (input / factor - centre)."""
    out, columns = matrix.shape
    offset = _DEVIATIONS * deviation
    block.conv1.weight[:out] = 0
    block.conv1.weight[:out, : columns // 4, 1:, 1:] = matrix.unflatten(1, (-1, 2, 2)) / factor
    block.conv1.bias[:out] = offset - centre * matrix.sum(1)
    rows = torch.arange(out)
    block.conv2.weight[:out] = 0
    block.conv2.weight[rows, rows, 1, 1] = 1
    block.conv2.bias[:out] = -offset
    block.gdn.gamma[:out] = GAMMA
    block.skip.weight[:out] = 0
    block.skip.bias[:out] = 0


def _synthesis(g_s: nn.Sequential, axes: Axes) -> None:
    steps, factor = iter(axes.steps[::-1]), 1.0 / STEP
    for block in g_s:
        if isinstance(block, ResidualBlockUpsample):
            zero(block.conv)
            _set_up(block.skip[0], next(steps) / factor)
            factor = 1.0
        elif block is g_s.picture:
            _set_up(block[0], next(steps) / factor)
            block[0].bias.fill_(GREY)
        else:
            factor *= gain(block)


def _set_up(conv: nn.Module, matrix: Tensor) -> None:
    """Convolution before a pixel shuffle: the transpose of `matrix` (in, 4 out)."""
    zero(conv)
    rows, columns = matrix.shape
    middle = conv.kernel_size[0] // 2
    conv.weight[:columns, :rows, middle, middle] = matrix.T


# --- entropy model --------------------------------------------------------------------------------------


def _scales(net: ParameterNet, deviation: Tensor) -> None:
    """Let mixtures start as wide as their channels: far from a symbol, a likelihood has no gradient."""
    count = len(net.model.components)
    spread = torch.tensor(_SPREAD if count > 1 else _SPREAD[1:2])
    rows = spread.repeat(-(-count // len(spread)))[:count, None] * deviation
    net.last.weight.mul_(QUIET)
    net.last.bias.zero_()
    net.last.bias.view(-1, net.latent)[-count:] = rows
