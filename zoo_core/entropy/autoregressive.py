"""Channel-wise autoregression: a latent cut into slices, each coded with what the slices before it tell.

All positions of a slice are coded at once (Minnen and Singh, Channel-wise Autoregressive Entropy Models,
ICIP 2020). `ChannelAutoregression` holds the order; what computes mean, scale and residual prediction of one
slice is a `SliceCoder`, and a method may bring its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo_core.entropy.coder import Coder
from zoo_core.layers.rate import Gain
from zoo_core.layers.residual import PreciseConv2d


class SliceCoder(nn.Module, ABC):
    """Codes one slice. `width` is its number of channels."""

    width: int

    @abstractmethod
    def code(
        self,
        coder: Coder,
        name: str,
        part: Tensor | None,
        contexts: tuple[Tensor, ...],
        gain: Gain | None,
    ) -> Tensor:
        """Code `part` (B, width, H, W), None when decoding, given the contexts; returns it as decoded."""


class ChannelAutoregression(nn.Module):
    """Slices of a latent in order. Every slice sees the contexts given and all slices before it.

    Args:
        widths: channels of each slice.
        make: called with (index, channels of the slices before it, width) for each slice.
    """

    def __init__(self, widths: Sequence[int], make: Callable[[int, int, int], SliceCoder]):
        super().__init__()
        self.slices = nn.ModuleList(make(i, sum(widths[:i]), width) for i, width in enumerate(widths))

    def code(
        self,
        coder: Coder,
        name: str,
        latent: Tensor | None,
        contexts: tuple[Tensor, ...],
        gain: Gain | None = None,
    ) -> Tensor:
        """Code a latent (B, sum of widths, H, W) given contexts (B, *, H, W); returns it as decoded.

        `gain` holds the factors of all channels of the latent.
        """
        done: list[Tensor] = []
        start = 0
        for nets in self.slices:
            assert isinstance(nets, SliceCoder)
            part = None if latent is None else latent.narrow(1, start, nets.width)
            part_gain = None if gain is None else gain.narrow(start, nets.width)
            seen = tuple(torch.cat([context, *done], 1) for context in contexts)
            done.append(nets.code(coder, name, part, seen, part_gain))
            start += nets.width
        return torch.cat(done, 1)


class JointSlice(SliceCoder):
    """Mean and scale from one network, residual prediction from another; one context.

    Args:
        width: channels of the slice.
        parameters: (context channels -> 2 * width), mean first.
        lrp: (context channels + width -> width).
    """

    def __init__(self, width: int, parameters: nn.Module, lrp: nn.Module):
        super().__init__()
        self.width = width
        self.parameters_net = parameters
        self.lrp = lrp

    def code(self, coder, name, part, contexts, gain):
        (context,) = contexts
        mean, scale = self.parameters_net(context).chunk(2, 1)
        part_hat = coder.gaussian(name, part, mean, scale, gain)
        return corrected(part_hat, self.lrp(torch.cat([context, part_hat], 1)), gain)


def corrected(part_hat: Tensor, prediction: Tensor, gain: Gain | None) -> Tensor:
    """A decoded slice moved by at most half a quantisation step: latent residual prediction."""
    correction = 0.5 * torch.tanh(prediction)
    return part_hat + (correction if gain is None else correction * gain.step)


def convolutions(
    channels: Sequence[int], kernels: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Convolutions at one size from channels[0] to channels[-1], with an activation between each two.

    The last one keeps full precision, since it gives entropy parameters.
    """
    layers: list[nn.Module] = []
    last = len(kernels) - 1
    for i, kernel in enumerate(kernels):
        kind = PreciseConv2d if i == last else nn.Conv2d
        layers += [kind(channels[i], channels[i + 1], kernel, 1, kernel // 2), activation()]
    return nn.Sequential(*layers[:-1])
