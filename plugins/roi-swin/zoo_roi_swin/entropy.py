"""Hyperprior of Swin blocks and channel-wise autoregression; the mask steers the hyper-analysis alone.

y (M, H/16), mask (1, H/16) -> z = h_a(y, mask) (Z, H/64);  z_hat -> p = h_s(z_hat) (2M, H/16)
slices of y in order: mean and scale from p and the slices before, then a residual prediction

The paper's entropy model is unknown. The layers of the hyper transforms are those of Lu et al., Transformer-based
Image Compression (DCC 2022); the walk is that of Minnen and Singh (ICIP 2020), which needs no loop over
positions. The mask appears nowhere in the walk, unless the ablation `dec_cond="signalled"` codes it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from zoo_core.entropy.autoregressive import ChannelAutoregression, SliceCoder, convolutions, corrected
from zoo_core.entropy.coder import Coder
from zoo_core.entropy.hyperprior import HyperpriorEntropy
from zoo_core.errors import UsageError
from zoo_core.interfaces import Shape
from zoo_core.layers.rate import Gain
from zoo_core.layers.residual import PreciseConv2d, conv3x3
from zoo_roi_swin.modulation import SFT, deconv3x3, hyper_pyramid
from zoo_roi_swin.signalled import code_mask
from zoo_roi_swin.stages import Blocks, stage

_DEPTH, _WINDOW = 2, 4
"""Blocks and window of the stages in the hyper transforms."""


class HyperAnalysis(nn.Module):
    """y (B, M, H/16, W/16), and the mask at its size or None, -> z (B, Z, H/64, W/64).

    Args:
        latent: channels M. hyper: channels Z, also inside. stages: at 1/16 and at 1/32 of the size.
        sft: channels of the conditions and of the hidden layer of their SFT; None for no SFT.
    """

    def __init__(self, latent: int, hyper: int, stages: list[nn.Module], sft: tuple[int, int] | None):
        super().__init__()
        self.convs = nn.ModuleList(
            [conv3x3(latent, hyper), conv3x3(hyper, hyper, 2), PreciseConv2d(hyper, hyper, 3, 2, 1)]
        )
        self.stages = nn.ModuleList(stages)
        self.pyramid = hyper_pyramid(latent, sft[0]) if sft else None
        self.sft = nn.ModuleList(SFT(hyper, *sft) for _ in range(2)) if sft else None

    def forward(self, y: Tensor, mask: Tensor | None) -> Tensor:
        conditions = self.pyramid(torch.cat([y, mask], 1)) if self.pyramid and mask is not None else ()
        for index, block in enumerate(self.stages):
            y = self.convs[index](y)
            if self.sft is not None and conditions:
                y = self.sft[index](y, conditions[index])
            y = block(y)
        return self.convs[-1](y)


class ContextSlice(SliceCoder):
    """Networks of one slice; contexts are p and its first half, each with the slices before.

    Args:
        width: channels of the slice.
        parameters: (channels of the first context -> 2 * width), mean first.
        lrp: (channels of the second context + width -> width), residual prediction.
    """

    def __init__(self, width: int, parameters: nn.Module, lrp: nn.Module):
        super().__init__()
        self.width, self.ctx, self.lrp = width, parameters, lrp

    def code(self, coder, name, part, contexts, gain):
        mean, scale = self.ctx(contexts[0]).chunk(2, 1)
        part_hat = coder.gaussian(name, part, mean, scale, gain)
        return corrected(part_hat, self.lrp(torch.cat([contexts[1], part_hat], 1)), gain)


class RoiSwinEntropy(HyperpriorEntropy):
    """The entropy model of the module's docstring; `code` returns (y_hat, z_hat) and, if signalled, the mask.

    Args:
        latent: M. hyper_latent: Z. hyper_heads, mlp_ratio: of the stages in the hyper transforms.
        condition, hidden: of the conditions and SFT in the hyper-analysis.
        slices: relative widths of the slices.
        context_widths, lrp_widths: hidden channels of the networks of a slice, with `context_kernels`.
        context: "slices", or "none" for mean and scale directly from p.
        hyper_sft: False for a hyper-analysis that is not shown the mask.
        signalled: code the mask at the size of y.
        blocks: as in the transform.
        variable_rate: one set of weights for all levels, by gains.
    """

    def __init__(
        self,
        latent: int,
        hyper_latent: int,
        hyper_heads: int,
        mlp_ratio: float,
        condition: int,
        hidden: int,
        slices: tuple[int, ...],
        context_widths: tuple[int, int],
        lrp_widths: tuple[int, int],
        context_kernels: tuple[int, int, int],
        context: Literal["slices", "none"] = "slices",
        hyper_sft: bool = True,
        signalled: bool = False,
        blocks: Blocks = "swin",
        variable_rate: bool = False,
    ):
        if context not in ("slices", "none"):
            raise UsageError(f"context={context}: choose slices or none")

        def stages() -> list[nn.Module]:
            return [stage(blocks, hyper_latent, _DEPTH, hyper_heads, _WINDOW, mlp_ratio) for _ in range(2)]

        h_a = HyperAnalysis(latent, hyper_latent, stages(), (condition, hidden) if hyper_sft else None)
        h_s = _hyper_synthesis(hyper_latent, 2 * latent, stages())
        super().__init__(latent, hyper_latent, 2 * latent, h_a, h_s, variable_rate)
        self.signalled = signalled
        networks = _networks(latent, context_widths, lrp_widths, context_kernels)
        self.slices = (
            ChannelAutoregression(_widths(latent, slices), networks) if context == "slices" else None
        )

    def code(
        self,
        coder: Coder,
        latents: tuple[Tensor, ...] | None,
        shapes: tuple[Shape, ...],
        level: Tensor | None,
    ) -> tuple[Tensor, ...]:
        y, mask = None, None
        if latents is not None:
            y, mask = latents[0], latents[1] if len(latents) > 1 else None
        z = None if y is None else self.h_a(y, mask)
        z_hat, p = self.hyperprior(coder, z, shapes[0], level)
        y_hat = self.code_latent(coder, y, p, self.gain(level))
        if not self.signalled:
            return y_hat, z_hat
        if y is not None and mask is None:
            mask = torch.ones_like(y[:, :1])
        return y_hat, z_hat, code_mask(coder, mask, y_hat)

    def code_latent(self, coder: Coder, y: Tensor | None, features: Tensor, gain: Gain | None) -> Tensor:
        mean, scale = features.chunk(2, 1)
        if self.slices is None:
            return coder.gaussian("y", y, mean, scale, gain)
        return self.slices.code(coder, "y", y, (features, mean), gain)


def _hyper_synthesis(hyper: int, features: int, stages: list[nn.Module]) -> nn.Sequential:
    """z_hat (B, Z, H/64, W/64) -> p (B, features, H/16, W/16); stages at 1/32 and at 1/16 of the size."""
    first, second = stages
    return nn.Sequential(
        deconv3x3(hyper, hyper),
        first,
        deconv3x3(hyper, hyper),
        second,
        PreciseConv2d(hyper, features, 3, 1, 1),
    )


def _networks(
    latent: int, context: tuple[int, int], lrp: tuple[int, int], kernels: tuple[int, int, int]
) -> Callable[[int, int, int], SliceCoder]:
    """Makes the networks of a slice from its index, the channels before it, and its width."""

    def make(_index: int, before: int, width: int) -> SliceCoder:
        parameters = (2 * latent + before, *context, 2 * width)
        prediction = (latent + before + width, *lrp, width)
        return ContextSlice(
            width, convolutions(parameters, kernels, nn.GELU), convolutions(prediction, kernels, nn.GELU)
        )

    return make


def _widths(latent: int, shares: tuple[int, ...]) -> list[int]:
    """Channels of each slice: `latent` in these shares, rounded so that they add up."""
    ends = [latent * done // sum(shares) for done in accumulate(shares, initial=0)]
    return [end - start for start, end in pairwise(ends)]
