"""Conditional coding of two latents, each with its own hyperprior and channel-wise autoregression.

    first latent:  z -> phi = h_s(z) -> slices given phi and the slices before
    second latent: z -> phi = h_s(z) -> slices given phi, c and the slices before, c = cond(first latent)

`order` says which latent is first: "hl" is the paper's, where the decoded HR latent is the condition of the
LR latent; "lh" is the reverse; "none" has no condition. Where the condition enters is unknown from the
abstract (arXiv 2401.11093); here it joins the inputs of every parameter and residual-prediction network of
the second latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from zoo_core.entropy.autoregressive import ChannelAutoregression, JointSlice, convolutions
from zoo_core.entropy.checkerboard import CheckerboardSlice
from zoo_core.entropy.coder import Coder
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.errors import UsageError
from zoo_core.interfaces import EntropyModel, Shape
from zoo_core.layers.checkerboard import CheckerboardContext
from zoo_core.layers.rate import RateAffine, RateGains
from zoo_core.layers.residual import conv3x3, subpel_conv
from zoo_dual_branch.transform import SLOPE

ORDERS = ("hl", "lh", "none")

Net = tuple[tuple[int, ...], tuple[int, ...]]
"""Inner widths and kernel sizes of a network."""

_activation = partial(nn.LeakyReLU, SLOPE)


def _activated(*layers: nn.Module) -> nn.Sequential:
    """The layers with LeakyReLU between each two."""
    between = [m for layer in layers for m in (layer, _activation())]
    return nn.Sequential(*between[:-1])


class Branch(nn.Module):
    """Hyperprior and channel-wise autoregression of one latent.

    Args:
        name: of the branch, "h" or "l"; its coding steps are z_<name> and y_<name>.
        slices: channels of each slice; together those of y.
        hyper_latent: channels Z of z. params: channels P of phi.
        halvings: z is 2^halvings times smaller than y.
        condition: channels of c; 0 for none.
        parameter_net, lrp_net: of every slice.
        variable_rate: one set of weights for all levels, by gains.
        checkerboard: slices in two passes, for the ablation.
    """

    def __init__(
        self,
        name: str,
        slices: Sequence[int],
        hyper_latent: int,
        params: int,
        halvings: int,
        condition: int,
        parameter_net: Net,
        lrp_net: Net,
        variable_rate: bool,
        checkerboard: bool = False,
    ):
        super().__init__()
        self.name, self.latent, self.hyper_latent = name, sum(slices), hyper_latent
        self.downscale = 2**halvings
        strided = [conv3x3(hyper_latent, hyper_latent, 2) for _ in range(halvings)]
        convs = [conv3x3(self.latent, hyper_latent), *strided]
        self.h_a = _activated(*convs)
        for conv in convs:  # PyTorch's own start loses so much on the way that all of z rounds to zero
            nn.init.kaiming_normal_(conv.weight, SLOPE)
        shuffled = [subpel_conv(hyper_latent, hyper_latent, 2) for _ in range(halvings)]
        self.h_s = _activated(*shuffled, conv3x3(hyper_latent, params))
        self.prior = FactorizedPrior(hyper_latent)
        kind = _two_pass_slice if checkerboard else _slice
        make = partial(kind, params + condition, parameter_net, lrp_net)
        self.charm = ChannelAutoregression(slices, make)
        self.gains = RateGains(self.latent) if variable_rate else None
        self.hyper_gains = RateGains(hyper_latent) if variable_rate else None
        self.rate = RateAffine(params) if variable_rate else None

    def code(
        self, coder: Coder, y: Tensor | None, shape: Shape, condition: Tensor | None, level: Tensor | None
    ) -> Tensor:
        """Code y (B, M, H', W') of `shape`, given c (B, Cc, H', W') or None; returns it as decoded."""
        _, height, width = shape
        z = None if y is None else self.h_a(y)
        z_shape = (self.hyper_latent, height // self.downscale, width // self.downscale)
        z_gain = None if self.hyper_gains is None else self.hyper_gains(level)
        phi = self.h_s(coder.factorized(f"z_{self.name}", z, self.prior, z_shape, z_gain, level))
        if self.rate is not None:
            phi = self.rate(phi, level)  # (B, P, H', W')
        context = phi if condition is None else torch.cat((phi, condition), 1)
        gain = None if self.gains is None else self.gains(level)
        return self.charm.code(coder, f"y_{self.name}", y, (context,), gain)


def _slice(
    context: int, parameter_net: Net, lrp_net: Net, _index: int, before: int, width: int
) -> JointSlice:
    """Networks of a slice of `width` channels with `before` channels in the slices before it."""
    seen = context + before
    parameters = convolutions((seen, *parameter_net[0], 2 * width), parameter_net[1], _activation)
    _near_one_step(parameters, slice(width, None))
    lrp = convolutions((seen + width, *lrp_net[0], width), lrp_net[1], _activation)
    return JointSlice(width, parameters, lrp)


@torch.no_grad()
def _near_one_step(net: nn.Sequential, scales: slice) -> None:
    """Let the outputs `scales` start near one quantisation step: a scale below its bound has no gradient."""
    last = net[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    own = last.bias[scales]
    own.copy_(torch.linspace(0.5, 2, len(own)))


class TwoPassSlice(CheckerboardSlice):
    """A slice in the two passes of a checkerboard, whose networks share their first convolution.

    Args:
        seen: channels of the context.
        parameter_net: its first layer is shared by both passes and runs on the whole map; the others are 1x1.
    """

    def __init__(self, seen: int, width: int, parameter_net: Net, lrp_net: Net):
        (features, *inner), (kernel, *_) = parameter_net
        around = 2 * width
        anchors, others = (
            convolutions((features + local, *inner, 2 * width), (1,) * (len(inner) + 1), _activation)
            for local in (0, around)
        )
        first, second = (
            convolutions((seen + width, *lrp_net[0], width), lrp_net[1], _activation) for _ in range(2)
        )
        for net in (anchors, others):
            _near_one_step(net, slice(width))
        super().__init__(
            width, anchors, others, CheckerboardContext(width, around), predictions=(first, second)
        )
        self.shared = convolutions((seen, features), (kernel,), _activation)

    def support(self, context: Tensor) -> Tensor:
        """(B, seen, H, W) -> (B, features, H, W)."""
        return _activation()(self.shared(context))


def _two_pass_slice(
    context: int, parameter_net: Net, lrp_net: Net, _index: int, before: int, width: int
) -> TwoPassSlice:
    """`_slice` as a checkerboard."""
    return TwoPassSlice(context + before, width, parameter_net, lrp_net)


def _condition_net(order: str, latents: tuple[int, int], channels: int) -> nn.Sequential:
    """From the latent coded first to c, at the size of the latent coded second."""
    first = conv3x3(latents[0], channels, 2) if order == "hl" else subpel_conv(latents[1], channels, 2)
    last = conv3x3(channels, channels)
    with torch.no_grad():
        last.weight.mul_(0.1)  # starts close to no condition
    return _activated(first, last)


class DualBranchEntropy(EntropyModel):
    """The two branches in their order, and the condition between them.

    Args:
        slices, lr_slices: channels of the slices of y_h and of y_l.
        hyper_latent, lr_hyper_latent: channels Z of z_h and of z_l.
        params, lr_params: channels P of phi_h and of phi_l.
        halvings: z_h is 2^halvings times smaller than y_h; z_l has the size of z_h. 1 at least.
        condition: channels Cc of c.
        parameter_net, lrp_net: inner widths and kernel sizes of the networks of every slice.
        order: "hl", "lh" or "none"; only the condition network of that order is built.
        lr_off: ablation with a single branch, which has no LR latent.
        checkerboard: ablation in which every slice of y_h takes the two passes of a checkerboard.
        variable_rate: one set of weights for all levels, by gains, one set for each of y_h, y_l, z_h, z_l.

    Raises:
        UsageError: no such order, or no halvings.
    """

    def __init__(
        self,
        slices: Sequence[int],
        lr_slices: Sequence[int],
        hyper_latent: int,
        lr_hyper_latent: int,
        params: int,
        lr_params: int,
        halvings: int,
        condition: int,
        parameter_net: Net,
        lrp_net: Net,
        order: str = "hl",
        lr_off: bool = False,
        checkerboard: bool = False,
        variable_rate: bool = False,
    ):
        super().__init__()
        if order not in ORDERS:
            raise UsageError(f"order={order!r}: choose one of {', '.join(ORDERS)}")
        if not isinstance(halvings, int) or halvings < 1:  # z_l has one less: it would be larger than y_l
            raise UsageError(f"halvings={halvings!r}: give a whole number, 1 at least")
        self.order = "none" if lr_off else order
        self.downscale = 2**halvings
        nets = (parameter_net, lrp_net, variable_rate)
        given = {name: condition if self.order == name else 0 for name in ORDERS}
        self.hr = Branch("h", slices, hyper_latent, params, halvings, given["lh"], *nets, checkerboard)
        self.lr: Branch | None = None
        self.condition: nn.Module | None = None
        self.latent_channels = (self.hr.latent,)
        if not lr_off:
            self.lr = Branch("l", lr_slices, lr_hyper_latent, lr_params, halvings - 1, given["hl"], *nets)
            self.latent_channels = both = (self.hr.latent, self.lr.latent)
            if order != "none":
                self.condition = _condition_net(order, both, condition)

    def update(self) -> None:
        for branch in (self.hr, self.lr):
            if branch is not None:
                branch.prior.update(branch.hyper_gains)

    def code(
        self,
        coder: Coder,
        latents: tuple[Tensor, ...] | None,
        shapes: tuple[Shape, ...],
        level: Tensor | None,
    ) -> tuple[Tensor, ...]:
        y = (None, None) if latents is None else latents
        if self.lr is None:
            return (self.hr.code(coder, y[0], shapes[0], None, level),)
        if self.order == "lh" and self.condition is not None:
            v_l = self.lr.code(coder, y[1], shapes[1], None, level)
            return self.hr.code(coder, y[0], shapes[0], self.condition(v_l), level), v_l
        v_h = self.hr.code(coder, y[0], shapes[0], None, level)
        condition = None if self.condition is None else self.condition(v_h)
        return v_h, self.lr.code(coder, y[1], shapes[1], condition, level)
