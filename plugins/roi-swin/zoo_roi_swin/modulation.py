"""Spatially-adaptive feature transforms (SFT), and the pyramids of conditions that steer them.

A condition is a feature map made of what one side knows: picture and mask in the encoder, decoded latents in
the decoder. Every SFT starts as the identity, so that a new network is a plain codec that ignores the mask.
Form: Song et al., Variable-Rate Deep Image Compression through Spatially-Adaptive Feature Transform
(ICCV 2021), whose first conditions are at full size; ours start at half of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.layers.residual import conv1x1, conv3x3, zeroed

_SLOPE = 0.1


def carrying(module: nn.Module) -> nn.Module:
    """The module with convolutions whose outputs are as large as their inputs (He et al., ICCV 2015).

    Torch's default shrinks them each time: after the eight layers down to 1/16 of the size, the mask would hardly
    be felt, and be learnt late.
    """
    for conv in module.modules():
        if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(zeroed(conv).weight, _SLOPE)
            if isinstance(conv, nn.ConvTranspose2d):  # each output meets a quarter of the taps
                with torch.no_grad():
                    conv.weight.mul_(2)
    return module


def deconv3x3(in_ch: int, out_ch: int) -> nn.ConvTranspose2d:
    """(B, in, H, W) -> (B, out, 2H, 2W)."""
    return nn.ConvTranspose2d(in_ch, out_ch, 3, 2, 1, 1)


class SFT(nn.Module):
    """x * (1 + gamma) + beta, with gamma and beta (B, C, H, W) computed from a condition; zero at first.

    Args:
        channels: C of x. condition: channels of the condition. hidden: channels of what both share.
    """

    def __init__(self, channels: int, condition: int, hidden: int):
        super().__init__()
        self.shared = carrying(conv3x3(condition, hidden))
        self.gamma = zeroed(conv3x3(hidden, channels))
        self.beta = zeroed(conv3x3(hidden, channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shared = F.relu(self.shared(condition), inplace=True)
        return x * (1 + self.gamma(shared)) + self.beta(shared)


class Pyramid(nn.Module):
    """Conditions at several sizes, each made from the one before: `first`, then `steps`."""

    def __init__(self, first: nn.Module, steps: Sequence[nn.Module]):
        super().__init__()
        self.first = carrying(first)
        self.steps = nn.ModuleList(carrying(step) for step in steps)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        conditions = [self.first(x)]
        for step in self.steps:
            conditions.append(step(conditions[-1]))
        return tuple(conditions)


class DecoderPyramid(Pyramid):
    """Conditions at 1/16, 1/8, 1/4 and 1/2 of the size from y_hat (1/16), z_hat (1/64) and, if it is signalled,
    the mask (1/16)."""

    def __init__(self, latent: int, hyper_latent: int, width: int, signalled: bool):
        super().__init__(
            _refined(conv3x3(latent + width + signalled, width), width),
            [_mixed(deconv3x3(width, width), width) for _ in range(3)],
        )
        self.lift = carrying(
            nn.Sequential(deconv3x3(hyper_latent, width), nn.LeakyReLU(_SLOPE), deconv3x3(width, width))
        )

    def forward(self, y_hat: Tensor, z_hat: Tensor, *mask: Tensor) -> tuple[Tensor, ...]:
        return super().forward(torch.cat([y_hat, self.lift(z_hat), *mask], 1))


def encoder_pyramid(width: int) -> Pyramid:
    """Conditions at 1/2, 1/4, 1/8 and 1/16 of the size from picture and mask, (B, 4, H, W)."""
    return Pyramid(
        _refined(conv3x3(4, width, 2), width), [_mixed(conv3x3(width, width, 2), width) for _ in range(3)]
    )


def hyper_pyramid(latent: int, width: int) -> Pyramid:
    """Conditions at 1/16 and 1/32 of the size from y and the mask at its size, (B, M + 1, H/16, W/16)."""
    return Pyramid(_refined(conv3x3(latent + 1, width), width), [_mixed(conv3x3(width, width, 2), width)])


def _refined(first: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(first, nn.LeakyReLU(_SLOPE), conv3x3(width, width))


def _mixed(resize: nn.Module, width: int) -> nn.Sequential:
    return nn.Sequential(resize, nn.LeakyReLU(_SLOPE), conv1x1(width, width))
