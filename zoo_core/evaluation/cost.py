"""What a model costs: parameters, and multiplications per pixel, counted without computing anything.

Models are built on torch's meta device, where tensors have shapes only. Convolutions, linear layers, GDN's 1x1
products and those of attention are counted, without biases, activations and wavelet transforms, as the field
does. A module that multiplies in a way of its own, as attention does, has a method `products`, called with its
inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core import registry
from zoo_core.hooks import Entry
from zoo_core.layers.gdn import GDN
from zoo_core.model import CodecModel, parameter_count

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, GDN)


@dataclass(frozen=True)
class Cost:
    """Parameters, and thousands of multiplications per pixel of each part of a model."""

    parameters: int
    analysis: float
    synthesis: float
    entropy_model: float

    @property
    def kmacs(self) -> float:
        """All together."""
        return self.analysis + self.synthesis + self.entropy_model


class Costs(dict[str, float]):
    """Thousands of multiplications per pixel by name of the layer; 0 for any other name."""

    def __missing__(self, name: str) -> float:
        return 0.0

    def total(self) -> float:
        """Of all layers."""
        return sum(self.values())


def cost(entry: Entry, preset: str = "base") -> Cost:
    """What the model of a registered codec costs."""
    with torch.device("meta"):
        model = registry.build(entry, preset).eval()
    x, level = _picture(256)
    with _counting(model, 256) as found:
        latents, _ = model.estimate(x, level)
        before = found.total()
        model.transform.synthesis(latents)
    entropy_model = below(found, "entropy_model")
    return Cost(parameter_count(model), before - entropy_model, found.total() - before, entropy_model)


def kmacs(model: CodecModel, side: int = 256) -> Costs:
    """What each layer costs for a picture of `side` x `side`.

    `model` was built under `torch.device("meta")`.
    """
    with _counting(model, side) as found:
        model.eval()(*_picture(side))
    return found


def below(costs: Costs, prefix: str) -> float:
    """Sum over all layers of the module `prefix`."""
    return sum(value for name, value in costs.items() if name.startswith(prefix + "."))


def _picture(side: int) -> tuple[Tensor, Tensor]:
    return torch.empty(1, 3, side, side, device="meta"), torch.empty(1, device="meta")


@contextmanager
def _counting(model: CodecModel, side: int) -> Iterator[Costs]:
    """Counts the products of every layer that is called."""
    found = Costs()

    def hook(name: str):
        def count(module: Any, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            products = module.products if hasattr(module, "products") else partial(_products, module, out)
            found[name] += products(*inputs) / side**2 / 1000

        return count

    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS) or hasattr(module, "products")
    ]
    handles = [module.register_forward_hook(hook(name)) for name, module in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _products(module: Any, out: Tensor, x: Tensor, *_: Tensor) -> int:
    """Of a layer in `_LAYERS` that has no method of that name, and may take more than x (offsets, masks)."""
    if isinstance(module, nn.ConvTranspose2d):  # every sample of the input meets all weights of its channel
        return x.numel() * (module.weight.numel() // module.weight.shape[0])
    weight = module.gamma if isinstance(module, GDN) else module.weight
    return out.numel() * (weight.numel() // weight.shape[0])
