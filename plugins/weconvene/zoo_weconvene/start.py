"""Start of training as a block transform: WeConv's part of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.wavelet import dwt2
from zoo_core.model import CodecModel
from zoo_core.training.block_start import GAMMA, block_transform
from zoo_core.training.scale_start import start_subbands
from zoo_weconvene.transform import WeConveneTransform, WeCore


def start(model: CodecModel, photos: Sequence[Tensor]) -> None:
    """Set transforms to the principal components of 8x8 blocks of `photos` (uint8, (3, H, W)), scales to match."""
    if not isinstance(model.transform, WeConveneTransform):
        raise UsageError("the block-transform start is for WeConvene's own transform")
    block_transform(model.transform, photos, _pass_through)
    start_subbands(model, photos)


def _pass_through(core: nn.Module, active: int, offset: float) -> None:
    """Make WeCore the identity on its first `active` channels, less `offset`.

    A wavelet keeps a constant in LL, with a gain of 2; `poly` leaves it in all bands.
    """
    assert isinstance(core, WeCore)
    width = core.conv_low.out_channels
    rows = torch.arange(active)
    bands = torch.cat([rows + band * width for band in range(3)])
    for conv, gdn, index in ((core.conv_low, core.gdn_low, rows), (core.conv_high, core.gdn_high, bands)):
        conv.weight[index] = 0
        conv.weight[index, index, 1, 1] = 1
        gdn.gamma[index] = GAMMA
    low, *high = dwt2(torch.full((1, active, 2, 2), offset), core.wavelet)
    core.conv_low.bias[rows] = -low.flatten()
    core.conv_high.bias[bands] = -torch.cat(high, 1).flatten()
