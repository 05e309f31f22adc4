"""Wavelet-domain channel-wise autoregressive entropy model (WeChARM; WeConvene sections 4 to 6).

y (M, H/8) -- DWT --> y_L (M, H/16), y_H (3M, H/16);  z = h_a(y_L, y_H) (Z, H/64)
z_hat --> mean and scale parameters m, s (P, H/16)
pass 1: slices of y_L, each given m, s and the slices before it
pass 2: slices of y_H, each given m, s, all of y_L and the slices before it
y_L_hat, y_H_hat -- inverse DWT --> y_hat
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.entropy.coder import Coder
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.interfaces import EntropyModel, Shape
from zoo_core.layers.rate import Gain, RateAffine, RateGains
from zoo_core.layers.residual import PreciseConv2d, conv1x1, conv3x3, subpel_conv3x3
from zoo_core.layers.wavelet import dwt2, idwt2
from zoo_weconvene.transform import blocks, down, up


class ResidualUnit(nn.Module):
    """Bottleneck residual block with ReLU. (B, C, H, W) stays."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            conv1x1(channels, half),
            nn.ReLU(inplace=True),
            conv3x3(half, half),
            nn.ReLU(inplace=True),
            conv1x1(half, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x), inplace=True)


class Attention(nn.Module):
    """Gated residual attention, (B, in, H, W) -> (B, out, H, W) through `width` channels (section 5.4)."""

    def __init__(self, in_ch: int, out_ch: int, width: int, units: int):
        super().__init__()
        self.enter = conv1x1(in_ch, width)
        self.non_local = nn.Sequential(*blocks(width, 2 if units > 1 else 1))
        self.trunk = nn.Sequential(*(ResidualUnit(width) for _ in range(units)))
        self.gate = nn.Sequential(*(ResidualUnit(width) for _ in range(units)), conv1x1(width, width))
        self.leave = conv1x1(width, out_ch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        gate = torch.sigmoid(self.gate(self.non_local(x)))
        return self.leave(self.trunk(x) * gate + x)


def context_net(
    in_ch: int, out_ch: int, widths: tuple[int, int], kernels: tuple[int, int, int]
) -> nn.Sequential:
    """Three convolutions with GELU between them, all at the size of the slice."""
    channels = (in_ch, *widths, out_ch)
    layers: list[nn.Module] = []
    for i, kernel in enumerate(kernels):
        kind = PreciseConv2d if i == len(kernels) - 1 else nn.Conv2d
        layers += [kind(channels[i], channels[i + 1], kernel, 1, kernel // 2), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class SliceNets(nn.Module):
    """The networks of one slice: attention and parameters for mean and scale, and the residual prediction.

    Args:
        inputs: channels of the mean (or scale) support. width: channels of the slice.
        support: channels that the attention nets return. extra: channels of y_L that the LRP net sees.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        support: int,
        extra: int,
        attention: tuple[int, int],
        context: tuple[tuple[int, int], tuple[int, int, int]],
    ):
        super().__init__()
        self.width = width
        self.attention_mean = Attention(inputs, support, *attention)
        self.attention_scale = Attention(inputs, support, *attention)
        self.mean = context_net(support, width, *context)
        self.scale = context_net(support, width, *context)
        self.lrp = context_net(extra + support + width, width, *context)

    def code(
        self,
        coder: Coder,
        part: Tensor | None,
        supports: tuple[Tensor, Tensor],
        low: Tensor | None,
        gain: Gain | None,
    ) -> Tensor:
        """Code one slice and correct it by at most half a quantisation step (section 6)."""
        mean_support = self.attention_mean(supports[0])
        mean = self.mean(mean_support)
        scale = self.scale(self.attention_scale(supports[1]))
        part_hat = coder.gaussian("y", part, mean, scale, gain)
        seen = [mean_support, part_hat] if low is None else [low, mean_support, part_hat]
        correction = 0.5 * torch.tanh(self.lrp(torch.cat(seen, 1)))
        return part_hat + (correction if gain is None else correction * gain.step)


class SliceGroup(nn.Module):
    """Slices of one group of bands, coded one after the other.

    Args:
        channels: of the group, cut into `slices` equal parts. params: channels P of m and s.
        low: channels of y_L that every slice is conditioned on; 0 for y_L itself.
    """

    def __init__(self, channels: int, slices: int, params: int, low: int, attention, context):
        super().__init__()
        width = channels // slices
        self.slices = nn.ModuleList(
            SliceNets(params + low + width * i, width, params + width * i, low, attention, context)
            for i in range(slices)
        )

    def code(
        self,
        coder: Coder,
        group: Tensor | None,
        hyper: tuple[Tensor, Tensor],
        low: Tensor | None,
        gain: Gain | None,
    ) -> Tensor:
        done: list[Tensor] = [] if low is None else [low]
        first = len(done)
        for i, nets in enumerate(self.slices):
            start = i * nets.width
            part = None if group is None else group.narrow(1, start, nets.width)
            supports = (torch.cat([hyper[0], *done], 1), torch.cat([hyper[1], *done], 1))
            part_gain = None if gain is None else gain.narrow(start, nets.width)
            done.append(nets.code(coder, part, supports, low, part_gain))
        return torch.cat(done[first:], 1)


class WeConveneEntropy(EntropyModel):
    """Hyperprior and WeChARM.

    Args:
        latent: channels M of y. hyper: width of the hyper transforms, with `hyper_blocks` residual blocks.
        hyper_latent: channels Z of z. params: channels P of m and s.
        slices: numbers of slices (S_L, S_H). attention, attention_units: width and depth of the attention.
        context, context_kernels: widths and kernel sizes of the parameter nets.
        wavelet: of the hyper transforms' WeConv blocks; None for the ablation without them.
        entropy_wavelet: of y; None for the ablation without WeChARM (one group at H/8, in space).
        variable_rate: one set of weights for all levels, by gains.
    """

    def __init__(
        self,
        latent: int,
        hyper: int,
        hyper_latent: int,
        params: int,
        slices: tuple[int, int],
        attention: int,
        attention_units: int,
        context: tuple[int, int],
        context_kernels: tuple[int, int, int],
        hyper_blocks: int = 1,
        wavelet: str | None = "haar",
        entropy_wavelet: str | None = "haar",
        variable_rate: bool = False,
    ):
        super().__init__()
        self.latent, self.hyper_latent, self.entropy_wavelet = latent, hyper_latent, entropy_wavelet
        self.latent_channels = (latent,)
        bands = 4 if entropy_wavelet else 1
        self.downscale = 8 if entropy_wavelet else 4
        self.h_a = nn.Sequential(
            down(bands * latent, hyper, wavelet),
            *blocks(hyper, hyper_blocks),
            conv3x3(hyper, hyper_latent, 2),
        )
        self.h_mean_s, self.h_scale_s = (
            nn.Sequential(
                up(hyper_latent, hyper, wavelet),
                *blocks(hyper, hyper_blocks),
                subpel_conv3x3(hyper, params, 2),
            )
            for _ in range(2)
        )
        self.prior = FactorizedPrior(hyper_latent)
        nets = ((attention, attention_units), (context, context_kernels))
        self.low = SliceGroup(latent, slices[0], params, 0, *nets)
        self.high = SliceGroup(3 * latent, slices[1], params, latent, *nets) if entropy_wavelet else None
        self.gains = RateGains(bands * latent) if variable_rate else None
        self.hyper_gains = RateGains(hyper_latent) if variable_rate else None
        self.rate_mean = RateAffine(params) if variable_rate else None
        self.rate_scale = RateAffine(params) if variable_rate else None

    def update(self) -> None:
        self.prior.update(self.hyper_gains)

    def code(
        self,
        coder: Coder,
        latents: tuple[Tensor, ...] | None,
        shapes: tuple[Shape, ...],
        level: Tensor | None,
    ) -> tuple[Tensor, ...]:
        _, height, width = shapes[0]
        low, high, everything = self._bands(latents)
        z = None if everything is None else self.h_a(everything)
        z_shape = (self.hyper_latent, height // self.downscale, width // self.downscale)
        z_gain = None if self.hyper_gains is None else self.hyper_gains(level)
        z_hat = coder.factorized("z", z, self.prior, z_shape, z_gain, level)
        hyper = self._hyper_synthesis(z_hat, level)
        gain = None if self.gains is None else self.gains(level)
        low_gain = None if gain is None else gain.narrow(0, self.latent)
        low_hat = self.low.code(coder, low, hyper, None, low_gain)
        if self.high is None:
            return (low_hat,)
        high_gain = None if gain is None else gain.narrow(self.latent, 3 * self.latent)
        high_hat = self.high.code(coder, high, hyper, low_hat, high_gain)
        return (idwt2(low_hat, *high_hat.chunk(3, 1), (height, width), self.entropy_wavelet),)

    def _bands(
        self, latents: tuple[Tensor, ...] | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """y -> (y_L, y_H, both): (B, M, H/16, W/16), (B, 3M, ...), (B, 4M, ...); y itself without WeChARM."""
        if latents is None:
            return None, None, None
        if self.entropy_wavelet is None:
            return latents[0], None, latents[0]
        bands = torch.cat(dwt2(latents[0], self.entropy_wavelet), 1)
        return bands[:, : self.latent], bands[:, self.latent :], bands

    def _hyper_synthesis(self, z_hat: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
        """z_hat (B, Z, H/64, W/64) -> m, s (B, P, H/16, W/16)."""
        mean, scale = self.h_mean_s(z_hat), self.h_scale_s(z_hat)
        if self.rate_mean is not None and self.rate_scale is not None:
            mean, scale = self.rate_mean(mean, level), self.rate_scale(scale, level)
        return mean, scale
