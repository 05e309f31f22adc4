"""Sums and products in memory that is at hand.

On a CPU the pages of a fresh feature map take longer than the arithmetic on it.
"""

from __future__ import annotations

from torch import Tensor


def added(own: Tensor, other: Tensor) -> Tensor:
    """own + other, same shape. `own`, which nobody else may hold, is overwritten unless a gradient may need it."""
    return own.add_(other) if _may_overwrite(own, other) else own + other


def multiplied(own: Tensor, other: Tensor) -> Tensor:
    """own * other, as `added`."""
    return own.mul_(other) if _may_overwrite(own, other) else own * other


def _may_overwrite(own: Tensor, other: Tensor) -> bool:
    return own.dtype == other.dtype and not (own.requires_grad or other.requires_grad)
