"""Parameter networks: from features of an element to the mixture of its distribution (section 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.entropy.mixture import FAMILIES, MixtureParameters
from zoo_core.errors import UsageError
from zoo_core.layers.precision import full_precision
from zoo_core.layers.residual import conv1x1

SLOPE = 0.2


@dataclass(frozen=True)
class MixtureModel:
    """Which components a mixture has: `each` of every family in `families`."""

    families: tuple[str, ...]
    each: int

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(family for family in self.families for _ in range(self.each))

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers per element: weights within a family, weights of the families, means, scales."""
        count = len(self.components)
        return (
            count if self.each > 1 else 0,
            len(self.families) if len(self.families) > 1 else 0,
            count,
            count,
        )

    def parameters(self, raw: Tensor) -> MixtureParameters:
        """Outputs of a network, (B, P, C, H, W) -> weights by softmax, means, and scales as magnitudes."""
        inner, outer, mean, scale = raw.split(self.sizes, 1)
        weight = torch.ones_like(mean)
        if self.each > 1:
            weight = weight * inner.unflatten(1, (-1, self.each)).softmax(2).flatten(1, 2)
        if len(self.families) > 1:
            weight = weight * outer.softmax(1).repeat_interleave(self.each, 1)
        return MixtureParameters(self.components, weight, mean, scale.abs())


MODELS = {
    "gauss": MixtureModel(("normal",), 1),
    "gmm2": MixtureModel(("normal",), 2),
    "gmm3": MixtureModel(("normal",), 3),
    "gllmm1": MixtureModel(FAMILIES, 1),
    "gllmm": MixtureModel(FAMILIES, 3),
}


class ParameterNet(nn.Module):
    """Three 1x1 convolutions, (B, in, H, W) -> the mixtures of the channels that are coded.

    The last convolution is ordered by parameter, then by channel, and computes the rows of the coded
    channels only.

    Args:
        in_ch: channels of the features. latent: channels M. widths: of the hidden layers. model: of `MODELS`.
    """

    def __init__(self, in_ch: int, latent: int, widths: tuple[int, int], model: str):
        super().__init__()
        if model not in MODELS:
            raise UsageError(f"no mixture model {model!r}: choose from {', '.join(MODELS)}")
        self.model, self.latent = MODELS[model], latent
        self.hidden1, self.hidden2 = conv1x1(in_ch, widths[0]), conv1x1(*widths)
        self.last = SelectedRows(widths[1], sum(self.model.sizes), latent)
        with torch.no_grad():  # an element starts about one step wide
            self.last.bias.view(-1, latent)[-self.model.sizes[3] :] += 1

    def forward(self, x: Tensor, channels: Tensor | None) -> MixtureParameters:
        """x (B, in, H, W), indices of the coded channels (all if None) -> mixtures (B, K, C, H, W)."""
        x = F.leaky_relu(self.hidden1(x), SLOPE, inplace=True)
        x = F.leaky_relu(self.hidden2(x), SLOPE, inplace=True)
        return self.model.parameters(self.last(x, channels))


class SelectedRows(nn.Conv2d):
    """1x1 convolution (B, in, H, W) -> (B, P, C, H, W) for some of the `latent` channels, in full precision."""

    bias: Tensor

    def __init__(self, in_ch: int, parameters: int, latent: int):
        super().__init__(in_ch, parameters * latent, 1)
        self.latent = latent

    def forward(self, x: Tensor, channels: Tensor | None) -> Tensor:
        weight, bias = self.weight, self.bias
        if channels is not None:
            weight = weight.view(-1, self.latent, *weight.shape[1:])[:, channels].flatten(0, 1)
            bias = bias.view(-1, self.latent)[:, channels].flatten()
        with full_precision(x):
            out = F.conv2d(x.to(weight.dtype), weight, bias)
        count = self.latent if channels is None else len(channels)
        return out.unflatten(1, (-1, count))
