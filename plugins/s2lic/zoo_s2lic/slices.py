"""One slice of the latent: its contexts, and the networks of its two passes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo_core.entropy.autoregressive import convolutions
from zoo_core.entropy.checkerboard import CheckerboardSlice
from zoo_core.errors import UsageError
from zoo_core.layers.checkerboard import CheckerboardContext, merge
from zoo_s2lic.context import ChannelContext, GlobalContext

_CHOICES = {
    "intra": ("query", "local", "none"),
    "ac": ("full", "conv", "off"),
    "ag": ("full", "fixed", "off"),
}


@dataclass(frozen=True)
class SliceSizes:
    """Sizes of all slices' networks, and what the ablations switch.

    Attributes:
        params: channels P of each half of the hyper features.
        parameter_widths: hidden widths of the 1x1 parameter networks.
        prediction_widths, prediction_kernel: hidden widths and kernel of the residual prediction.
        head: channels of an attention head. norm: batch normalisation in the contexts.
        local_channels: of the anchors' convolution, at most; None for twice the slice.
        intra: "query" (anchors enter by a convolution and by AG's queries), "local" (by the convolution), or
            "none" (not at all: the graph of the authors' released file).
        ac: "full", "conv" (one convolution in the place of two), or "off" (zeros).
        ag: "full", "fixed" (samples on a grid), or "off" (zeros).
        gates: False for the plain sum of the branches. lrp: False for no residual prediction.

    Raises:
        UsageError: one of them cannot be.
    """

    params: int
    parameter_widths: tuple[int, ...]
    prediction_widths: tuple[int, int]
    prediction_kernel: int = 3
    head: int = 32
    norm: bool = True
    local_channels: int | None = None
    intra: str = "query"
    ac: str = "full"
    ag: str = "full"
    gates: bool = True
    lrp: bool = True

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name}={getattr(self, name)}: choose {', '.join(choices)}")
        if self.prediction_kernel < 1 or self.prediction_kernel % 2 == 0:
            raise UsageError(f"prediction_kernel={self.prediction_kernel}: choose an odd number")
        if self.local_channels is not None and self.local_channels < 1:
            raise UsageError(f"local_channels={self.local_channels}: choose at least 1, or intra=none")

    def local(self, width: int) -> int:
        """Channels that tell the second pass about the anchors."""
        if self.intra == "none":
            return 0
        return 2 * width if self.local_channels is None else min(2 * width, self.local_channels)

    def parameter_net(self, in_ch: int, width: int) -> nn.Sequential:
        """(in -> scale and mean), 1x1 convolutions."""
        widths = (in_ch, *self.parameter_widths, 2 * width)
        return convolutions(widths, (1,) * (len(widths) - 1), nn.GELU)

    def predictions(self, in_ch: int, width: int) -> tuple[nn.Module, nn.Module] | None:
        """Networks of the residual prediction of both passes."""
        if not self.lrp:
            return None
        widths = (in_ch, *self.prediction_widths, width)
        first, second = (convolutions(widths, (self.prediction_kernel,) * 3, nn.GELU) for _ in range(2))
        return first, second


class AdaptiveSlice(CheckerboardSlice):
    """A slice of `width` channels after `before` others; its context: hyper features, then the slices before.

    Raises:
        UsageError: heads do not divide the slices before.
    """

    def __init__(self, before: int, width: int, sizes: SliceSizes):
        if before % sizes.head:
            raise UsageError(f"slices must be multiples of head={sizes.head} channels, not {before}")
        seen, around = 2 * sizes.params + (3 * width if before else 0), sizes.local(width)
        super().__init__(
            width,
            anchors=sizes.parameter_net(seen, width),
            others=sizes.parameter_net(seen + around, width),
            local=CheckerboardContext(width, around) if around else None,
            predictions=sizes.predictions(sizes.params + before + width, width),
            hidden=sizes.params,
        )
        self.split_sizes = [2 * sizes.params, before]
        self.query = bool(before) and sizes.intra == "query"
        self.ac = self.ag = None
        if before and sizes.ac != "off":
            depth = {"full": 2, "conv": 1}[sizes.ac]
            self.ac = ChannelContext(before, 2 * width, sizes.norm, sizes.gates, depth)
        if before and sizes.ag != "off":
            extra, deformable = width if self.query else 0, sizes.ag == "full"
            self.ag = GlobalContext(before, extra, width, sizes.norm, sizes.gates, sizes.head, deformable)

    def support(self, context: Tensor) -> Tensor:
        """(B, 2P + before, H, W) -> AC, AG and the hyper features, (B, 3 width + 2P, H, W)."""
        hyper, before = context.split(self.split_sizes, 1)
        if not before.shape[1]:
            return hyper
        nothing = hyper.new_zeros(len(hyper), self.width, *hyper.shape[2:])
        channels = nothing.repeat(1, 2, 1, 1) if self.ac is None else self.ac(before)
        everywhere = nothing if self.ag is None else self.ag(before, nothing if self.query else None)
        return torch.cat([channels, everywhere, hyper], 1)

    def refreshed(self, support: Tensor, context: Tensor, anchors: Tensor) -> Tensor:
        if not self.query or self.ag is None:
            return support
        channels, _, hyper = support.split([2 * self.width, self.width, self.split_sizes[0]], 1)
        current = merge(anchors, torch.zeros_like(anchors))
        return torch.cat([channels, self.ag(context[:, self.split_sizes[0] :], current), hyper], 1)
