"""Lower bound and rounding with gradients that let training move the value back."""

from __future__ import annotations

import torch
from torch import Tensor


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        # Below the bound only a step upwards (negative gradient) passes.
        return grad * ((x >= ctx.bound) | (grad < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound) whose gradient below the bound passes only if it raises x."""
    return _LowerBound.apply(x, bound)


def round_ste(x: Tensor) -> Tensor:
    """Nearest integer with the gradient of the identity (straight-through estimator)."""
    return x + (x.round() - x).detach()
