"""From the averaged parameters of a run to the file that is published."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo_core.model import CodecModel
from zoo_core.weights import write_tensors


def export(model: CodecModel, average_state: Mapping[str, Tensor], path: Path) -> str:
    """Write weights in half precision, with the integer tables of the hyper-latent, and return their SHA-256.

    The tables are built from the rounded weights, since those are what the codec will load. The same state
    gives the same bytes.

    Args:
        model: what the state belongs to; it is not changed.
        average_state: its state dict with averaged parameters, on any device.
        path: of the safetensors file; an older one is replaced.

    Raises:
        WrongWeightsError: a weight is NaN or infinite, in half precision at least.
    """
    published = copy.deepcopy(model).cpu().float().eval()
    published.load_state_dict({name: _half(tensor) for name, tensor in average_state.items()})
    published.update()
    return write_tensors({name: _half(tensor) for name, tensor in published.state_dict().items()}, path)


def _half(tensor: Tensor) -> Tensor:
    """Floating tensors in half precision; tables keep their integers."""
    return tensor.to("cpu", torch.float16) if tensor.is_floating_point() else tensor.cpu()
