"""Start of a residual Swin transform: its strided convolutions as principal axes, its stages as x -> 2x.

There is nothing between the convolutions but stages, and a stage whose branches are silent doubles its input.
So the chain of convolutions computes the principal components of 16x16 blocks exactly, as far as the widths
let them through, low frequencies first; the synthesis is the transpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo_core.entropy.hyperprior import HyperpriorEntropy
from zoo_core.errors import UsageError
from zoo_core.layers.enhancement import Enhancement
from zoo_core.layers.swin import SwinBlockV2, SwinStage
from zoo_core.layers.swin_transform import SwinTransform
from zoo_core.model import CodecModel
from zoo_core.training.axes import BLOCKS, Axes
from zoo_core.training.block_start import GREY, STEP, picture_unit, zero


class LatentScale(NamedTuple):
    """Root mean square of each channel of y, (M,), and its quantisation step at the middle level."""

    deviation: Tensor
    step: float


def start_swin(model: CodecModel, photos: Sequence[Tensor]) -> LatentScale:
    """Set a `SwinTransform` to principal components of `photos` (uint8, (3, H, W)), and gains to match.

    Raises:
        UsageError: the transform is too narrow, or all photos are smaller than a block. The model is untouched.
    """
    transform, entropy = model.transform, model.entropy_model
    assert isinstance(transform, SwinTransform) and isinstance(entropy, HyperpriorEntropy)
    deviation = start_swin_transform(transform, photos, lambda: picture_unit(entropy.gains, entropy.h_a[0]))
    return LatentScale(deviation, 1.0 if entropy.gains is None else STEP)


@torch.no_grad()
def start_swin_transform(
    transform: SwinTransform, photos: Sequence[Tensor], choose_unit: Callable[[], float]
) -> Tensor:
    """As `start_swin`, for any entropy model; `choose_unit` prepares it and returns what 1 in y is worth.

    Returns:
        Root mean square of each channel of y, (M,).
    """
    counts = [min(pair) for pair in zip(transform.widths, BLOCKS, strict=True)]
    if transform.latent > 4 * counts[-1] or counts[1] > 4 * counts[0] or counts[2] > 4 * counts[1]:
        raise UsageError("the block-transform start needs widths that grow by 4 at most, and 4 * width >= M")
    axes = Axes(photos, (*counts, transform.latent))
    unit = choose_unit()
    for module in transform.modules():
        if isinstance(module, Enhancement):
            zero(module.last)
        elif isinstance(module, SwinStage):
            silence(module)
    _analysis(transform.g_a, axes, unit)
    _synthesis(transform.g_s, axes, unit)
    return axes.deviations[-1] / unit


@torch.no_grad()
def silence(stage: SwinStage) -> None:
    """Let every block of a stage be the identity."""
    for block in stage.blocks:
        norms_last = isinstance(block, SwinBlockV2)
        for layer in (block.norm1, block.norm2) if norms_last else (block.attn.proj, block.mlp[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def _analysis(g_a: nn.Sequential, axes: Axes, unit: float) -> None:
    convs = list(g_a[::2])  # between them are the stages
    factors = (1, 2, 2, 2 * unit)
    for conv, matrix, factor in zip(convs, axes.steps, factors, strict=True):
        out, columns = matrix.shape
        conv.weight[:out], conv.bias[:out] = 0, 0
        taps = _taps(conv)
        conv.weight[:out, : columns // 4, taps, taps] = matrix.unflatten(1, (-1, 2, 2)) / factor
    convs[0].bias[: len(axes.steps[0])] = -GREY * axes.steps[0].sum(1)


def _synthesis(g_s: nn.Sequential, axes: Axes, unit: float) -> None:
    factors = (unit, 0.5, 0.5, 0.5)
    layers = list(g_s[::2])
    for layer, matrix, factor in zip(layers, axes.steps[::-1], factors, strict=True):
        rows, columns = matrix.shape
        if isinstance(layer, nn.ConvTranspose2d):
            out, taps = columns // 4, _taps(layer)
            layer.weight[:, :out], layer.bias[:out] = 0, 0
            layer.weight[:rows, :out, taps, taps] = matrix.unflatten(1, (-1, 2, 2)) * factor
        else:  # a convolution before a pixel shuffle
            zero(layer[0])
            layer[0].weight[:columns, :rows, 1, 1] = matrix.T * factor
    last = layers[-1] if isinstance(layers[-1], nn.ConvTranspose2d) else layers[-1][0]
    last.bias.fill_(GREY)


def _taps(conv: nn.Module) -> slice:
    """The middle of an odd kernel and what follows it: the 2x2 neighbours of a strided layer."""
    middle = conv.kernel_size[0] // 2
    return slice(middle, middle + 2)
