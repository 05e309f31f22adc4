"""Start of training: the transforms as an orthonormal block transform, shared between the two resolutions.

Every layer of the analysis starts as the principal axes of the 2x2 neighbours that it joins, so that 16x16
blocks are described by their principal components after four layers. The LR latent takes the first M/8
of them, joined once more over 2x2 blocks; the HR latent takes the M/2 that follow. So nothing is coded
twice: measured on photos, the same number of HR components beside an LR latent that overlaps
them costs 7 to 15 % more bits for a worse picture. The synthesis is the transpose; LR joins HR after its
first layer. GDN starts linear, and the cross paths that would disturb the transform start at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.model import CodecModel
from zoo_core.training.block_start import GAMMA, GREY, QUIET, STEP
from zoo_octave.entropy import OctaveEntropy
from zoo_octave.layers import Operator
from zoo_octave.transform import OctaveTransform


@torch.no_grad()
def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to principal components of `photos` (uint8, (3, H, W)), and its scales to match.

    Raises:
        UsageError: the preset has one resolution, activates before its operators, or is too narrow.
    """
    transform = model.transform
    _check(transform)
    axes = _Axes(photos, *_sizes(transform))
    _analysis(transform, axes)
    _synthesis(transform, axes)
    _scales(model.entropy_model, axes)


def _sizes(transform: OctaveTransform) -> tuple[int, int, int]:
    """Components of 8x8 blocks, of 16x16 blocks in HR, and of 32x32 blocks in LR."""
    return min(192, transform.g_a[2].hh.conv.out_channels), transform.latent.high, transform.latent.low


def _check(transform: OctaveTransform) -> None:
    widths = [layer.hh.conv.out_channels for layer in transform.g_a]
    low = [layer.ll.conv.out_channels for layer in transform.g_a[1:3] if layer.ll]
    enough = (
        widths[0] >= 48
        and low
        and low[0] >= min(192, widths[2])
        and 4 * min(192, widths[2]) >= low[1] >= transform.latent.low // 4
    )
    usable = transform.latent.low and transform.latent.low % 4 == 0 and not transform.g_s[0].hh.before
    if not (enough and usable):
        raise UsageError(
            "the block-transform start needs two resolutions, transposed_act='post', and widths as in the base preset"
        )


# --- statistics -------------------------------------------------------------------------------------


class _Axes:
    """Orthonormal matrices (out, 4 in) of each step, for 2x2 neighbours ordered as pixel_unshuffle does.

    Attributes:
        steps: from pixels to 8x8 blocks, three of them.
        low, high: from 8x8 to 16x16 blocks, what the LR latent is made of, and the HR latent.
        merged: from 2x2 blocks of `low` to the LR latent.
        scale_high, scale_low: root mean square of the latents, in quantisation steps.
    """

    def __init__(self, photos: Sequence[Tensor], components: int, high: int, low: int):
        x = [_centred(photo) for photo in photos]
        self.steps = []
        for count in (12, 48, components):
            matrix = _principal_axes(x, count)[0]
            self.steps.append(matrix)
            x = [_join(feature, matrix) for feature in x]
        first = low // 4
        block, moments = _principal_axes(x, first + high)
        self.low, self.high = block[:first], block[first:]
        self.merged, low_moments = _principal_axes([_join(feature, self.low) for feature in x], low)
        self.scale_high = moments[first:].sqrt() / STEP
        self.scale_low = low_moments.sqrt() / STEP


