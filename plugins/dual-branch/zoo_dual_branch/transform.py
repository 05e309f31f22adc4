"""Two encoders that see the picture independently, and one synthesis of both latents.

    x (3, H, W) -> g_a_h: DOWN, RB, ..., conv, stride 2                         -> y_h (M_h, H/s, W/s)
    x (3, H, W) -> g_a_l: pixel unshuffle 4, conv, RB, DOWN, ..., conv, stride 2 -> y_l (M_l, H/2s, W/2s)
    y_l -> g_s_l: UP, RBs -> f_l (L, H/s, W/s);   y_h, f_l -> g_s: conv, RB, UP, ... -> x_hat (3, H, W)

The high-resolution branch (HR) is meant for local, the low-resolution branch (LR) for global information
(abstract of arXiv 2401.11093). The LR branch reaches a quarter of the size without arithmetic at full
resolution, so it is cheap. The blocks are those of the first author's earlier codec; sizes are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.interfaces import Shape, Transform
from zoo_core.layers.residual import (
    PreciseConv2d,
    ResidualBlock,
    ResidualBlockUpsample,
    ResidualBlockWithStride,
    conv3x3,
    residual_blocks,
    subpel_conv,
)

SLOPE = 0.2
"""Of every LeakyReLU of this method."""

UNSHUFFLE = 4
"""Factor by which the LR branch folds space into channels before its first convolution."""


def down(in_ch: int, out_ch: int) -> ResidualBlockWithStride:
    """DOWN: (B, in, H, W) -> (B, out, H/2, W/2)."""
    return ResidualBlockWithStride(in_ch, out_ch, 2, SLOPE)


def up(in_ch: int, out_ch: int) -> ResidualBlockUpsample:
    """UP: (B, in, H, W) -> (B, out, 2H, 2W)."""
    return ResidualBlockUpsample(in_ch, out_ch, 2, SLOPE, skip_kernel=1)


def hr_analysis(widths: tuple[int, ...], latent: int) -> nn.Sequential:
    """g_a_h: (B, 3, H, W) -> (B, latent, H/s, W/s) with s = 2^(len(widths) + 1)."""
    layers: list[nn.Module] = []
    for in_ch, out_ch in zip((3, *widths), widths, strict=False):
        layers += [down(in_ch, out_ch), ResidualBlock(out_ch, SLOPE)]
    return nn.Sequential(*layers, PreciseConv2d(widths[-1], latent, 3, 2, 1))


def lr_analysis(widths: tuple[int, ...], blocks: int, latent: int) -> nn.Sequential:
    """g_a_l: (B, 3, H, W) -> (B, latent, H/2s, W/2s) with 2s = 2^(len(widths) + 2)."""
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(UNSHUFFLE),  # (B, 48, H/4, W/4)
        conv3x3(3 * UNSHUFFLE**2, widths[0]),
        nn.LeakyReLU(SLOPE, inplace=True),
        ResidualBlock(widths[0], SLOPE),
    ]
    for i, (in_ch, out_ch) in enumerate(zip(widths, widths[1:], strict=False), 2):
        count = blocks if i == len(widths) else 1
        layers += [down(in_ch, out_ch), *residual_blocks(out_ch, count, SLOPE)]
    return nn.Sequential(*layers, PreciseConv2d(widths[-1], latent, 3, 2, 1))


def joint_synthesis(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """g_s: (B, inputs, H/s, W/s) -> (B, 3, H, W) with s = 2^(len(widths) + 1)."""
    top = widths[-1]
    layers: list[nn.Module] = [conv3x3(inputs, top), ResidualBlock(top, SLOPE)]
    for in_ch, out_ch in zip((top, *widths[::-1]), widths[::-1], strict=False):
        layers += [up(in_ch, out_ch), ResidualBlock(out_ch, SLOPE)]
    return nn.Sequential(*layers, subpel_conv(widths[0], 3, 2, precise=True))


class DualBranchTransform(Transform):
    """Pictures to an HR latent y_h and an LR latent y_l of half its height and width.

    Height and width must be such that both latents fit: multiples of 2 * `downscale`, which the entropy
    model's own `downscale` sees to in a codec.

    Args:
        widths: channels of the HR branch and of the synthesis at 1/2, 1/4, ... of the size; one DOWN each.
        latent: channels M_h of y_h.
        lr_widths: channels of the LR branch at 1/4, 1/8, ... of the size, down to the size of y_h.
        lr_blocks: residual blocks of the LR branch at the size of y_h, in analysis and synthesis.
        lr_latent: channels M_l of y_l.
        lr_off: ablation with a single branch: no LR latent, and no networks for one.

    Raises:
        UsageError: the branches are not one octave apart.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        latent: int,
        lr_widths: tuple[int, ...],
        lr_blocks: int,
        lr_latent: int,
        lr_off: bool = False,
    ):
        super().__init__()
        if len(lr_widths) != len(widths):
            raise UsageError(f"lr_widths must be as many as widths, {len(widths)}, not {len(lr_widths)}")
        self.downscale = 2 ** (len(widths) + 1)
        self.channels = (latent,) if lr_off else (latent, lr_latent)
        self.g_a_h = hr_analysis(widths, latent)
        self.g_a_l: nn.Module | None = None
        self.g_s_l: nn.Module | None = None
        if not lr_off:
            self.g_a_l = lr_analysis(lr_widths, lr_blocks, lr_latent)
            top = lr_widths[-1]
            self.g_s_l = nn.Sequential(up(lr_latent, top), *residual_blocks(top, lr_blocks, SLOPE))
        self.g_s = joint_synthesis(latent if lr_off else latent + lr_widths[-1], widths)

    def analysis(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> y_h (B, M_h, H/s, W/s), y_l (B, M_l, H/2s, W/2s)."""
        return (self.g_a_h(x),) if self.g_a_l is None else (self.g_a_h(x), self.g_a_l(x))

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        """y_h, y_l -> (B, 3, H, W), not clamped."""
        if self.g_s_l is None:
            return self.g_s(latents[0])
        return self.g_s(torch.cat((latents[0], self.g_s_l(latents[1])), 1))

    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        sizes = (self.downscale, 2 * self.downscale)
        return tuple((c, height // s, width // s) for c, s in zip(self.channels, sizes, strict=False))
