"""Wavelet-domain channel-wise autoregressive entropy model (WeChARM; WeConvene sections 4 to 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.entropy.subbands import SubbandEntropy, Subbands, separate_slices
from zoo_core.layers.skeleton import resamplers
from zoo_core.layers.wavelet import dwt2, idwt2
from zoo_weconvene.transform import cores


class WaveletBands(Subbands):
    """One level of a 2-D DWT: LL is the low group; LH, HL and HH are the high one."""

    def __init__(self, latent: int, wavelet: str):
        self.low, self.high, self.wavelet = latent, 3 * latent, wavelet

    def split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        low, *high = dwt2(y, self.wavelet)
        return low, torch.cat(high, 1)

    def join(self, low: Tensor, high: Tensor, size: tuple[int, int]) -> Tensor:
        lh, hl, hh = high.chunk(3, 1)
        return idwt2(low, lh, hl, hh, size, self.wavelet)


class WeConveneEntropy(SubbandEntropy):
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
        bands = WaveletBands(latent, entropy_wavelet) if entropy_wavelet is not None else None
        nets = ((attention, attention_units), (context, context_kernels))
        low = separate_slices([latent // slices[0]] * slices[0], params, params, *nets)
        high = None
        if bands is not None:
            widths = [bands.high // slices[1]] * slices[1]
            high = separate_slices(widths, params + latent, params, *nets, extra=(params, latent))
        super().__init__(
            latent,
            bands,
            (low, high),
            resamplers(cores(wavelet)),
            hyper,
            hyper_latent,
            params,
            hyper_blocks,
            variable_rate,
        )
