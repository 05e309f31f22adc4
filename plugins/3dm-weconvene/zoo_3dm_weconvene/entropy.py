"""Entropy model in the domain of a 3-D wavelet transform of the latent (3DWeChARM).

One DWT along the channels of y, one level in space of each half; all slices of the low group are coded
before any of the high group. Which coefficients count as low is not readable in the paper: here LL of both
halves of the channels, that of the low half first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_3dm_weconvene.transform import cores, known_wavelet
from zoo_core.entropy.autoregressive import ChannelAutoregression
from zoo_core.entropy.subbands import SubbandEntropy, Subbands, separate_slices
from zoo_core.errors import UsageError
from zoo_core.layers.skeleton import resamplers
from zoo_core.layers.wavelet import dwt, dwt2, idwt, idwt2

CHANNELS = 1
"""Axis of the first DWT, by lifting: y is float64 and not in channels_last, so the matrix would gain nothing."""

NAMES = ("y_low", "y_high")
"""Likelihoods of the two groups."""

_Nets = tuple[tuple[int, int], tuple[int, int, int]]
"""Widths and kernel sizes of the parameter networks."""


class Bands3D(Subbands):
    """LL of both channel halves, then LH, HL, HH, each with the low channel half first.

    Args:
        latent: channels of y, even.
        lf_def: "spatial_ll", or "channel_low_ll" for LL of the low channel half alone as the low group.

    Raises:
        UsageError: an odd latent, no such wavelet, or no such lf_def.
    """

    def __init__(self, latent: int, wavelet: str, lf_def: str = "spatial_ll"):
        if lf_def not in ("spatial_ll", "channel_low_ll"):
            raise UsageError(f"lf_def={lf_def!r}: choose spatial_ll or channel_low_ll")
        if latent % 2:
            raise UsageError(f"latent={latent}: 3DWeChARM halves the channels: choose an even number")
        self.wavelet = known_wavelet(wavelet)
        self.half = latent // 2
        self.low = latent if lf_def == "spatial_ll" else self.half
        self.high = 4 * latent - self.low

    def split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = dwt(y, CHANNELS, self.wavelet)  # 2 x (B, M/2, H, W)
        bands = zip(
            *(dwt2(part, self.wavelet) for part in parts), strict=True
        )  # LL, LH, HL, HH; low, high each
        ordered = torch.cat([half for band in bands for half in band], 1)  # (B, 4M, H/2, W/2)
        return ordered[:, : self.low], ordered[:, self.low :]

    def join(self, low: Tensor, high: Tensor, size: tuple[int, int]) -> Tensor:
        bands = torch.cat([low, high], 1).split(self.half, 1)  # LLl, LLh, LHl, LHh, HLl, HLh, HHl, HHh
        parts = []
        for ll, lh, hl, hh in (bands[0::2], bands[1::2]):
            parts.append(idwt2(ll, lh, hl, hh, size, self.wavelet))
        return idwt(parts[0], parts[1], CHANNELS, self.wavelet)


class Entropy3D(SubbandEntropy):
    """Hyperprior and 3DWeChARM.

    Args:
        latent: channels M of y, even. hyper: width of the hyper transforms, with `hyper_blocks` residual blocks.
        hyper_latent: channels Z of z. params: channels P of the hyper features.
        low_slices: equal slices of the low group; a slice of the high group is one subband of one channel half.
        attention, attention_units: width and depth of the attention of the low slices, of the high ones too
            with `hf_attention`.
        context, context_kernels: widths and kernel sizes of the parameter networks.
        wavelet, levels, hf_kernel, channel_dwt: of the hyper transforms' cores; no wavelet for plain blocks.
        entropy_wavelet: of y; None for the ablation without 3DWeChARM (one group at H/8, in space).
        lf_def: see `Bands3D`.
        variable_rate: one set of weights for all levels, by gains.
    """

    def __init__(
        self,
        latent: int,
        hyper: int,
        hyper_latent: int,
        params: int,
        low_slices: int,
        attention: int,
        attention_units: int,
        context: tuple[int, int],
        context_kernels: tuple[int, int, int],
        hyper_blocks: int = 1,
        wavelet: str | None = "9/7",
        levels: int = 2,
        hf_kernel: int = 1,
        channel_dwt: bool = True,
        entropy_wavelet: str | None = "9/7",
        lf_def: str = "spatial_ll",
        hf_attention: bool = False,
        variable_rate: bool = False,
    ):
        bands = Bands3D(latent, entropy_wavelet, lf_def) if entropy_wavelet is not None else None
        attend, nets = (attention, attention_units), (context, context_kernels)
        low = _low_slices(bands.low if bands else latent, low_slices, params, attend, nets)
        high = None if bands is None else _high_slices(bands, params, attend if hf_attention else None, nets)
        super().__init__(
            latent,
            bands,
            (low, high),
            resamplers(cores(wavelet, levels, hf_kernel, channel_dwt)),
            hyper,
            hyper_latent,
            params,
            hyper_blocks,
            variable_rate,
            NAMES,
        )


def _low_slices(
    channels: int, count: int, params: int, attention: tuple[int, int], nets: _Nets
) -> ChannelAutoregression:
    """`count` equal slices of the low group.

    Raises:
        UsageError: the channels cannot be cut so.
    """
    if count < 1 or channels % count:
        raise UsageError(
            f"low_slices={count} does not divide the {channels} channels of the low group: choose a divisor"
        )
    return separate_slices([channels // count] * count, params, params, attention, nets)


def _high_slices(
    bands: Bands3D, params: int, attention: tuple[int, int] | None, nets: _Nets
) -> ChannelAutoregression:
    """A slice for each subband of a channel half; each sees the whole low group.

    Attention narrows the context to `params`; the residual prediction then sees the low group once more.
    """
    widths = [bands.half] * (bands.high // bands.half)
    seen = params + bands.low
    if attention is None:
        return separate_slices(widths, seen, seen, None, nets)
    return separate_slices(widths, seen, params, attention, nets, extra=(params, bands.low))
