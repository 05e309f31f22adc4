"""Importing CompressAI where torchvision's compiled operators cannot be loaded.

CompressAI imports torchvision. Beside a CPU build of torch, pip installs a torchvision that was compiled for
CUDA; its extension does not load, and its import then stops at two operators that nobody declared. Their
names and signatures are enough for it: nothing here calls them. They are declared only in that case, because
an operator must not be declared twice.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from torch.library import Library

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")


def import_compressai() -> ModuleType:
    """The package `compressai`, imported.

    Raises:
        UsageError: it is not installed; there are no wheels of it for Python 3.13 and later.
    """
    try:
        _import_torchvision()
        return importlib.import_module("compressai")
    except ModuleNotFoundError as error:
        message = f"CompressAI cannot be imported ({error}); run: pip install compressai, Python 3.12 at most"
        raise UsageError(message) from error


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        if not _missing_operators():  # it failed for another reason, which the user should see
            raise
        _declare_operators()
        _forget("torchvision")
        importlib.import_module("torchvision")


def _missing_operators() -> list[str]:
    import torch

    return [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]


@cache
def _declare_operators() -> Library:
    """Declare what is missing. The cache keeps the library: its operators vanish together with it."""
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")
    for name in _missing_operators():
        library.define(name + _SIGNATURE)
    return library


def _forget(package: str) -> None:
    """Drop what a failed import left behind, so that the next one starts afresh."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
