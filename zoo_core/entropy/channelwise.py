"""Hyperprior and channel-wise autoregression of one latent in space: mean and scale from networks of their own.

y (M, H/16) -> z = h_a(y) (Z, H/64);  z_hat -> mean and scale features m, s (P, H/16)
slices of y, each given m, s and the slices before it, with latent residual prediction

Source: the baseline of WeConvene, LIC-TCM without its attention (Minnen and Singh, ICIP 2020).
"""

from __future__ import annotations

from torch import nn

from zoo_core.entropy.subbands import SubbandEntropy, separate_slices
from zoo_core.errors import UsageError
from zoo_core.layers.skeleton import resamplers


class ChannelwiseEntropy(SubbandEntropy):
    """The entropy model of the module's docstring.

    Args:
        latent: channels M of y. slices: their number, which divides M.
        hyper_latent: channels Z of z, and width of the hyper transforms. hyper_blocks: their residual blocks.
        params: channels P of m and s; the paper's are M.
        context, context_kernels: inner widths and kernel sizes of the networks of every slice.
        variable_rate: one set of weights for all levels, by gains.
    """

    def __init__(
        self,
        latent: int,
        slices: int,
        hyper_latent: int,
        hyper_blocks: int,
        params: int,
        context: tuple[int, int],
        context_kernels: tuple[int, int, int] = (3, 3, 3),
        variable_rate: bool = False,
    ):
        if latent % slices:
            raise UsageError(f"{slices} slices do not divide {latent} channels")
        widths = [latent // slices] * slices
        super().__init__(
            latent,
            None,
            (separate_slices(widths, params, params, None, (context, context_kernels)), None),
            resamplers(None),
            hyper_latent,
            hyper_latent,
            params,
            hyper_blocks,
            variable_rate,
        )
        # PyTorch's own start loses so much on the way that all of z rounds to zero.
        last = self.h_a[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.kaiming_normal_(last.weight)
