"""Tiny models of every method, rebuilt from files in `tests/golden`: what golden files and fuzzing decode with.

A model's size is a preset stored beside its weights, so that no change of a plugin's own presets reaches it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from zoo_core import codec, registry
from zoo_core.codec import Codec
from zoo_core.hooks import Entry
from zoo_core.model import CodecModel
from zoo_core.weights import WeightsFile, digest

FOLDER = Path(__file__).parent / "golden"
METHODS = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def entry(method: str) -> Entry:
    """The method as it is registered, with the tiny preset as its only one and no published weights."""
    preset = json.loads((FOLDER / f"{method}.json").read_text())
    tiny = {"base": _tuples(preset)}
    return dataclasses.replace(registry.find(method, "codec"), presets=tiny, weights={})


def build(method: str) -> CodecModel:
    """The tiny model with random weights."""
    return registry.build(entry(method), "base")


def load(method: str, quality: float = 3.0) -> Codec:
    """The tiny codec with its stored weights."""
    path = FOLDER / f"{method}.safetensors"
    file = WeightsFile(path, digest(path))
    model = build(method)
    codec._fill(model, file)
    return Codec(entry(method), "base", model.prepare(), quality, file)


def _tuples(value: object) -> object:
    """JSON knows lists only, presets have tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
