"""Start of training: the branches share an orthonormal block transform between them.

Of the principal components of 8x8 RGB blocks, the LR branch takes the first few, which hold the low
frequencies, and transforms those of 2x2 blocks once more; the HR branch takes the next ones. So the latents
have nothing in common at first, both carry information, and the joint synthesis starts as the transpose.
Steps pass linearly through the DOWN and UP blocks; residual branches start at zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.residual import ResidualBlock, ResidualBlockUpsample, ResidualBlockWithStride
from zoo_core.model import CodecModel
from zoo_core.training.block_start import GAMMA, GREY, HAAR, QUIET, STEP, zero
from zoo_dual_branch.entropy import DualBranchEntropy, TwoPassSlice
from zoo_dual_branch.transform import DualBranchTransform

_MARGIN = 0.1
"""Distance from zero, in pixel units, so that a linear path stays linear in early training."""
_PIXELS = 3 * 8 * 8
_HALF = 3 * 4 * 4
"""Values of a 4x4 RGB block, and of two Haar levels of it."""


@torch.no_grad()
def block_transform(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to the principal components of blocks of `photos` (uint8, (3, H, W)).

    Raises:
        UsageError: the networks of the preset are too deep, or too narrow for the components.
    """
    transform = model.transform
    assert isinstance(transform, DualBranchTransform)
    low = 0 if transform.g_a_l is None else transform.channels[1] // 4
    _check_room(transform, low)
    for module in transform.modules():
        if isinstance(module, ResidualBlock):
            zero(module.conv2)
    axes = _Axes(photos, low, transform.channels[0])
    _hr_analysis(transform.g_a_h, axes.basis[:, low:])
    if transform.g_a_l is not None and transform.g_s_l is not None:
        _lr_analysis(transform.g_a_l, axes.basis[:, :low], axes.quads)
        _lr_synthesis(transform.g_s_l, axes.quads)
    _synthesis(transform.g_s, axes.basis, low)
    _scales(model.entropy_model, axes)


def _check_room(transform: DualBranchTransform, low: int) -> None:
    g_a_l, needed = transform.g_a_l, low + transform.channels[0]
    fits = len(transform.g_a_h) == 5 and needed <= transform.g_s[0].out_channels
    fits &= transform.g_a_h[0].conv1.out_channels >= 12 and transform.g_a_h[2].conv1.out_channels >= _HALF
    if g_a_l is not None:
        fits &= g_a_l[1].out_channels >= _HALF and g_a_l[4].conv1.out_channels >= low
        fits &= transform.channels[1] == 4 * low
    if not fits:
        raise UsageError(
            "the block-transform start needs y_h at an eighth of the size, y_l with a multiple of 4 channels, "
            f"and at least {needed} channels at the entry of the synthesis"
        )


# --- components -------------------------------------------------------------------------------------


class _Axes:
    """Principal axes of `photos`, not centred, float64.

    Attributes:
        basis: of 8x8 RGB blocks, (192, low + high).
        quads: of 2x2 blocks of the first `low` coefficients, (4 * low, 4 * low); rows are ordered by
            (coefficient, row, column).
        high_scales, low_scales: root mean square of the channels of y_h and y_l.
    """

    def __init__(self, photos: Sequence[Tensor], low: int, high: int):
        blocks = [_blocks(photo) for photo in photos]  # each (R, C, 192) with even R and C
        basis, scales = _principal_axes([b.flatten(0, 1) for b in blocks])
        self.basis, self.high_scales = basis[:, : low + high], scales[low : low + high]
        quads = [(b @ basis[:, :low]).unfold(0, 2, 2).unfold(1, 2, 2) for b in blocks]
        self.quads, self.low_scales = _principal_axes([q.flatten(2).flatten(0, 1) for q in quads])


