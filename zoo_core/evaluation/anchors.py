"""The codecs that everybody has, encoded on the spot on the same pictures: the yardstick of every table.

Real bytes through Pillow, so the figures belong to the libraries that Pillow ships. Their rate is set by a
quality number whose scale is each codec's own; the levels below span the range of the learned codecs.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from zoo_core.errors import UsageError

_LIBRARIES = {"JPEG": "libjpeg_turbo", "WEBP": "webp", "AVIF": "avif"}
"""Pillow's names of the libraries that write the formats."""


@dataclass(frozen=True)
class Anchor:
    """A classical codec with its settings.

    Attributes:
        name: as on the command line.
        title: with its settings, for legends.
        format: Pillow's name of the format.
        suffix: of its files.
        levels: values of its quality number, rising.
        options: Pillow's further arguments of `save`.
    """

    name: str
    title: str
    format: str
    suffix: str
    levels: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> None:
        """A classical codec has no network to count."""
        return None

    @property
    def version(self) -> str:
        """Pillow and the library inside it that does the work; JPEG XL's own is not told."""
        library = _LIBRARIES.get(self.format)
        inside = f", {library} {features.version(library)}" if library else ""
        return f"Pillow {PIL.__version__}{inside}"

    def encode(self, pixels: np.ndarray, level: float) -> bytes:
        """A complete file of the picture, (H, W, 3) or (H, W) uint8, at quality `level`."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, self.format, quality=int(level), **self.options)
        return buffer.getvalue()

    def decode(self, data: bytes, grey: bool) -> np.ndarray:
        """The picture in the file: (H, W) uint8 if grey, else (H, W, 3)."""
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("L" if grey else "RGB"))


_ANCHORS = (
    Anchor(
        "jpeg",
        "JPEG 4:4:4",
        "JPEG",
        ".jpg",
        (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95),
        {"subsampling": "4:4:4", "optimize": True},
    ),
    Anchor(
        "jpeg-420",
        "JPEG 4:2:0",
        "JPEG",
        ".jpg",
        (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95),
        {"subsampling": "4:2:0", "optimize": True},
    ),
    Anchor("webp", "WebP", "WEBP", ".webp", (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95), {"method": 6}),
    Anchor(
        "avif",
        "AVIF 4:4:4, speed 6",
        "AVIF",
        ".avif",
        (15, 25, 35, 45, 55, 65, 75, 85),
        {"subsampling": "4:4:4", "speed": 6},
    ),
    Anchor("jxl", "JPEG XL, effort 7", "JXL", ".jxl", (10, 20, 30, 40, 50, 60, 70, 80, 90), {"effort": 7}),
)


def names() -> tuple[str, ...]:
    """Names of all anchors, whether or not this Pillow can write them."""
    return tuple(anchor.name for anchor in _ANCHORS)


def anchor(name: str) -> Anchor:
    """The anchor of that name, ready to be used.

    Raises:
        UsageError: there is no such anchor, or the installed Pillow cannot write its format.
    """
    found = next((a for a in _ANCHORS if a.name == name), None)
    if found is None:
        near = difflib.get_close_matches(name.lower(), names(), n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names())}"
        raise UsageError(f"no anchor {name!r}; {hint}")
    if not is_available(found):
        raise UsageError(f"this Pillow cannot write {found.format}, needed for {name}; {_remedy(found)}")
    return found


def is_available(anchor: Anchor) -> bool:
    """Whether the format can be written here. JPEG XL comes from a plugin of Pillow that must be imported."""
    if anchor.format == "JXL":
        try:
            import pillow_jxl  # noqa: F401
        except ImportError:
            return False
        return True
    return anchor.format == "JPEG" or bool(features.check(_LIBRARIES[anchor.format]))


def _remedy(anchor: Anchor) -> str:
    if anchor.format == "JXL":
        return "run: pip install pillow-jxl-plugin"
    return "run: pip install --upgrade pillow"
