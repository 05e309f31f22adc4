"""Hyperprior and channel-wise autoregression over two groups of subbands: low frequencies first, then high.

y (M, H/8) -- split --> low, high (H/16);  z = h_a(low, high) (Z, H/64)
z_hat --> mean and scale features m, s (P, H/16)
pass 1: slices of the low group, each given m, s and the slices before it
pass 2: slices of the high group, each given m, s, the whole low group and the slices before it
low_hat, high_hat -- join --> y_hat

Source: WeConvene sections 4 to 6; which bands make the two groups is the method's own (`Subbands`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zoo_core.entropy.autoregressive import ChannelAutoregression, SliceCoder, convolutions, corrected
from zoo_core.entropy.coder import Coder
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.interfaces import EntropyModel, Shape
from zoo_core.layers.attention import GatedAttention
from zoo_core.layers.rate import Gain, RateAffine, RateGains
from zoo_core.layers.residual import conv3x3, residual_blocks, subpel_conv
from zoo_core.layers.skeleton import Resampler


class Subbands(ABC):
    """An invertible split of y into two groups at half its size. `low`, `high`: channels of each."""

    low: int
    high: int

    @abstractmethod
    def split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, H, W) -> (B, low, H/2, W/2), (B, high, H/2, W/2)."""

    @abstractmethod
    def join(self, low: Tensor, high: Tensor, size: tuple[int, int]) -> Tensor:
        """Inverse of `split`; `size` is (H, W)."""


