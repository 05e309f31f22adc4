"""Hyperprior and two-pass checkerboard with a network and a mixture model for each pass (sections 4 to 6).

y (M, H/16) -> z = h_a(y) (Z, H/64);  z_hat -> phi (2M, H/16)
which channels of y hold anything: one bit each
pass 1: anchors, given phi;  pass 2: the others, given phi and a 5x5 convolution of the anchors
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from zoo_core.entropy.coder import Coder
from zoo_core.entropy.hyperprior import HyperpriorEntropy
from zoo_core.errors import UsageError
from zoo_core.layers.checkerboard import CheckerboardContext, merge, split
from zoo_core.layers.rate import Gain
from zoo_core.layers.residual import PreciseConv2d, conv3x3
from zoo_deformable_checkerboard.estimation import SLOPE, ParameterNet

Context = Literal["none", "shared", "two"]


class CheckerboardEntropy(HyperpriorEntropy):
    """The entropy model of the module's docstring.

    Args:
        latent: channels M of y. hyper_latent: channels Z of z.
        context_channels: of the context's convolution. parameter_widths: hidden widths of the networks.
        models: mixture models of anchors and of the others, see `estimation.MODELS`.
        context: "two": a network and a model for each pass; "shared": one for both, and anchors get a
            context of zeros; "none": one for both, without context.
        variable_rate: one set of weights for all levels, by gains.
        least_weight: components of a mixture up to this weight are left out, see `MixtureParameters.without`. It
            is kept with the weights, since a file can be read only with the value that it was written with.
    """

    least_weight: Tensor

    def __init__(
        self,
        latent: int,
        hyper_latent: int,
        context_channels: int,
        parameter_widths: tuple[int, int],
        models: tuple[str, str],
        context: Context = "two",
        variable_rate: bool = False,
        least_weight: float = 0.0,
    ):
        if context not in ("none", "shared", "two"):
            raise UsageError(f"context={context}: choose none, shared or two")
        h_a, h_s = _hyper_analysis(latent, hyper_latent), _hyper_synthesis(hyper_latent, 2 * latent)
        for module in (*h_a, *h_s):
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                # Torch's default would shrink what passes a hundredfold, and z would round to zero.
                nn.init.kaiming_normal_(module.weight, SLOPE)
        super().__init__(latent, hyper_latent, 2 * latent, h_a, h_s, variable_rate)
        self.context = CheckerboardContext(latent, context_channels) if context != "none" else None
        seen = 2 * latent + (context_channels if context != "none" else 0)
        self.zero_context = context_channels if context == "shared" else 0
        self.pe_anchors = ParameterNet(2 * latent + self.zero_context, latent, parameter_widths, models[0])
        self.pe_others = (
            ParameterNet(seen, latent, parameter_widths, models[1]) if context == "two" else self.pe_anchors
        )

        most = max(len(net.model.components) for net in (self.pe_anchors, self.pe_others))
        if not 0 <= least_weight < 1 / most:
            raise UsageError(
                f"least_weight={least_weight}: choose 0 or more, and less than 1/{most}, so that one stays"
            )
        self.register_buffer("least_weight", torch.tensor(float(least_weight)))

    def _load_from_state_dict(self, state_dict, prefix, *others):
        """Weights from before there was a least weight have none."""
        state_dict.setdefault(f"{prefix}least_weight", torch.zeros(()))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def code_latent(self, coder: Coder, y: Tensor | None, features: Tensor, gain: Gain | None) -> Tensor:
        used = coder.channels("channels", y, self.latent, gain)
        if not bool(used.any()):
            return features.new_zeros(len(features), self.latent, *features.shape[2:])
        channels = None if bool(used.all()) else used.nonzero()[:, 0]
        halves = (None, None) if y is None else split(_select(y, channels))
        phi = split(features)
        part_gain = None if gain is None else Gain(*(_select(g, channels) for g in gain))
        seen = phi[0]
        if self.zero_context:
            seen = torch.cat([seen.new_zeros(len(seen), self.zero_context, *seen.shape[2:]), seen], 1)
        mixtures = self.pe_anchors(seen, channels).without(self.least_weight)
        anchors = coder.mixture("y", halves[0], mixtures, part_gain)
        seen = phi[1]
        if self.context is not None:
            seen = torch.cat([self.context(_spread(anchors, channels, self.latent)), seen], 1)
        mixtures = self.pe_others(seen, channels).without(self.least_weight)
        others = coder.mixture("y", halves[1], mixtures, part_gain)
        return _spread(merge(anchors, others), channels, self.latent)


def _hyper_analysis(latent: int, hyper_latent: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, stride in enumerate((1, 1, 2, 1)):
        layers += [conv3x3(hyper_latent if i else latent, hyper_latent, stride), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, PreciseConv2d(hyper_latent, hyper_latent, 3, 2, 1))


def _hyper_synthesis(hyper_latent: int, out_ch: int) -> nn.Sequential:
    wide = 3 * hyper_latent // 2
    return nn.Sequential(
        conv3x3(hyper_latent, hyper_latent),
        nn.LeakyReLU(SLOPE),
        nn.ConvTranspose2d(hyper_latent, hyper_latent, 3, 2, 1, 1),
        nn.LeakyReLU(SLOPE),
        conv3x3(hyper_latent, wide),
        nn.LeakyReLU(SLOPE),
        nn.ConvTranspose2d(wide, wide, 3, 2, 1, 1),
        nn.LeakyReLU(SLOPE),
        conv3x3(wide, out_ch),
    )


def _select(x: Tensor, channels: Tensor | None) -> Tensor:
    """Some channels of (B, C, H, W)."""
    return x if channels is None else x[:, channels]


def _spread(x: Tensor, channels: Tensor | None, count: int) -> Tensor:
    """Channels put back among `count`, the others zero."""
    if channels is None:
        return x
    return x.new_zeros(x.shape[0], count, *x.shape[2:]).index_copy(1, channels, x)
