"""One slice of a latent in the two passes of a checkerboard: anchors, then the others given the anchors.

Each pass runs its networks on the half that it codes and on no other element (zoo_core.layers.checkerboard).
A whole latent is a slice too: a model with a checkerboard over all channels has one slice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo_core.entropy.autoregressive import SliceCoder, corrected
from zoo_core.entropy.coder import Coder
from zoo_core.layers.checkerboard import CheckerboardContext, merge, split
from zoo_core.layers.rate import Gain


class HalfPrediction(nn.Module):
    """Latent residual prediction for one half of a checkerboard.

    Args:
        net: (context channels + width -> width) convolutions. With kernels of 1 it runs on the half alone,
            otherwise on the whole map.
        half: 0 for the anchors, 1 for the others.
    """

    def __init__(self, net: nn.Module, half: int):
        super().__init__()
        self.net, self.index = net, half
        convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
        self.pointwise = all(conv.kernel_size == (1, 1) for conv in convs)

    def forward(self, context: Tensor, anchors: Tensor, others: Tensor) -> Tensor:
        """Context (B, C, H, W) and decoded halves (B, width, H, W/2) -> prediction (B, width, H, W/2)."""
        if self.pointwise:
            return self.net(torch.cat([split(context)[self.index], (anchors, others)[self.index]], 1))
        return split(self.net(torch.cat([context, merge(anchors, others)], 1)))[self.index]


class CheckerboardSlice(SliceCoder):
    """A slice in two passes. Methods derive from it to bring a `support` of their own.

    Args:
        width: channels of the slice.
        anchors, others: (features -> 2 * width) networks of the passes, scale first; may be the same.
        local: what the second pass sees of the anchors around an element; None for nothing.
        zeros: channels of zeros that the networks see where there is no local context: for a network that
            serves both passes.
        predictions: networks of the residual prediction of both passes, see `HalfPrediction`; None for none.
        hidden: the first so many channels of the context are not shown to the residual prediction.
    """

    def __init__(
        self,
        width: int,
        anchors: nn.Module,
        others: nn.Module,
        local: CheckerboardContext | None,
        zeros: int = 0,
        predictions: tuple[nn.Module, nn.Module] | None = None,
        hidden: int = 0,
    ):
        super().__init__()
        self.width, self.zeros, self.hidden = width, zeros, hidden
        self.anchors, self.others, self.local = anchors, others, local
        self.predictions = nn.ModuleList(
            HalfPrediction(net, half) for half, net in enumerate(predictions or ())
        )

    def support(self, context: Tensor) -> Tensor:
        """What both passes see, made of what is decoded: (B, C, H, W) -> (B, features, H, W)."""
        return context

    def refreshed(self, support: Tensor, context: Tensor, anchors: Tensor) -> Tensor:
        """The support of the second pass, which may use the decoded anchors (B, width, H, W/2)."""
        return support

    def code(self, coder, name, part, contexts, gain):
        (context,) = contexts
        halves = (None, None) if part is None else split(part)
        support = self.support(context)
        features = self._with(split(support)[0], None)
        anchors = self._pass(coder, name, halves[0], self.anchors(features), gain)
        nothing = torch.zeros_like(anchors)
        anchors = self._corrected(anchors, 0, context, (anchors, nothing), gain)
        features = split(self.refreshed(support, context, anchors))[1]
        features = self._with(features, None if self.local is None else self.local(anchors))
        others = self._pass(coder, name, halves[1], self.others(features), gain)
        others = self._corrected(others, 1, context, (anchors, others), gain)
        return merge(anchors, others)

    def _with(self, features: Tensor, local: Tensor | None) -> Tensor:
        """Features of a half and its local context, or zeros in the place of that."""
        if local is None:
            local = features.new_zeros(len(features), self.zeros, *features.shape[2:])
        return torch.cat([features, local], 1)

    def _pass(
        self, coder: Coder, name: str, half: Tensor | None, parameters: Tensor, gain: Gain | None
    ) -> Tensor:
        scale, mean = parameters.chunk(2, 1)
        return coder.gaussian(name, half, mean, scale, gain)

    def _corrected(
        self, half: Tensor, index: int, context: Tensor, halves: tuple[Tensor, Tensor], gain: Gain | None
    ) -> Tensor:
        if not self.predictions:
            return half
        return corrected(half, self.predictions[index](context[:, self.hidden :], *halves), gain)
