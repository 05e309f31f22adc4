"""Fixed numbers that many parts agree on, and the only place that reads environment variables.

| variable             | meaning                                                       |
|----------------------|---------------------------------------------------------------|
| ZOO_MAX_PIXELS       | refuse pictures with more pixels (default and for nonsense: 2^28) |
| ZOO_MAX_MEMORY       | refuse files whose decoding takes more bytes (default and for nonsense: 2^32) |
| HF_HUB_OFFLINE       | read by huggingface_hub: never ask the Hub                    |
| HF_ENDPOINT, HF_HOME | read by huggingface_hub: another Hub server, its cache folder |
"""

from __future__ import annotations

import os

INTERFACE_VERSION = 1
"""Version of the plugin interface; a plugin that names another one is skipped with a reason."""

ENTRY_POINT_GROUP = "zoo_core"

DEFAULT_MODEL = "weconvene-q3"
"""What encodes when nobody names a model."""

LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483)
"""Rate-distortion trade-off of the levels q1..q6, for 255^2 * MSE in bits per pixel."""

QUALITY_STEP = 256
"""The quality is stored in the file in steps of 1/256 of a level."""


def _number(variable: str, default: int) -> int:
    """A whole number above 0 from the environment; anything else is as good as unset."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and int(text) else default


MAX_PIXELS = _number("ZOO_MAX_PIXELS", 2**28)

MAX_MEMORY = _number("ZOO_MAX_MEMORY", 2**32)
"""Bytes that decoding a file may take: a few bytes can claim a picture of 2^28 pixels that is not in tiles."""

DEFAULT_MEMORY = 2 * 2**30
"""Bytes that coding a picture may take; larger pictures are cut into tiles."""

PRECISIONS = ("fp32", "bf16", "auto")
"""What the synthesis may run in; "auto" is bf16 where that is faster."""

BYTES_PER_PIXEL = 512
"""Memory that coding takes at its peak, unless a transform states its own."""
