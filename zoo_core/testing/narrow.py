"""Watches for numbers narrower than float64 where results must agree between machines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NarrowFloats(TorchDispatchMode):
    """A context that notes the operations with a floating-point result of less than 64 bits.

    Attributes:
        found: their names and types, "aten.convolution.default: torch.float32".
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64:
                self.found.add(f"{func}: {x.dtype}")
        return result