def _blocks(photo: Tensor) -> Tensor:
    """Pairs of 8x8 blocks in both directions, every second pair: (R, C, 192), less the mean grey."""
    height, width = (16 * (n // 16) for n in photo.shape[1:])
    x = photo[:, :height, :width].double().div(255) - GREY
    quads = x.unfold(1, 16, 32).unfold(2, 16, 32)  # (3, r, c, 16, 16)
    x = quads.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    return x.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).flatten(2)


def _principal_axes(samples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Axes (D, D) of samples, (N, D) each, strongest first, and root mean squares along them in steps, (D,).

    The core's `principal_axes` takes one step of 2x2 neighbours in float32; these are of whole 8x8 blocks.
    """
    moment = torch.stack([s.T @ s / len(s) for s in samples if len(s)]).mean(0)
    values, vectors = torch.linalg.eigh(moment)
    return vectors.flip(1), values.flip(0).clamp_min(0).sqrt() / STEP


# --- analysis ---------------------------------------------------------------------------------------


def _hr_analysis(g_a: nn.Sequential, basis: Tensor) -> None:
    """Two Haar steps, then the components `basis` (192, M_h)."""
    pixels = torch.zeros(3), torch.ones(3)
    _linear_down(g_a[2], _haar(12), _linear_down(g_a[0], _haar(3), pixels))
    _last(g_a, _in_features(g_a, basis, _HALF), basis.sum(0))


def _lr_analysis(g_a: nn.Sequential, basis: Tensor, quad_basis: Tensor) -> None:
    """The components `basis` (192, M_l / 4) of 8x8 blocks, then `quad_basis` of 2x2 blocks of them."""
    entry, count = g_a[1], basis.shape[1]
    entry.weight[:_HALF] = 0
    entry.bias[:_HALF] = 0  # pixels are not negative: LeakyReLU keeps them
    entry.weight[torch.arange(_HALF), torch.arange(_HALF), 1, 1] = 1
    # (192, m) -> pixel unshuffle order: (m, color and place in a 4x4 block, row, column of that block)
    kernel = basis.T.reshape(count, 3, 2, 4, 2, 4).permute(0, 1, 3, 5, 2, 4).reshape(count, _HALF, 2, 2)
    _linear_down(g_a[4], kernel.float(), (torch.zeros(_HALF), torch.ones(_HALF)))
    means = basis.sum(0).repeat_interleave(4)  # (4 m,), in the order of quad_basis' rows
    _last(g_a, quad_basis.T.reshape(-1, count, 2, 2), quad_basis.T @ means)


def _in_features(layers: nn.Sequential, basis: Tensor, count: int) -> Tensor:
    """`basis` (192, M) as a kernel (M, count, 2, 2) on what all but the last of `layers` give."""
    features = layers[:-1].double()(torch.eye(_PIXELS).double().view(_PIXELS, 3, 8, 8))
    offset = layers[:-1](torch.zeros(1, 3, 8, 8).double())
    layers.float()
    return torch.einsum("pm,pcyx->mcyx", basis, (features - offset)[:, :count])


def _last(g_a: nn.Sequential, kernel: Tensor, sums: Tensor) -> None:
    """Last convolution: `kernel` (M, C, 2, 2) in quantisation steps, less the response to grey."""
    last = g_a[-1]
    zero(last)
    last.weight[:, : kernel.shape[1], 1:, 1:] = (kernel / STEP).float()
    last.bias.copy_(-GREY * sums / STEP)


def _haar(channels: int) -> Tensor:
    """Haar step of `channels` channels: (4 * channels, channels, 2, 2)."""
    kernel = torch.zeros(4 * channels, channels, 2, 2)
    for c in range(channels):
        kernel[4 * c : 4 * c + 4, c] = HAAR
    return kernel


def _linear_down(
    block: ResidualBlockWithStride, kernel: Tensor, bounds: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """First outputs of a DOWN block: `kernel` (O, I, 2, 2) of its first inputs, carried linearly.

    LeakyReLU is linear for positive values, so an offset lifts the outputs over zero and the second
    convolution takes it away again.

    Args:
        bounds: smallest and largest value of each input, (I,) each; those of the outputs are returned.
    """
    rows, inputs = torch.arange(kernel.shape[0]), kernel.shape[1]
    least, most = _bounds(kernel, *bounds)
    block.conv1.weight[rows] = 0
    block.conv1.weight[rows, :inputs, 1:, 1:] = kernel
    block.conv1.bias[rows] = _MARGIN - least
    block.conv2.weight[rows] = 0
    block.conv2.weight[rows, rows, 1, 1] = 1
    block.conv2.bias[rows] = least - _MARGIN
    block.gdn.gamma[rows] = GAMMA
    block.skip.weight[rows] = 0
    block.skip.bias[rows] = 0
    return least, most


def _bounds(kernel: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest outputs (O,) of `kernel` (O, I, 2, 2) on inputs between `least` and `most` (I,)."""
    positive, negative = kernel.clamp_min(0).sum((2, 3)), kernel.clamp_max(0).sum((2, 3))  # (O, I)
    return positive @ least + negative @ most, positive @ most + negative @ least


# --- synthesis --------------------------------------------------------------------------------------


def _lr_synthesis(g_s: nn.Sequential, quad_basis: Tensor) -> None:
    """y_l in steps -> coefficients of 8x8 blocks in the first channels of f_l."""
    _only_skip(g_s[0], (quad_basis * STEP).float())


def _synthesis(g_s: nn.Sequential, basis: Tensor, low: int) -> None:
    """Coefficients -> 8x8 blocks, by two inverse Haar steps and the pixel shuffle."""
    entry, high = g_s[0], basis.shape[1] - low
    zero(entry)
    entry.weight[torch.arange(high), torch.arange(high), 1, 1] = STEP
    entry.weight[high + torch.arange(low), high + torch.arange(low), 1, 1] = 1
    ordered = torch.cat((basis[:, low:], basis[:, :low]), 1)  # as the entry gives them
    haar = nn.functional.conv2d(ordered.T.reshape(-1, 3, 8, 8), _haar(3).double(), stride=2)
    haar = nn.functional.conv2d(haar, _haar(12).double(), stride=2)  # (M, 48, 2, 2)
    _only_skip(g_s[2], haar.permute(1, 2, 3, 0).flatten(0, 2).float())
    _only_skip(g_s[4], _inverse_haar(12))
    last = g_s[-1][0]
    zero(last)
    last.weight[:, :12, 1, 1] = _inverse_haar(3)
    last.bias.fill_(GREY)


def _only_skip(block: ResidualBlockUpsample, weight: Tensor) -> None:
    """Make an UP block `weight` (outputs, inputs) before its pixel shuffle; other outputs are zero."""
    zero(block.conv)
    zero(block.skip[0])
    block.skip[0].weight[: weight.shape[0], : weight.shape[1], 0, 0] = weight


def _inverse_haar(channels: int) -> Tensor:
    """Inverse of `_haar` before a pixel shuffle: (4 * channels, 4 * channels)."""
    return torch.block_diag(*[HAAR.reshape(4, 4).T] * channels)


# --- entropy model ----------------------------------------------------------------------------------


def _scales(entropy_model: DualBranchEntropy, axes: _Axes) -> None:
    """Parameter networks start near mean 0 and the scale that each channel has on the photos."""
    for branch, scales in ((entropy_model.hr, axes.high_scales), (entropy_model.lr, axes.low_scales)):
        start = 0
        for nets in () if branch is None else branch.charm.slices:
            own = scales[start : start + nets.width].float()
            for net, mean, scale in _parameter_layers(nets):
                net.weight.mul_(QUIET)
                net.bias[mean] = 0
                net.bias[scale] = own
            start += nets.width


def _parameter_layers(nets: nn.Module) -> Iterator[tuple[nn.Conv2d, slice, slice]]:
    """Last layers of a slice's parameter networks, and which of their outputs are means and scales."""
    first, second = slice(None, nets.width), slice(nets.width, None)
    if isinstance(nets, TwoPassSlice):
        yield from ((net[-1], second, first) for net in (nets.anchors, nets.others))
    else:
        yield nets.parameters_net[-1], first, second