def _centred(photo: Tensor) -> Tensor:
    """The middle of a photo in sides of a multiple of 32, at most 512, about grey; (3, H, W)."""
    height, width = (min(512, n // 32 * 32) for n in photo.shape[1:])
    top, left = (photo.shape[1] - height) // 2, (photo.shape[2] - width) // 2
    return photo[:, top : top + height, left : left + width].float() / 255 - GREY


def _join(x: Tensor, matrix: Tensor) -> Tensor:
    """(C, H, W) -> (out, H/2, W/2)."""
    return torch.einsum("oc,chw->ohw", matrix, F.pixel_unshuffle(x, 2))


def _principal_axes(features: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """First axes of 2x2 neighbours (not centred), (count, 4C), and mean squares along them, (count,)."""
    moment: Tensor | None = None
    for x in features:
        if not x.numel():  # a photo smaller than a block
            continue
        samples = F.pixel_unshuffle(x, 2).flatten(1).double()  # (4C, N)
        part = samples @ samples.T / samples.shape[1]
        moment = part if moment is None else moment + part
    if moment is None:
        raise UsageError("the block-transform start needs photos of at least 32 pixels a side")
    values, vectors = torch.linalg.eigh(moment / len(features))
    return vectors.flip(1)[:, :count].T.float(), values.flip(0)[:count].clamp_min(0).float()


# --- transforms -------------------------------------------------------------------------------------


def _analysis(transform: OctaveTransform, axes: _Axes) -> None:
    first, *others = transform.g_a
    _set_down(first.hh, axes.steps[0])
    _set_down(first.hl, axes.steps[1])  # starts from HH, half the size: LR is one step ahead
    high = (*axes.steps[1:], axes.high / STEP)
    low = (axes.steps[2], axes.low, axes.merged / STEP)
    for layer, to_high, to_low in zip(others, high, low, strict=True):
        _set_down(layer.hh, to_high)
        _silence(layer.lh, len(to_high))
        _set_down(layer.ll, to_low)
        _silence(layer.hl, len(to_low))
    _centre(transform)


def _centre(transform: OctaveTransform) -> None:
    """Let the latents of a grey picture be zero."""
    grey = transform.analysis(torch.full((1, 3, 64, 64), GREY))
    for conv, latent in zip((transform.g_a[3].hh.conv, transform.g_a[3].ll.conv), grey, strict=True):
        conv.bias -= latent[0].mean((1, 2))


def _synthesis(transform: OctaveTransform, axes: _Axes) -> None:
    first, *others = transform.g_s
    _set_up(first.hh, axes.high * STEP)
    _set_up(first.ll, axes.merged * STEP)
    _set_up(first.lh, axes.low)
    for layer, matrix in zip(others, reversed(axes.steps), strict=True):
        _set_up(layer.hh, matrix)
        _silence(layer.lh, matrix.shape[1] // 4)
    others[-1].hh.conv.bias.fill_(GREY)


def _set_down(operator: Operator, matrix: Tensor) -> None:
    """First outputs of a convolution with stride 2: `matrix` (out, 4 in) of 2x2 neighbours."""
    conv, (out, columns) = operator.conv, matrix.shape
    _silence(operator, out)
    taps = slice(conv.kernel_size[0] // 2, conv.kernel_size[0] // 2 + 2)
    conv.weight[:out, : columns // 4, taps, taps] = matrix.view(out, columns // 4, 2, 2)


def _set_up(operator: Operator, matrix: Tensor) -> None:
    """First outputs of a transposed convolution with stride 2: the transpose of `matrix` (in, 4 out)."""
    conv, (rows, columns) = operator.conv, matrix.shape
    _silence(operator, columns // 4)
    taps = slice(conv.kernel_size[0] // 2, conv.kernel_size[0] // 2 + 2)
    conv.weight[:rows, : columns // 4, taps, taps] = matrix.view(rows, columns // 4, 2, 2)


def _silence(operator: Operator, count: int) -> None:
    """Let the first `count` outputs be zero, and their normalisation linear."""
    conv = operator.conv
    weight = conv.weight if isinstance(conv, nn.Conv2d) else conv.weight.transpose(0, 1)
    weight[:count] = 0
    conv.bias[:count] = 0
    if not isinstance(operator.act, nn.Identity):
        operator.act.gamma[:count] = GAMMA


# --- entropy model ----------------------------------------------------------------------------------


def _scales(entropy: OctaveEntropy, axes: _Axes) -> None:
    """Let the scales of y start at the latents' own: far off, their likelihoods have no gradient."""
    for mix in (entropy.low_y.mix_mean, entropy.low_y.mix_scale):
        mix.weight.mul_(QUIET)
    entropy.low_y.mix_scale.bias.copy_(axes.scale_low)
    constant = entropy.high_y.net[-3]
    constant.weight[0] = 0  # The last layer has no bias: one hidden unit that is always 1 stands for it.
    constant.bias[0] = 1
    last = entropy.high_y.net[-1]
    last.weight.mul_(QUIET)
    last.weight[:, 0, 0, 0] = torch.cat((torch.zeros_like(axes.scale_high), axes.scale_high))
