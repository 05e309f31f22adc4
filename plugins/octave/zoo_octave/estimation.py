"""Networks that turn decoded features into the mean and scale of a latent.

The HR latent of a level is estimated with help of the LR latent that was decoded before it (cross-resolution
parameter estimation, CRPE), and level y with help of the parameters of level z (hyper skip). A connection
that is switched off carries zeros, so that models with and without it have equal size.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo_core.layers.residual import PreciseConv2d
from zoo_octave.layers import SLOPE, UpFour, cat, conv_up


def _carried(up: nn.Module | None, x: Tensor | None, on: bool, channels: int, own: Tensor) -> Tensor | None:
    """What a connection brings to `own` (B, C, h, w): up(x) or, if it is off, zeros, (B, channels, h, w)."""
    if up is None:
        return None
    return up(x) if on else own.new_zeros(own.shape[0], channels, *own.shape[2:])


class LowEstimator(nn.Module):
    """Mean and scale of y_l: own parameters, mixed with those of z_l by the hyper skip.

    Args:
        params: channels of mean (or scale) parameters in p_l. skip: the same in p2_l; 0 for no hyper skip.
        out: channels of y_l. kernel: of the mixing convolutions.
    """

    def __init__(self, params: int, skip: int, out: int, kernel: int, hyper_skip: bool):
        super().__init__()
        self.skip, self.hyper_skip = skip, hyper_skip
        self.up_mean, self.up_scale = (UpFour(skip, skip) if skip else None for _ in range(2))
        # The official code sends the mean through the scale's convolution and leaves one unused.
        self.mix_mean, self.mix_scale = (
            PreciseConv2d(params + skip, out, kernel, 1, kernel // 2) for _ in range(2)
        )

    def forward(self, own: Tensor, upper: Tensor | None) -> tuple[Tensor, Tensor]:
        """p_l (B, 2 params, H/32, W/32), p2_l (B, 2 skip, H/128, W/128) -> mean, scale (B, out, H/32, W/32)."""
        mean, scale = own.chunk(2, 1)
        if upper is None or self.up_mean is None or self.up_scale is None:
            return self.mix_mean(mean), self.mix_scale(scale)
        upper_mean, upper_scale = upper.chunk(2, 1)
        skip_mean = _carried(self.up_mean, upper_mean, self.hyper_skip, self.skip, own)
        skip_scale = _carried(self.up_scale, upper_scale, self.hyper_skip, self.skip, own)
        return self.mix_mean(cat(mean, skip_mean)), self.mix_scale(cat(scale, skip_scale))


class HighEstimator(nn.Module):
    """Mean and scale of z_h or y_h: parameters, decoded LR latent (CRPE), and at level y the hyper skip.

    Args:
        low: channels of the LR latent; 0 without one. params: of p_h (or p2_h).
        skip: channels of what the hyper skip brings, from twice as many; 0 for none.
        out: channels of the latent. hidden: widths of the 1x1 convolutions. kernel: of the LR upsampling.
    """

    def __init__(
        self,
        low: int,
        params: int,
        skip: int,
        out: int,
        hidden: tuple[int, int],
        kernel: int,
        crpe: bool = True,
        hyper_skip: bool = True,
    ):
        super().__init__()
        self.low, self.crpe = low, crpe
        self.skip, self.hyper_skip = skip, hyper_skip
        self.up_low = conv_up(low, low, kernel) if low else None
        self.up_skip = UpFour(2 * skip, skip) if skip else None
        self.net = nn.Sequential(
            nn.Conv2d(low + skip + params, hidden[0], 1),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(hidden[0], hidden[1], 1),
            nn.LeakyReLU(SLOPE, inplace=True),
            PreciseConv2d(hidden[1], 2 * out, 1, bias=False),
        )

    def forward(
        self, own: Tensor, low_hat: Tensor | None, upper: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Parameters (B, params, h, w), decoded LR latent (B, low, h/2, w/2), p2_h (B, 2 skip, h/4, w/4).

        Returns mean and scale, (B, out, h, w) each.
        """
        low = _carried(self.up_low, low_hat, self.crpe, self.low, own)
        skip = _carried(self.up_skip, upper, self.hyper_skip, self.skip, own)
        mean, scale = self.net(cat(low, skip, own)).chunk(2, 1)
        return mean, scale
