"""Checkpoints: the whole state of a run in one file, replaced in one piece."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.atomic import replacing
from zoo_core.errors import UsageError

CHECKPOINT_FILE = "checkpoint.pt"


def write(state: dict[str, Any], folder: Path) -> None:
    """Save the state of a run; a crash or a full disk leaves the older checkpoint as it was."""
    with replacing(folder / CHECKPOINT_FILE) as file:
        torch.save(state, file)


def read(folder: Path) -> dict[str, Any]:
    """The newest state of the run in `folder`, on the CPU.

    Raises:
        UsageError: there is none, or the file is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise UsageError(f"'{folder}' holds no {CHECKPOINT_FILE}: name the folder of a run")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"'{path}' is damaged ({reason}): start the run again") from error


def averaged(model: nn.Module, state: dict[str, Tensor], average: Sequence[Tensor]) -> dict[str, Tensor]:
    """`state` of `model` with its parameters, in the model's order, replaced by their averages.

    A parameter that two modules share has two names in `state`, and both get the average.
    """
    places = {id(parameter): place for place, parameter in enumerate(model.parameters())}
    names = model.named_parameters(remove_duplicate=False)
    return dict(state) | {name: average[places[id(parameter)]] for name, parameter in names}
