"""Start of training as a block transform: the part of the 3-D cores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo_3dm_weconvene.transform import Core3D, SpatialCore, WaveletTransform3D
from zoo_core.errors import UsageError
from zoo_core.layers.gdn import GDN
from zoo_core.layers.wavelet import dwt2, dwt_channels
from zoo_core.model import CodecModel
from zoo_core.training.block_start import GAMMA, block_transform, zero
from zoo_core.training.scale_start import start_subbands


def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set transforms to the principal components of 8x8 blocks of `photos` (uint8, (3, H, W)), scales to match."""
    if not isinstance(model.transform, WaveletTransform3D):
        raise UsageError("the block-transform start is for 3DM-WeConvene's own transform")
    block_transform(model.transform, photos, _pass_through)
    start_subbands(model, photos)


def _pass_through(core: nn.Module, active: int, offset: float) -> None:
    """Make a core the identity, less `offset` on its first `active` channels.

    The DWT along the channels mixes neighbours, so all channels pass. Wavelets keep a constant in the low band
    of every level; `poly` leaves it in all bands.
    """
    assert isinstance(core, Core3D)
    for half in core.halves:
        _identity(half)
    channels = sum(half.conv_low.out_channels for half in core.halves)
    x = torch.zeros(1, channels, 8, 8)
    x[:, :active] = offset
    parts = dwt_channels(x, core.wavelet) if len(core.halves) == 2 else (x,)
    for half, low in zip(core.halves, parts, strict=True):
        for conv in half.conv_high:
            low, *high = dwt2(low, half.wavelet)
            conv.bias.copy_(-torch.cat(high, 1)[0, :, 0, 0])
        half.conv_low.bias.copy_(-low[0, :, 0, 0])


def _identity(half: SpatialCore) -> None:
    for conv in (half.conv_low, *half.conv_high):
        zero(conv)
        rows, middle = torch.arange(conv.out_channels), conv.kernel_size[0] // 2
        conv.weight[rows, rows, middle, middle] = 1
    for module in half.modules():
        if isinstance(module, GDN):
            module.gamma.fill_(GAMMA)
