"""A depthwise convolution that is fast in float64 too, where PyTorch on a CPU calls a kernel for every channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """(B, C, H, W) stays: `nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels)`, kernel odd."""

    def __init__(self, channels: int, kernel: int):
        super().__init__(channels, channels, kernel, 1, kernel // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float64 or x.device.type != "cpu":
            return super().forward(x)
        assert self.bias is not None
        height, width = x.shape[-2:]
        side = self.kernel_size[0]
        padded = F.pad(x, (side // 2,) * 4)
        total = self.bias[:, None, None]
        for i, tap in enumerate(self.weight.flatten(1).T[..., None, None]):  # K * K times (C, 1, 1)
            row, column = divmod(i, side)
            total = torch.addcmul(total, padded[..., row : row + height, column : column + width], tap)
        return total
