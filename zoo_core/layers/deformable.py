"""Deformable 3x3 convolution (Dai et al. 2017): each tap of each output reads from a place of its own.

Offsets (B, 18 G, H, W) are (dy, dx) pairs, tap after tap, group after group, which is torchvision's layout;
group g moves the input channels g n/G to (g + 1) n/G. Reading is bilinear, with zeros outside of the map.
torchvision's operator is used where a real call of it works, since torchvision can be imported without its
compiled operators; elsewhere the same sum is written with `grid_sample`.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.layers.precision import full_precision
from zoo_core.layers.residual import conv3x3, zeroed

TAPS = 9


class DeformableConv2d(nn.Conv2d):
    """3x3 convolution, (B, n, H, W) stays, with offsets that a 3x3 convolution of the input predicts.

    Offsets start at zero, where this is an ordinary convolution.

    Args:
        channels: n. groups: G, each with its own offsets.
        modulated: also weight every tap by a factor from 0 to 2, which starts at 1 (version 2).
        frozen: keep all offsets at zero: the control of equal size.
    """

    def __init__(self, channels: int, groups: int = 1, modulated: bool = False, frozen: bool = False):
        super().__init__(channels, channels, 3, 1, 1)
        self.offset_groups, self.modulated, self.frozen = groups, modulated, frozen
        self.offset = zeroed(conv3x3(channels, (27 if modulated else 18) * groups))
        if frozen:
            self.offset.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.frozen:
            return super().forward(x)
        moves = self.offset(x)
        mask = None
        if self.modulated:
            moves, mask = moves.split([2 * TAPS * self.offset_groups, TAPS * self.offset_groups], 1)
            mask = 2 * torch.sigmoid(mask)
        return deform_conv2d(x, moves, self.weight, self.bias, mask)


def deform_conv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """3x3 convolution with stride 1 and padding 1 at moved places.

    Args:
        x: (B, C, H, W). offset: (B, 18 G, H, W). weight: (O, C, 3, 3). bias: (O,).
        mask: (B, 9 G, H, W), weights of the taps.
    """
    if x.is_meta:  # shapes only
        return F.conv2d(x, weight, bias, padding=1)
    operator = _torchvision(x.device.type)
    if operator is None:
        return deform_conv2d_plain(x, offset, weight, bias, mask)
    with full_precision(x):
        dtype = weight.dtype
        return operator(
            x.to(dtype),
            offset.to(dtype),
            weight,
            bias,
            padding=1,
            mask=None if mask is None else mask.to(dtype),
        )


def deform_conv2d_plain(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """`deform_conv2d` in plain PyTorch."""
    (batch, channels, height, width), groups = x.shape, offset.shape[1] // (2 * TAPS)
    # Places need all their bits: a tap of a bfloat16 grid would miss by pixels.
    with full_precision(x):
        grid = _places(offset.to(weight.dtype), groups)  # (B G, 9 H, W, 2)
        source = x.to(weight.dtype).reshape(batch * groups, channels // groups, height, width)
        read = F.grid_sample(source, grid, "bilinear", "zeros", align_corners=False)
    read = read.view(batch, groups, channels // groups, TAPS, height * width)
    if mask is not None:
        read = read * mask.reshape(batch, groups, 1, TAPS, height * width)
    out = torch.matmul(weight.flatten(1), read.view(batch, channels * TAPS, height * width))
    out = out.view(batch, -1, height, width)
    return out if bias is None else out + bias.to(out.dtype)[:, None, None]


def _places(offset: Tensor, groups: int) -> Tensor:
    """Offsets (B, 18 G, H, W) -> where to read, in the units of `grid_sample`, (B G, 9 H, W, 2)."""
    batch, _, height, width = offset.shape
    tap = torch.arange(TAPS, device=offset.device)
    rows = torch.arange(height, device=offset.device)[:, None]
    columns = torch.arange(width, device=offset.device)
    moves = offset.reshape(batch * groups, TAPS, 2, height, width)
    y = moves[:, :, 0] + (rows - 1 + (tap // 3)[:, None, None])
    x = moves[:, :, 1] + (columns - 1 + (tap % 3)[:, None, None])
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)  # (B G, 9, H, W, 2)
    return grid.view(batch * groups, TAPS * height, width, 2)


@functools.cache
def _torchvision(device: str):
    """torchvision's operator if a real call on that kind of device gives a result, else None.

    On CPUs it is never asked for: a picture should not wait for the import of a second library.
    """
    if device == "cpu":
        return None
    try:
        from torchvision.ops import deform_conv2d as operator

        operator(
            *(torch.zeros(shape, device=device) for shape in ((1, 1, 3, 3), (1, 18, 3, 3), (1, 1, 3, 3))),
            padding=1,
        )
    except Exception:  # whatever is wrong with that installation, the plain form works
        return None
    return operator