class SeparateSlice(SliceCoder):
    """Networks of one slice: mean and scale apart, each behind its own attention, and the residual prediction.

    Args:
        inputs: channels of each of the two contexts (for mean and for scale).
        width: channels of the slice.
        attention: makes the attention (inputs, support) in front of a parameter network; None for none.
        support: channels that the attention returns.
        net: makes a parameter network (in, out).
        extra: (first channel, count) of the mean's context that the residual prediction sees once more.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        attention: Callable[[int, int], nn.Module] | None,
        support: int,
        net: Callable[[int, int], nn.Module],
        extra: tuple[int, int] = (0, 0),
    ):
        super().__init__()
        self.width, self.extra = width, extra
        if attention is None:
            support = inputs
        self.attention_mean = attention(inputs, support) if attention else nn.Identity()
        self.attention_scale = attention(inputs, support) if attention else nn.Identity()
        self.mean = net(support, width)
        self.scale = net(support, width)
        self.lrp = net(extra[1] + support + width, width)

    def code(self, coder, name, part, contexts, gain):
        support = self.attention_mean(contexts[0])
        mean = self.mean(support)
        scale = self.scale(self.attention_scale(contexts[1]))
        part_hat = coder.gaussian(name, part, mean, scale, gain)
        once_more = contexts[0].narrow(1, *self.extra)
        return corrected(part_hat, self.lrp(torch.cat([once_more, support, part_hat], 1)), gain)


class SubbandEntropy(EntropyModel):
    """The entropy model of the module's docstring.

    Args:
        latent: channels M of y.
        subbands: the split; None for the ablation without it (one group, y itself, in space).
        groups: slices of the low group and, with a split, of the high one.
        resamplers: makers of the hyper transforms' halving and doubling blocks.
        hyper: width of the hyper transforms, with `hyper_blocks` residual blocks. hyper_latent: channels Z of z.
        params: channels P of m and s.
        variable_rate: one set of weights for all levels, by gains.
        names: of the two groups in the likelihoods.
    """

    def __init__(
        self,
        latent: int,
        subbands: Subbands | None,
        groups: tuple[ChannelAutoregression, ChannelAutoregression | None],
        resamplers: tuple[Resampler, Resampler],
        hyper: int,
        hyper_latent: int,
        params: int,
        hyper_blocks: int = 1,
        variable_rate: bool = False,
        names: tuple[str, str] = ("y", "y"),
    ):
        super().__init__()
        self.hyper_latent, self.subbands, self.names = hyper_latent, subbands, names
        self.latent_channels = (latent,)
        self.channels = (subbands.low, subbands.high) if subbands else (latent, 0)
        self.downscale = 8 if subbands else 4
        down, up = resamplers
        self.h_a = nn.Sequential(
            down(sum(self.channels), hyper),
            *residual_blocks(hyper, hyper_blocks),
            conv3x3(hyper, hyper_latent, 2),
        )
        self.h_mean_s, self.h_scale_s = (
            nn.Sequential(
                up(hyper_latent, hyper), *residual_blocks(hyper, hyper_blocks), subpel_conv(hyper, params, 2)
            )
            for _ in range(2)
        )
        self.prior = FactorizedPrior(hyper_latent)
        self.low, self.high = groups
        self.gains = RateGains(sum(self.channels)) if variable_rate else None
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
        low, high = self.split(latents)
        z = None if low is None else self.h_a(low if high is None else torch.cat([low, high], 1))
        z_shape = (self.hyper_latent, height // self.downscale, width // self.downscale)
        z_gain = None if self.hyper_gains is None else self.hyper_gains(level)
        z_hat = coder.factorized("z", z, self.prior, z_shape, z_gain, level)
        mean, scale = self._hyper_synthesis(z_hat, level)
        low_gain, high_gain = self._gains(level)
        low_hat = self.low.code(coder, self.names[0], low, (mean, scale), low_gain)
        if self.subbands is None or self.high is None:
            return (low_hat,)
        contexts = (torch.cat([mean, low_hat], 1), torch.cat([scale, low_hat], 1))
        high_hat = self.high.code(coder, self.names[1], high, contexts, high_gain)
        return (self.subbands.join(low_hat, high_hat, (height, width)),)

    def split(self, latents: tuple[Tensor, ...] | None) -> tuple[Tensor | None, Tensor | None]:
        """y -> its low and high group; y and None without a split, None twice without y."""
        if latents is None:
            return None, None
        return (latents[0], None) if self.subbands is None else self.subbands.split(latents[0])

    def _gains(self, level: Tensor | None) -> tuple[Gain | None, Gain | None]:
        """Factors of the low and of the high group."""
        if self.gains is None:
            return None, None
        gain = self.gains(level)
        return gain.narrow(0, self.channels[0]), gain.narrow(*self.channels)

    def _hyper_synthesis(self, z_hat: Tensor, level: Tensor | None) -> tuple[Tensor, Tensor]:
        """z_hat (B, Z, H/64, W/64) -> m, s (B, P, H/16, W/16)."""
        mean, scale = self.h_mean_s(z_hat), self.h_scale_s(z_hat)
        if self.rate_mean is not None and self.rate_scale is not None:
            mean, scale = self.rate_mean(mean, level), self.rate_scale(scale, level)
        return mean, scale


def separate_slices(
    widths: list[int],
    inputs: int,
    support: int,
    attention: tuple[int, int] | None,
    context: tuple[tuple[int, int], tuple[int, int, int]],
    extra: tuple[int, int] = (0, 0),
) -> ChannelAutoregression:
    """A group whose slices are `SeparateSlice`s.

    Args:
        widths: channels of each slice.
        inputs: channels of each context of the first slice; later ones see the slices before them as well.
        support: channels that the attention of the first slice returns; later ones grow likewise.
        attention: (width, residual units) of the attention; None for none.
        context: (widths, kernel sizes) of the parameter networks.
        extra: see `SeparateSlice`.
    """
    hidden, kernels = context

    def net(in_ch: int, out_ch: int) -> nn.Module:
        return convolutions((in_ch, *hidden, out_ch), kernels, nn.GELU)

    attend = None if attention is None else partial(GatedAttention, width=attention[0], units=attention[1])
    return ChannelAutoregression(
        widths,
        lambda i, before, width: SeparateSlice(inputs + before, width, attend, support + before, net, extra),
    )
