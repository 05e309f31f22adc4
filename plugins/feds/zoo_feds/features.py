"""What a network computes on its way: the outputs of some of its modules, kept while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the submodules `names` of `model`, of their latest call inside of the context."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda _module, _inputs, out: found.__setitem__(name, out)

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def identity_conv(in_ch: int, out_ch: int, bias: bool) -> nn.Conv2d:
    """1x1 convolution that starts as the identity on the common channels, and zero elsewhere."""
    conv = nn.Conv2d(in_ch, out_ch, 1, bias=bias)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(out_ch, in_ch)[:, :, None, None])
        if conv.bias is not None:
            conv.bias.zero_()
    return conv


class RunningVariance(nn.Module):
    """Variance of each channel of (B, C, H, W) over batch and space, (C,), averaged over batches.

    A batch that is not finite does not count: it would stay in the average for ever.
    """

    momentum = 0.99
    value: Tensor
    batches: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("value", torch.zeros(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        variance = x.float().var((0, 2, 3))
        if variance.isfinite().all():
            self.value.lerp_(variance, 1 - self.momentum if self.batches else 1.0)
            self.batches += 1
        return self.value
