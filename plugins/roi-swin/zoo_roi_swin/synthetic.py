"""Masks for training, drawn at random: everything, nothing, rectangles, ellipses, blobs, and several small shapes.

Shapes never follow the picture's content, so that any user's mask will do. All random numbers come from
torch's default generator, whose state a checkpoint keeps.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = Literal["all", "rectangles"]

SHARES = {"ones": 0.15, "zeros": 0.05, "rectangle": 0.25, "ellipse": 0.20, "blob": 0.25, "several": 0.10}
"""How often each kind is drawn."""

_INVERTED = 0.3
_AREA = (0.03, 0.95)
"""Least and largest share of a mask that is neither everything nor nothing."""


def masks(count: int, size: int, shapes: Shapes = "all") -> Tensor:
    """(count, 1, size, size) of zeros and ones, each drawn by itself.

    Args:
        shapes: "rectangles" lets rectangles take the place of all other shapes.
    """
    kinds = torch.multinomial(torch.tensor(list(SHARES.values())), count, replacement=True)
    names = [list(SHARES)[kind] for kind in kinds.tolist()]
    if shapes == "rectangles":
        names = [name if name in ("ones", "zeros") else "rectangle" for name in names]
    return torch.stack([mask(name, size) for name in names])[:, None]


def mask(kind: str, size: int) -> Tensor:
    """(size, size) of one kind; one of too small or too large an area is drawn again."""
    if kind in ("ones", "zeros"):
        return torch.full((size, size), float(kind == "ones"))
    while True:
        inside = _SHAPES[kind](size)
        if torch.rand(()) < _INVERTED:
            inside = ~inside
        if _AREA[0] <= inside.float().mean() <= _AREA[1]:
            return inside.float()


def _uniform(low: float, high: float) -> float:
    return torch.empty(()).uniform_(low, high).item()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Rows (size, 1) and columns (1, size) of the pixels' centres, from 0 to 1."""
    place = (torch.arange(size) + 0.5) / size
    return place[:, None], place[None]


def _rectangle(size: int, low: float = 0.15, high: float = 0.8) -> Tensor:
    """Sides of `low` to `high`, anywhere inside."""
    inside = torch.ones(size, size, dtype=torch.bool)
    for place in _grid(size):
        side = _uniform(low, high)
        start = _uniform(0, 1 - side)
        inside = inside & (place >= start) & (place < start + side)
    return inside


def _ellipse(size: int, low: float = 0.1, high: float = 0.4) -> Tensor:
    """Semi-axes of `low` to `high`, turned, with its centre anywhere: it may be cut."""
    rows, columns = _grid(size)
    down, across, turn = rows - _uniform(0, 1), columns - _uniform(0, 1), _uniform(0, math.pi)
    along = math.cos(turn) * across + math.sin(turn) * down
    beside = math.cos(turn) * down - math.sin(turn) * across
    return (along / _uniform(low, high)) ** 2 + (beside / _uniform(low, high)) ** 2 <= 1


def _blob(size: int) -> Tensor:
    """Smooth noise of 4x4 to 8x8 samples, above its 30 to 80 % quantile."""
    samples = int(torch.randint(4, 9, ()))
    noise = F.interpolate(torch.randn(1, 1, samples, samples), size=(size, size), mode="bicubic")[0, 0]
    return noise > noise.quantile(_uniform(0.3, 0.8))


def _several(size: int) -> Tensor:
    """Two to four small rectangles and ellipses."""
    inside = torch.zeros(size, size, dtype=torch.bool)
    for _ in range(int(torch.randint(2, 5, ()))):
        rectangle = torch.rand(()) < 0.5
        inside |= _rectangle(size, 0.08, 0.3) if rectangle else _ellipse(size, 0.04, 0.15)
    return inside


_SHAPES = {"rectangle": _rectangle, "ellipse": _ellipse, "blob": _blob, "several": _several}
