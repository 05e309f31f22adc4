"""Makes the golden files of format version 1: `python -m tests.make_golden`, from the root of the repository.

Every later version must decode what is there, so nothing is ever overwritten: only what is missing is made.
A new method gets a tiny preset, `tests/golden/METHOD.json`, and this program does the rest. The files hold all
that version 1 can express: alpha, ICC, EXIF, user data, tiles and calibration.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageCms

import zoo_core as zoo
from tests import golden_models
from zoo_core import registry, weights
from zoo_core.codec import Codec
from zoo_core.entropy import stream
from zoo_core.testing.pictures import picture

FINER = 2.5
"""Logarithm by which the steps of quantisation shrink: random weights make latents that would round to zero."""
MARGIN = 1e-3
"""Distance from a border at which choices are listed, so that the files have a calibration section."""
QUALITY = 4.5


def main() -> None:
    """Make what is missing."""
    for method in golden_models.METHODS:
        _write_new(golden_models.FOLDER / f"{method}.safetensors", lambda path, m=method: _weights(m, path))
        _decodable(method, lambda m=method: golden_models.load(m))
    for method in published():
        codec = functools.partial(zoo.load, method)
        _decodable(f"{method}-published", codec)


def published() -> list[str]:
    """Methods that come with weights."""
    return [entry.name for entry in registry.entries() if entry.kind == "codec" and "base" in entry.weights]


def photo(codec: Codec) -> Image.Image:
    """RGBA with two tiles of the smallest side, a profile, and an orientation."""
    width, height = codec.stride + 16, 40
    y, x = np.mgrid[:height, :width]
    alpha = ((x // 8 + y // 8) % 2 * 155 + 100).astype(np.uint8)
    image = Image.fromarray(np.dstack([picture(width, height, seed=5), alpha]))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # the date of its making
    image.info["icc_profile"] = bytes(profile)
    return image


def _weights(method: str, path: Path) -> None:
    """Random weights from a seed that is the method's own, with finer steps."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(method.encode()).digest()[:4], "big"))
    model = golden_models.build(method)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("log_scale", "log_step")):
                parameter.add_(FINER if name.endswith("log_scale") else -FINER)
        for tensor in model.state_dict().values():  # the file keeps half precision: so must the tables
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    model.update()
    state = model.state_dict()
    weights.write_tensors({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)


def _decodable(name: str, load: Callable[[], Codec]) -> None:
    """The file and the picture that it decodes to."""

    def write_file(path: Path) -> None:
        codec = load()
        with listing_many():
            data = codec.encode(photo(codec), quality=QUALITY, tile=codec.stride, metadata=b"golden")
        codec.check(data)
        path.write_bytes(data)

    def write_picture(path: Path) -> None:
        buffer = io.BytesIO()
        load().decode(path.with_suffix(".zoo").read_bytes()).save(buffer, "PNG", icc_profile=None, exif=b"")
        path.write_bytes(buffer.getvalue())

    _write_new(golden_models.FOLDER / f"{name}.zoo", write_file)
    _write_new(golden_models.FOLDER / f"{name}.png", write_picture)


def _write_new(path: Path, write: Callable[[Path], object]) -> None:
    if path.exists():
        return
    write(path)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


@contextlib.contextmanager
def listing_many() -> Iterator[None]:
    """Encode with a wide margin of the choices that are listed; decoders obey any list."""
    with (
        mock.patch.object(stream, "MARGIN", MARGIN),
        mock.patch.object(stream.choices, "__defaults__", (MARGIN,)),
    ):
        yield


if __name__ == "__main__":
    main()
