"""Generalised octave convolutions: features at two resolutions, each of which feeds the other.

A feature is a pair: high resolution (HR), and low resolution (LR) of half the size. Four operators join input
and output, each with weights of its own:

    HH = f_hh(X_h)    HL = f_down(HH)    Y_h = HH + LH
    LL = f_ll(X_l)    LH = g_up(LL)      Y_l = LL + HL

Unlike the octave convolution of Chen et al. (2019), nothing is pooled or interpolated: the cross paths are
learned, and start from the outputs HH and LL. Source: figures of arXiv 2002.10032; the layer's code was never
published. A side without channels is left out, which gives the other forms: an image as input has no LR
half, a picture as output has none, and alpha = 0 has none at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.gdn import GDN
from zoo_core.layers.precision import full_precision

SLOPE = 0.2
"""Of LeakyReLU: the default of the framework that the official code is written in."""

Activation = Callable[[int], nn.Module]
"""Makes the activation of a tensor with that many channels."""


class Pair(NamedTuple):
    """A feature at two resolutions: (B, C_h, H, W), and (B, C_l, H/2, W/2) or nothing."""

    high: Tensor
    low: Tensor | None = None


class Channels(NamedTuple):
    """Channels of a pair; `low` = 0 for none."""

    high: int
    low: int = 0


def split(total: int, octave: bool) -> Channels:
    """`total` channels in halves (alpha = 1/2), or all at one resolution (alpha = 0)."""
    return Channels(total - total // 2, total // 2) if octave else Channels(total)


def gdn(channels: int) -> nn.Module:
    return GDN(channels)


def igdn(channels: int) -> nn.Module:
    return GDN(channels, inverse=True)


def leaky(_channels: int) -> nn.Module:
    return nn.LeakyReLU(SLOPE)


def conv_down(in_ch: int, out_ch: int, kernel: int, stride: int = 2, bias: bool = True) -> nn.Conv2d:
    """Convolution that divides the size by `stride` exactly, with zeros around."""
    return nn.Conv2d(in_ch, out_ch, kernel, stride, kernel // 2, bias=bias)


def conv_up(in_ch: int, out_ch: int, kernel: int, stride: int = 2, bias: bool = True) -> nn.ConvTranspose2d:
    """Transposed convolution that multiplies the size by `stride` exactly."""
    return nn.ConvTranspose2d(in_ch, out_ch, kernel, stride, kernel // 2, stride - 1, bias=bias)


class Operator(nn.Module):
    """One of a layer's four operators, with its activation before or after it."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, activation: Activation | None, before: bool):
        super().__init__()
        self.conv = conv
        self.before = before
        channels = conv.in_channels if before else conv.out_channels
        self.act = activation(channels) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x)) if self.before else self.act(self.conv(x))


class OctaveLayer(nn.Module):
    """The graph that GoConv and GoTConv share.

    Args:
        conv: makes the operators of equal resolution, from their input and output channels.
        cross_kernel: of the two paths between the resolutions.
        activation: of all four operators, each with parameters of its own; None for none.
        before: activate before the operators, not after them.
        precise: compute in the precision of the weights, also under autocast.
    """

    def __init__(
        self,
        inputs: Channels,
        outputs: Channels,
        conv: Callable[[int, int], nn.Conv2d | nn.ConvTranspose2d],
        cross_kernel: int,
        activation: Activation | None,
        before: bool,
        bias: bool,
        precise: bool,
    ):
        super().__init__()
        self.precise = precise
        middle = outputs.low or outputs.high  # channels of LL; a picture's LL is a picture too

        def operator(conv: nn.Conv2d | nn.ConvTranspose2d) -> Operator:
            return Operator(conv, activation, before)

        self.hh = operator(conv(inputs.high, outputs.high))
        self.hl: Operator | None = None
        self.ll: Operator | None = None
        self.lh: Operator | None = None
        if outputs.low:
            self.hl = operator(conv_down(outputs.high, outputs.low, cross_kernel, bias=bias))
        if inputs.low:
            self.ll = operator(conv(inputs.low, middle))
            self.lh = operator(conv_up(middle, outputs.high, cross_kernel, bias=bias))

    def forward(self, x: Pair) -> Pair:
        if not self.precise:
            return self._graph(*x)
        dtype = self.hh.conv.weight.dtype
        with full_precision(x.high):
            return self._graph(x.high.to(dtype), None if x.low is None else x.low.to(dtype))

    def _graph(self, high: Tensor, low: Tensor | None) -> Pair:
        hh = self.hh(high)
        hl = None if self.hl is None else self.hl(hh)
        if self.ll is None or self.lh is None:
            return Pair(hh, hl)
        ll = self.ll(low)
        return Pair(hh + self.lh(ll), None if hl is None else ll + hl)


class GoConv(OctaveLayer):
    """Generalised octave convolution, (H, W) -> (H/stride, W/stride); activates after its operators."""

    def __init__(
        self,
        inputs: Channels,
        outputs: Channels,
        kernel: int,
        stride: int,
        activation: Activation | None,
        cross_kernel: int | None = None,
        bias: bool = True,
        precise: bool = False,
    ):
        def conv(i: int, o: int) -> nn.Conv2d:
            return conv_down(i, o, kernel, stride, bias)

        super().__init__(inputs, outputs, conv, cross_kernel or kernel, activation, False, bias, precise)


class GoTConv(OctaveLayer):
    """Transposed generalised octave convolution, (H, W) -> (stride H, stride W).

    Args:
        order: "pre" activates before each operator, as in the predecessor's figures; "post" after it, as
            GoConv does. The last form, to a picture, takes no activation.

    Raises:
        UsageError: the order is neither.
    """

    def __init__(
        self,
        inputs: Channels,
        outputs: Channels,
        kernel: int,
        stride: int,
        activation: Activation | None,
        cross_kernel: int | None = None,
        order: str = "pre",
        precise: bool = False,
    ):
        if order not in ("pre", "post"):
            raise UsageError(f"transposed_act={order}: choose pre or post")

        def conv(i: int, o: int) -> nn.ConvTranspose2d:
            return conv_up(i, o, kernel, stride)

        before = order == "pre"
        super().__init__(inputs, outputs, conv, cross_kernel or kernel, activation, before, True, precise)


class UpFour(nn.Sequential):
    """(B, in, H, W) -> (B, out, 4H, 4W). The official code has GDN here, not its inverse."""

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__(conv_up(in_ch, out_ch, 3), GDN(out_ch), conv_up(out_ch, out_ch, 3), GDN(out_ch))


def cat(*parts: Tensor | None) -> Tensor:
    """Join the parts that there are along the channels."""
    return torch.cat([part for part in parts if part is not None], 1)
