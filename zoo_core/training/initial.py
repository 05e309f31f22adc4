"""The weights that a run starts from: the method's own start, a file, or random numbers.

A method offers a start of its own as a function `start(model, photos)` beside its factory.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from zoo_core import weights
from zoo_core.errors import UsageError, WrongWeightsError
from zoo_core.hooks import Entry
from zoo_core.model import CodecModel

_PHOTOS = 64
"""More photos than this do not sharpen the statistics of a start."""

log = logging.getLogger(__name__)


def initialise(model: CodecModel, entry: Entry, photos: Sequence[Tensor], init: str | None) -> bool:
    """Set the weights of a new model, which lies on the CPU; false if they are left random.

    Args:
        photos: uint8 (3, H, W) each, for starts that adapt to the data.
        init: "block" for the method's own start, "none" to leave the random weights, a safetensors file,
            or None for the method's own start where it fits the model.

    Raises:
        UsageError: "block", but the method or this model has no start of its own.
        WeightsError: the file cannot be read, or does not fit the model.
    """
    if init == "none":
        return False
    if init not in (None, "block"):
        fill(model, Path(init))
        return True
    try:
        own_start(entry)(model, photos[:: max(1, len(photos) // _PHOTOS)])
    except UsageError as reason:
        if init == "block":
            raise
        log.warning("training starts from random weights: %s", reason)
        return False
    return True


def own_start(entry: Entry) -> Callable[[CodecModel, Sequence[Tensor]], None]:
    """The function `start` of the module that holds the method's factory.

    Raises:
        UsageError: there is none.
    """
    start = getattr(importlib.import_module(entry.factory.partition(":")[0]), "start", None)
    if start is None:
        raise UsageError(f"{entry.name!r} has no start of its own: use --init none or --init FILE")
    return start


def fill(model: CodecModel, path: Path) -> None:
    """Load a safetensors file into a model.

    Raises:
        WeightsError: it cannot be read, or does not fit the model.
    """
    tensors = weights.read_tensors(weights.WeightsFile(path, weights.digest(path)))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WrongWeightsError(f"'{path}' does not fit this model: {reason}") from None
