"""Residual Swin transform: strided convolutions with a stage of window attention between each two.

x (3, H, W) -> enhance -> conv -> stage -> conv -> stage -> conv -> stage -> conv -> y (M, H/16, W/16)
y -> deconv -> stage -> deconv -> stage -> deconv -> stage -> picture -> enhance -> x_hat (3, H, W)

There are no activations between the rows. The layout is that of Lu et al., Transformer-based Image
Compression (DCC 2022), without its last two stages; the stages are `SwinStage`s of either version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from zoo_core.interfaces import Shape, Transform
from zoo_core.layers.residual import PreciseConv2d, PreciseConvTranspose2d, subpel_conv
from zoo_core.layers.swin import SwinStage

Widths = tuple[int, int, int]
"""One number for each of the stages at 1/2, 1/4 and 1/8 of the size."""


def halving(in_ch: int, out_ch: int, kernel: int = 3) -> nn.Conv2d:
    """(B, in, H, W) -> (B, out, H/2, W/2)."""
    return nn.Conv2d(in_ch, out_ch, kernel, 2, kernel // 2)


def doubling(in_ch: int, out_ch: int, kernel: int = 3) -> nn.ConvTranspose2d:
    """(B, in, H, W) -> (B, out, 2H, 2W)."""
    return nn.ConvTranspose2d(in_ch, out_ch, kernel, 2, kernel // 2, 1)


def subpel_picture(in_ch: int) -> nn.Module:
    """Last layer of a synthesis: 3x3 convolution, then pixel shuffle."""
    return subpel_conv(in_ch, 3, 2, precise=True)


def transposed_picture(in_ch: int) -> nn.Module:
    """Last layer of a synthesis: transposed 5x5 convolution."""
    return PreciseConvTranspose2d(in_ch, 3, 5, 2, 2, 1)


def drop_rates(maximum: float, counts: Sequence[int]) -> list[tuple[float, ...]]:
    """Rates of stochastic depth that rise evenly from 0 to `maximum`, cut into stages of `counts` blocks."""
    steps = iter(range(sum(counts)))
    return [tuple(maximum * next(steps) / (sum(counts) - 1) for _ in range(n)) for n in counts]


class SwinTransform(Transform):
    """Pictures to one latent at a sixteenth of the size.

    Args:
        latent: channels M of y.
        widths, depths, heads: channels, blocks and heads of the stages at 1/2, 1/4, 1/8.
        mlp_ratio, version: see `SwinStage`. window: side of a window.
        drop_path: largest rate of stochastic depth. The rates of the blocks rise evenly to it, over
            `hyper_blocks` more than a transform has: the layout that they come from has two more stages, in
            its hyper coders.
        picture: makes the last layer of the synthesis, (B, in, H/2, W/2) -> (B, 3, H, W).
        enhance: makes the module at full size at either end.
    """

    downscale = 16

    def __init__(
        self,
        latent: int,
        widths: Widths,
        depths: Widths,
        heads: Widths,
        mlp_ratio: float,
        version: int,
        drop_path: float,
        picture: Callable[[int], nn.Module],
        enhance: Callable[[], nn.Module],
        window: int = 8,
        hyper_blocks: int = 2,
    ):
        super().__init__()
        self.latent, self.widths = latent, tuple(widths)
        half, quarter, eighth = widths
        first, second, third = drop_rates(drop_path, (*depths, hyper_blocks))[:3]
        last = drop_rates(drop_path, (hyper_blocks, *depths[::-1]))[1:]

        def stage(index: int, rates: tuple[float, ...]) -> SwinStage:
            sizes = (widths[index], depths[index], heads[index], window, mlp_ratio, version)
            return SwinStage(*sizes, drop_path=rates)

        self.enhance_a = enhance()
        self.g_a = nn.Sequential(
            halving(3, half, 5),
            stage(0, first),
            halving(half, quarter),
            stage(1, second),
            halving(quarter, eighth),
            stage(2, third),
            PreciseConv2d(eighth, latent, 3, 2, 1),
        )
        self.g_s = nn.Sequential(
            doubling(latent, eighth),
            stage(2, last[0]),
            doubling(eighth, quarter),
            stage(1, last[1]),
            doubling(quarter, half),
            stage(0, last[2]),
            picture(half),
        )
        self.enhance_s = enhance()

    def analysis(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.g_a(self.enhance_a(x)),)

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        return self.enhance_s(self.g_s(latents[0]))

    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        return ((self.latent, height // 16, width // 16),)

    def chain(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        return (self.enhance_a, *self.g_a), (*self.g_s, self.enhance_s)
