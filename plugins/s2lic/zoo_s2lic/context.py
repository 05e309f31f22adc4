"""The two contexts that a slice takes from the slices before it: channel-wise (AC) and global (AG).

AC gates two convolutional branches with each other; AG attends to samples of the whole map, at places that
the query chooses. Both see decoded slices only, and both are made of parts that work at any size and in any
precision, since they run between the symbols of a file.

Source: figures of S2LIC's repository. The gates' inner layers follow the interaction modules of the Dual
Aggregation Transformer (Chen et al., ICCV 2023), the sampling that of the Vision Transformer with Deformable
Attention (Xia et al., CVPR 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.layers.depthwise import DepthwiseConv2d
from zoo_core.layers.precision import full_precision
from zoo_core.layers.residual import conv1x1, conv3x3

MAX_SAMPLES = 1024
REACH = 2
"""How many cells of the sampling grid an offset may lead away."""


def _norm(channels: int, norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm else nn.Identity()


class SpaceGate(nn.Sequential):
    """(B, D, H, W) -> (B, 1, H, W) in (0, 1)."""

    def __init__(self, channels: int, norm: bool):
        hidden = max(channels // 16, 1)
        super().__init__(
            conv1x1(channels, hidden), _norm(hidden, norm), nn.GELU(), conv1x1(hidden, 1), nn.Sigmoid()
        )


class ChannelGate(nn.Sequential):
    """(B, D, H, W) -> (B, D, 1, 1) in (0, 1)."""

    def __init__(self, channels: int, norm: bool):
        hidden = max(channels // 8, 1)
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            conv1x1(channels, hidden),
            _norm(hidden, norm),
            nn.GELU(),
            conv1x1(hidden, channels),
            nn.Sigmoid(),
        )


class CrossGates(nn.Module):
    """Two branches, each scaled by a gate that the other opens: by place, and by channel. (B, D, H, W) stays.

    With `gated` False it is their plain sum.
    """

    def __init__(self, channels: int, norm: bool, gated: bool):
        super().__init__()
        self.space = SpaceGate(channels, norm) if gated else None
        self.channel = ChannelGate(channels, norm) if gated else None

    def forward(self, by_space: Tensor, by_channel: Tensor) -> Tensor:
        if self.space is None or self.channel is None:
            return by_space + by_channel
        return by_space * self.space(by_channel) + by_channel * self.channel(by_space)


def local_branch(channels: int, norm: bool) -> nn.Sequential:
    """Depthwise 3x3 convolution: the branch that both contexts have beside their own."""
    return nn.Sequential(DepthwiseConv2d(channels, 3), _norm(channels, norm), nn.GELU())


class ChannelContext(nn.Module):
    """AC: decoded slices (B, D, H, W) -> (B, out, H, W).

    Args:
        before: channels D of the slices before. out: channels of the context.
        norm: batch normalisation, as published. gated: False for the ablation.
        depth: 3x3 convolutions of the main branch; the published number is 2.
    """

    def __init__(self, before: int, out: int, norm: bool, gated: bool = True, depth: int = 2):
        super().__init__()
        layers = [layer for _ in range(depth) for layer in (conv3x3(before, before), nn.GELU())]
        self.attend = nn.Sequential(*layers)
        self.local = local_branch(before, norm)
        self.gates = CrossGates(before, norm, gated)
        self.out = conv1x1(before, out)

    def forward(self, before: Tensor) -> Tensor:
        return self.out(self.gates(self.attend(before), self.local(before)))


class GlobalContext(nn.Module):
    """AG: decoded slices (B, D, H, W) -> (B, out, H, W), with attention to samples of the whole map.

    Args:
        before: channels D of the slices before. out: channels of the context.
        extra: channels of the current slice that the query sees beside the slices before it.
        norm: batch normalisation, as published. gated: False for the ablation.
        head: channels of a head; it divides D.
        deformable: False for the ablation with samples on a regular grid.
    """

    def __init__(
        self,
        before: int,
        extra: int,
        out: int,
        norm: bool,
        gated: bool = True,
        head: int = 32,
        deformable: bool = True,
    ):
        super().__init__()
        self.attention = DeformableAttention(before, extra, head, deformable)
        self.mix = nn.Conv2d(before, before, 5, 1, 2)
        self.local = local_branch(before, norm)
        self.gates = CrossGates(before, norm, gated)
        self.out = conv1x1(before, out)

    def forward(self, before: Tensor, current: Tensor | None = None) -> Tensor:
        """`current` (B, extra, H, W): what is decoded of the slice itself, zeros elsewhere."""
        attended = self.mix(self.attention(before, current))
        # Crossed the other way round than in AC: the local branch is gated by place.
        return self.out(self.gates(self.local(before), attended))


class DeformableAttention(nn.Module):
    """Every position attends to samples of the map, taken at offsets that the queries predict.

    The samples lie around a grid of at most `MAX_SAMPLES` cells; each head has places of its own, by one
    network for all. There is no position bias, so nothing depends on the size of the map.
    """

    def __init__(self, channels: int, extra: int, head: int, deformable: bool = True):
        super().__init__()
        self.heads = channels // head
        self.query = conv1x1(channels + extra, channels)
        self.key, self.value = conv1x1(channels, channels), conv1x1(channels, channels)
        self.offset = OffsetNet(head) if deformable else None

    def forward(self, before: Tensor, current: Tensor | None = None) -> Tensor:
        """(B, D, H, W), and the part of the current slice that the query sees -> (B, D, H, W)."""
        batch, _, height, width = before.shape
        query = self.query(before if current is None else torch.cat([before, current], 1))
        samples = self._samples(before, query.reshape(batch * self.heads, -1, height, width))
        # Contiguous, or torch would choose the attention that holds all weights at once, H * W x samples.
        q, k, v = (
            x.reshape(batch, self.heads, -1, x.shape[2] * x.shape[3]).transpose(2, 3).contiguous()
            for x in (query, self.key(samples), self.value(samples))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(before.shape)

    def _samples(self, before: Tensor, query: Tensor) -> Tensor:
        """Slices (B, D, H, W) read where queries (B * heads, D / heads, H, W) ask: (B, D, rows, columns)."""
        height, width = before.shape[2:]
        step = grid_step(height, width)
        rows, columns = -(-height // step), -(-width // step)
        places = grid(rows, columns, before)
        with full_precision(before):  # places need all their bits
            if self.offset is not None:
                cell = before.new_tensor([2 / columns, 2 / rows])
                shift = torch.tanh(self.offset(query.to(before.dtype), step)).permute(0, 2, 3, 1)
                places = (places + shift * REACH * cell).clamp(-1, 1)
            maps = before.reshape(query.shape)  # a map for each head
            places = places.expand(len(maps), -1, -1, -1)
            found = F.grid_sample(maps, places, padding_mode="border", align_corners=False)
        return found.reshape(before.shape[0], -1, rows, columns)

    def products(self, before: Tensor, current: Tensor | None = None) -> int:
        """Multiplications of queries with keys and of weights with values."""
        batch, channels, height, width = before.shape
        step = grid_step(height, width)
        return 2 * batch * channels * height * width * -(-height // step) * -(-width // step)


class OffsetNet(nn.Module):
    """Queries of a head (B, d, H, W) -> offsets (B, 2, H/step, W/step), x before y, rounded up.

    Starts near zero, that is on the grid.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.out = nn.Conv2d(channels, 2, 1, bias=False)
        nn.init.normal_(self.out.weight, std=1e-3)

    def forward(self, query: Tensor, step: int) -> Tensor:
        conv = self.conv
        x = F.conv2d(query, conv.weight, conv.bias, step, conv.padding, groups=conv.groups)
        return self.out(F.gelu(x))

    def products(self, query: Tensor, step: int) -> int:
        """Multiplications of `conv`, which is not called as a module; those of `out` are its own."""
        cells = -(-query.shape[2] // step) * -(-query.shape[3] // step)
        return len(query) * self.conv.weight.numel() * cells


def grid_step(height: int, width: int) -> int:
    """Smallest step of at least 2 that leaves at most `MAX_SAMPLES` cells of a map."""
    step = 2
    while -(-height // step) * -(-width // step) > MAX_SAMPLES:
        step += 1
    return step


def grid(rows: int, columns: int, like: Tensor) -> Tensor:
    """Centres of the cells of a map, from -1 to 1: (1, rows, columns, 2), x before y."""
    y, x = ((2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1 for n in (rows, columns))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
