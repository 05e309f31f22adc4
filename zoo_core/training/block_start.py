"""Start of training: the transforms as an orthonormal block transform, everything else near zero.

Halving blocks start as Haar steps in space, the last convolution turns each block of their outputs into its
principal components, and the synthesis starts as the transpose. Residual branches start at zero. So
training begins at the quality of transform coding instead of noise. `block_transform` does it for
`ResidualTransform`; the parts serve other transforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.rate import RateGains
from zoo_core.layers.residual import ResidualBlock, ResidualBlockUpsample
from zoo_core.layers.skeleton import CoreDown, CoreUp, ResidualTransform

# Quantisation step (on the scale 0..1) that is optimal at high rate for the middle of the levels:
# step^2 = 6 * 3 / (ln 2 * lambda * 255^2).
STEP = 0.207
GREY = 0.45
GAMMA = 1e-3
# Factor on the last weights of a parameter network, for y in quantisation steps.
QUIET = 0.1

# Haar of a 2x2 block ((a, b), (c, d)); rows LL, LH, HL, HH; (4, 2, 2)
HAAR = 0.5 * torch.tensor([[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]])


PassThrough = Callable[[nn.Module, int, float], None]
"""Makes a core the identity on its first `active` channels, less `offset`."""


@torch.no_grad()
def block_transform(
    transform: ResidualTransform, photos: Sequence[Tensor], pass_through: PassThrough
) -> None:
    """Set the transform to the principal components of 8x8 blocks of `photos` (uint8, (3, H, W)).

    Raises:
        UsageError: the transform has a stem, plain blocks, or fewer channels than it takes.
    """
    g_a, g_s = transform.g_a, transform.g_s
    if not isinstance(g_a[0], CoreDown) or transform.latent > g_s[0].conv.out_channels:
        raise UsageError("the block-transform start needs a preset without stem and with top >= latent")
    downs = [m for m in g_a if isinstance(m, CoreDown)]
    for module in transform.modules():
        if isinstance(module, ResidualBlock):
            zero(module.conv2)
    haar_down(downs[0], 3, 1.1, pass_through)
    haar_down(downs[1], 12, 2.2, pass_through)
    basis = principal_components(photos, transform.latent)  # (192, M)
    features = g_a[:-1].double()(torch.eye(192).double().view(192, 3, 8, 8))[:, :48]  # (192, 48, 2, 2)
    g_a.float()
    offset = g_a[:-1](torch.zeros(1, 3, 8, 8))[:, :48]
    kernel = torch.einsum("pm,pcyx->mcyx", basis, features - offset.double()).float()  # (M, 48, 2, 2)
    mean = torch.einsum("pm,p->m", basis, torch.full((192,), GREY, dtype=torch.float64)).float()
    last = g_a[-1]
    zero(last)
    last.weight[:, :48, 1:, 1:] = kernel / STEP
    last.bias.copy_(-mean / STEP)
    _synthesis(g_s, kernel)


def _synthesis(g_s: nn.Sequential, kernel: Tensor) -> None:
    latent = kernel.shape[0]
    ups = [m for m in g_s if isinstance(m, CoreUp)]
    entry = g_s[0]
    assert isinstance(entry, ResidualBlockUpsample)
    zero(entry.conv)
    zero(entry.skip[0])
    entry.skip[0].weight[torch.arange(latent), torch.arange(latent), 1, 1] = STEP
    for block in ups:
        zero(block.skip[0])
        for conv in block.core.modules():
            if isinstance(conv, nn.Conv2d):
                zero(conv)
    # (M, 48, 2, 2) -> pixel shuffle order (48 * 4, M)
    ups[0].skip[0].weight[: 48 * 4, :latent, 1, 1] = kernel.permute(1, 2, 3, 0).reshape(192, latent)
    haar_up(ups[1].skip[0], 12)
    zero(g_s[-1][0])
    haar_up(g_s[-1][0], 3)
    g_s[-1][0].bias.fill_(GREY)


def haar_down(block: CoreDown, channels: int, offset: float, pass_through: PassThrough) -> None:
    """First `4 * channels` outputs: Haar of each input channel, carried linearly through the block.

    LeakyReLU is linear for positive values, so an offset lifts the coefficients over zero and the
    convolution of the low band takes it away again (its LL gain is 2).
    """
    active = 4 * channels
    block.conv1.weight[:active] = 0
    block.conv1.bias[:active] = offset
    for c in range(channels):
        block.conv1.weight[4 * c : 4 * c + 4, c, 1:, 1:] = HAAR
    block.skip.weight[:active] = 0
    block.skip.bias[:active] = 0
    pass_through(block.core, active, offset)


def haar_up(conv: nn.Conv2d, channels: int) -> None:
    """Inverse Haar of `4 * channels` inputs as a convolution before a pixel shuffle."""
    for c in range(channels):
        conv.weight[4 * c : 4 * c + 4, 4 * c : 4 * c + 4, 1, 1] = HAAR.reshape(4, 4).T


def zero(conv: nn.Module) -> None:
    assert isinstance(conv, nn.Conv2d)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)


def principal_components(photos: Sequence[Tensor], count: int, side: int = 8) -> Tensor:
    """First `count` principal axes of square RGB blocks of `side` pixels (not centred).

    float64 (3 * side^2, count); a row is a channel, then a line, then a column.
    """
    size = 3 * side**2
    moment = torch.zeros(size, size, dtype=torch.float64)
    for photo in photos:
        height, width = (side * (n // side) for n in photo.shape[1:])
        x = photo[:, :height, :width].double().div(255) - GREY
        blocks = x.unfold(1, side, side).unfold(2, side, side)[:, ::2, ::2]
        blocks = blocks.permute(1, 2, 0, 3, 4).reshape(-1, size)
        moment += blocks.T @ blocks / len(blocks)
    return torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :count]


@torch.no_grad()
def picture_unit(gains: RateGains | None, *sees_y: nn.Conv2d) -> float:
    """What 1 in y is worth in the picture; an entropy model is prepared for it.

    The gains take over the quantisation step of the middle level, so that a step of the optimiser moves what the
    first layer of the synthesis gives a fifth as far. Without gains, y itself is in quantisation steps.

    Args:
        sees_y: layers whose first inputs are y; they see it in quantisation steps as before.
    """
    if gains is None:
        return STEP
    gains.log_scale.sub_(math.log(STEP))
    gains.log_step.add_(math.log(STEP))
    for conv in sees_y:
        conv.weight[:, : gains.log_step.shape[1]].div_(STEP)
    return 1.0
