"""Generalised divisive normalisation (Balle, Laparra, Simoncelli; arXiv 1511.06281)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.layers.bound import lower_bound
from zoo_core.layers.inplace import multiplied

_PEDESTAL = 2.0**-36


class GDN(nn.Module):
    """y = x / sqrt(beta + gamma x^2) over channels, or times the root if `inverse` (IGDN).

    Shapes stay (B, C, H, W). `beta` and `gamma` are stored as square roots, so that both stay
    non-negative; parameter names and initialisation are CompressAI's.
    """

    def __init__(self, channels: int, inverse: bool = False, beta_min: float = 1e-6, gamma_init: float = 0.1):
        super().__init__()
        self.inverse = inverse
        self.beta_bound = (beta_min + _PEDESTAL) ** 0.5
        self.beta = nn.Parameter((torch.ones(channels) + _PEDESTAL).sqrt())
        self.gamma = nn.Parameter((gamma_init * torch.eye(channels) + _PEDESTAL).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        beta = lower_bound(self.beta, self.beta_bound) ** 2 - _PEDESTAL
        gamma = lower_bound(self.gamma, _PEDESTAL**0.5) ** 2 - _PEDESTAL
        norm = F.conv2d(x * x, gamma[:, :, None, None], beta)
        return multiplied(norm.sqrt_() if self.inverse else norm.rsqrt_(), x)
