"""What a model costs: multiplications per pixel, counted layer by layer without computing anything."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from zoo_core.layers.gdn import GDN
from zoo_core.model import CodecModel


def kmacs(model: CodecModel, side: int = 256) -> Counter[str]:
    """Thousands of multiplications per pixel of a picture of `side` x `side`, by name of the layer.

    Convolutions and GDN's 1x1 products are counted, without biases, activations and wavelet transforms, as
    the field does. `model` lies on the meta device (built under `torch.device("meta")`).
    """
    found: Counter[str] = Counter()

    def hook(name: str):
        def count(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            found[name] += _products(module, inputs[0], out) / side**2 / 1000

        return count

    layers = (nn.Conv2d, nn.ConvTranspose2d, GDN)
    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, layers)
    ]
    try:
        model.eval()(torch.empty(1, 3, side, side, device="meta"), torch.empty(1, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    return found


def below(costs: Counter[str], prefix: str) -> float:
    """Sum over all layers of the module `prefix`."""
    return sum(value for name, value in costs.items() if name.startswith(prefix + "."))


def _products(module: nn.Module, x: Tensor, out: Tensor) -> int:
    if isinstance(module, nn.ConvTranspose2d):  # every sample of the input meets all weights of its channel
        return x.numel() * (module.weight.numel() // module.weight.shape[0])
    weight = module.gamma if isinstance(module, GDN) else module.weight
    return out.numel() * (weight.numel() // weight.shape[0])
