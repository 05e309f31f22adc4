"""Start of training: the transforms as an orthonormal block transform, everything else near zero.

The two WeDown blocks start as Haar steps in space, the last convolution turns each 8x8 block of their
outputs into its principal components, and the synthesis starts as the transpose. Residual branches start
at zero. So training begins at the quality of transform coding instead of noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.residual import ResidualBlock, ResidualBlockUpsample
from zoo_core.model import CodecModel
from zoo_weconvene.transform import WeCore, WeDown, WeUp

# Quantisation step (on the scale 0..1) that is optimal at high rate for the middle of the levels:
# step^2 = 6 * 3 / (ln 2 * lambda * 255^2).
_STEP = 0.207
_GREY = 0.45
_GAMMA = 1e-3

# Haar of a 2x2 block ((a, b), (c, d)); rows LL, LH, HL, HH; (4, 2, 2)
_HAAR = 0.5 * torch.tensor([[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]])


@torch.no_grad()
def block_transform(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set `model`'s transforms to the principal components of 8x8 blocks of `photos` (uint8, (3, H, W))."""
    g_a, g_s = model.transform.g_a, model.transform.g_s
    if not isinstance(g_a[0], WeDown) or model.transform.latent > g_s[0].conv.out_channels:
        raise UsageError("the block-transform start needs a preset without stem and with top >= latent")
    downs = [m for m in g_a if isinstance(m, WeDown)]
    ups = [m for m in g_s if isinstance(m, WeUp)]
    for module in model.transform.modules():
        if isinstance(module, ResidualBlock):
            _zero(module.conv2)
    _haar_down(downs[0], 3, 1.1)
    _haar_down(downs[1], 12, 2.2)
    basis = _principal_components(photos, model.transform.latent)  # (192, M)
    features = g_a[:-1].double()(torch.eye(192).double().view(192, 3, 8, 8))[:, :48]  # (192, 48, 2, 2)
    g_a.float()
    offset = g_a[:-1](torch.zeros(1, 3, 8, 8))[:, :48]
    kernel = torch.einsum("pm,pcyx->mcyx", basis, features - offset.double()).float()  # (M, 48, 2, 2)
    mean = torch.einsum("pm,p->m", basis, torch.full((192,), _GREY, dtype=torch.float64)).float()
    last = g_a[-1]
    _zero(last)
    last.weight[:, :48, 1:, 1:] = kernel / _STEP
    last.bias.copy_(-mean / _STEP)
    _synthesis(g_s, ups, kernel)


def _synthesis(g_s: nn.Sequential, ups: list[WeUp], kernel: Tensor) -> None:
    latent = kernel.shape[0]
    entry = g_s[0]
    assert isinstance(entry, ResidualBlockUpsample)
    _zero(entry.conv)
    _zero(entry.skip[0])
    entry.skip[0].weight[torch.arange(latent), torch.arange(latent), 1, 1] = _STEP
    for block in ups:
        _zero(block.skip[0])
        for conv in (block.core.conv_low, block.core.conv_high):
            _zero(conv)
    # (M, 48, 2, 2) -> pixel shuffle order (48 * 4, M)
    ups[0].skip[0].weight[: 48 * 4, :latent, 1, 1] = kernel.permute(1, 2, 3, 0).reshape(192, latent)
    _haar_up(ups[1].skip[0], 12)
    _zero(g_s[-1][0])
    _haar_up(g_s[-1][0], 3)
    g_s[-1][0].bias.fill_(_GREY)


def _haar_down(block: WeDown, channels: int, offset: float) -> None:
    """First `4 * channels` outputs: Haar of each input channel, carried linearly through the block.

    LeakyReLU is linear for positive values, so an offset lifts the coefficients over zero and the
    convolution of the low band takes it away again (its LL gain is 2).
    """
    active = 4 * channels
    block.conv1.weight[:active] = 0
    block.conv1.bias[:active] = offset
    for c in range(channels):
        block.conv1.weight[4 * c : 4 * c + 4, c, 1:, 1:] = _HAAR
    block.skip.weight[:active] = 0
    block.skip.bias[:active] = 0
    _pass_through(block.core, active, offset)


def _pass_through(core: WeCore, active: int, offset: float) -> None:
    """Make WeCore the identity on its first `active` channels, less `offset`."""
    width = core.conv_low.out_channels
    rows = torch.arange(active)
    bands = torch.cat([rows + band * width for band in range(3)])
    for conv, gdn, index in ((core.conv_low, core.gdn_low, rows), (core.conv_high, core.gdn_high, bands)):
        conv.weight[index] = 0
        conv.weight[index, index, 1, 1] = 1
        conv.bias[index] = 0
        gdn.gamma[index] = _GAMMA
    core.conv_low.bias[rows] = -2 * offset


def _haar_up(conv: nn.Conv2d, channels: int) -> None:
    """Inverse Haar of `4 * channels` inputs as a convolution before a pixel shuffle."""
    for c in range(channels):
        conv.weight[4 * c : 4 * c + 4, 4 * c : 4 * c + 4, 1, 1] = _HAAR.reshape(4, 4).T


def _zero(conv: nn.Module) -> None:
    assert isinstance(conv, nn.Conv2d)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)


def _principal_components(photos: Sequence[Tensor], count: int) -> Tensor:
    """First `count` principal axes of 8x8 RGB blocks (not centred), float64 (192, count)."""
    moment = torch.zeros(192, 192, dtype=torch.float64)
    for photo in photos:
        height, width = (8 * (n // 8) for n in photo.shape[1:])
        x = photo[:, :height, :width].double().div(255) - _GREY
        blocks = x.unfold(1, 8, 8).unfold(2, 8, 8)[:, ::2, ::2].permute(1, 2, 0, 3, 4).reshape(-1, 192)
        moment += blocks.T @ blocks / len(blocks)
    return torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :count]
