"""Analysis and synthesis of generalised octave convolutions.

    x (3, H) -> 4 GoConv, stride 2, GDN -> y_h (M/2, H/16), y_l (M/2, H/32)
    y_h, y_l -> 4 GoTConv, stride 2, IGDN -> x_hat (3, H)

The first layer has no LR input and the last one no LR output.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo_core.interfaces import Shape, Transform
from zoo_octave.layers import Channels, GoConv, GoTConv, Pair, gdn, igdn, split
from zoo_octave.settings import check_all_channels, check_channels, check_kernel

_KERNEL = 5


class OctaveTransform(Transform):
    """Pictures to two latents, one octave apart; to one without `octave`.

    The LR latent needs pictures that are multiples of 32; the entropy model asks for 128.

    Args:
        widths: channels after the layers of the analysis, in total of both resolutions; the synthesis has
            the same in reverse.
        latent: channels M of the latents, in total.
        cross_kernel: of the paths between the resolutions; None for that of the layers.
        transposed_act: "pre" or "post", where GoTConv activates.
        octave: False for the ablation with one resolution (alpha = 0).

    Raises:
        UsageError: a setting with which the two resolutions do not fit together.
    """

    downscale = 16

    def __init__(
        self,
        widths: tuple[int, int, int],
        latent: int,
        cross_kernel: int | None = None,
        transposed_act: str = "pre",
        octave: bool = True,
    ):
        super().__init__()
        check_all_channels("widths", widths, 3, octave)
        check_channels("latent", latent, octave)
        check_kernel("cross_kernel", _KERNEL if cross_kernel is None else cross_kernel)
        self.latent = split(latent, octave)
        picture, stages = Channels(3), [split(width, octave) for width in widths]
        down = [picture, *stages, self.latent]
        self.g_a = nn.Sequential(
            *(GoConv(down[i], down[i + 1], _KERNEL, 2, gdn, cross_kernel) for i in range(3)),
            GoConv(down[3], down[4], _KERNEL, 2, None, cross_kernel, precise=True),
        )
        up = down[::-1]
        self.g_s = nn.Sequential(
            *(GoTConv(up[i], up[i + 1], _KERNEL, 2, igdn, cross_kernel, transposed_act) for i in range(3)),
            GoTConv(up[3], up[4], _KERNEL, 2, None, cross_kernel, transposed_act, precise=True),
        )

    def analysis(self, x: Tensor) -> tuple[Tensor, ...]:
        high, low = self.g_a(Pair(x))
        return (high,) if low is None else (high, low)

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        return self.g_s(Pair(*latents)).high

    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        high = (self.latent.high, height // 16, width // 16)
        return (high, (self.latent.low, height // 32, width // 32)) if self.latent.low else (high,)
