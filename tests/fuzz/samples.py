"""Valid files of every method, small enough that thousands decode in a minute, and what each of them means."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

import zoo_core as zoo
from tests import golden_models, make_golden
from zoo_core.codec import Codec
from zoo_core.constants import QUALITY_STEP
from zoo_core.container import Header, Section
from zoo_core.testing.pictures import picture
from zoo_core.tiles import Grid, Latents

Key = tuple[int, int, tuple[int, int], bytes]
"""Quality, tile, padded size, symbols: what the pixels depend on. Calibration only says how symbols were coded."""


@dataclass
class Target:
    """A codec, files of its own, and what is known about them.

    Attributes:
        headers: of the files. pictures: whole padded picture by what it depends on, RGB (H, W, 3) and grey (H, W).
        latents: those of each picture. symbols: payloads that a decoder may accept. planes: alpha planes by payload.
    """

    codec: Codec
    files: list[bytes] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    pictures: dict[Key, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    latents: dict[Key, Latents] = field(default_factory=dict)
    planes: dict[bytes, np.ndarray] = field(default_factory=dict)

    @property
    def symbols(self) -> set[bytes]:
        return {key[3] for key in self.pictures}

    def key(self, header: Header, sections: dict[Section, bytes]) -> Key:
        """What the pixels of a file depend on."""
        stride = self.codec.stride
        size = (header.height + -header.height % stride, header.width + -header.width % stride)
        return header.quality, header.tile, size, sections[Section.SYMBOLS]

    def add(self, data: bytes) -> None:
        """Know a valid file."""
        header, sections, latents = self.codec._latents(data)
        key = self.key(header, sections)
        self.latents[key] = latents
        self.pictures[key] = self._render(key)
        if Section.ALPHA in sections:
            self.planes[sections[Section.ALPHA]] = np.asarray(self.codec.decode(data))[..., -1]
        self.files.append(data)
        self.headers.append(header)

    def lay_out(self, tile: int, size: tuple[int, int], symbols: bytes) -> None:
        """Know also the pictures of another padded size that have the tiles of known ones.

        Tiles are coded one by one, so a header that lays out as many of the same shapes in another grid (two
        beside each other, one above the other) names a picture that these symbols are of.
        """
        grid = self._grid(size, tile)
        for known in tuple(self.latents):
            other = self._grid(known[2], tile)
            if known[1::2] == (tile, symbols) and known[2] != size and _shapes(grid) == _shapes(other):
                key = known[0], tile, size, symbols
                self.latents[key] = grid.join(other.inside(self.latents[known], *spans) for spans in other)
                self.pictures[key] = self._render(key)

    def _grid(self, size: tuple[int, int], tile: int) -> Grid:
        return Grid.of(self.codec.model, size, tile)

    def _render(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        """The whole padded picture, RGB and grey."""
        rgb, grey = (self.codec.reconstruct(self.latents[key], key[2], g, key[1]) for g in (False, True))
        return rgb, grey


def _shapes(grid: Grid) -> list[tuple[int, int]]:
    """Height and width of each tile."""
    return [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in grid]


def targets(names: tuple[str, ...] | None = None) -> Iterator[Target]:
    """The methods' tiny models, and the published ones; all, or those that are named."""
    loaders = {m: functools.partial(golden_models.load, m) for m in golden_models.METHODS}
    loaders |= {f"{m}-published": functools.partial(zoo.load, m) for m in make_golden.published()}
    for name in names or tuple(loaders):
        target = Target(loaders[name]())
        for data in _files(target.codec):
            target.add(data)
        yield target


def _files(codec: Codec) -> Iterator[bytes]:
    """Grey and colour, with and without alpha, metadata, tiles and calibration, at several levels."""
    x = [picture(width, height, seed) for seed, (width, height) in enumerate(((24, 16), (24, 16), (64, 48)))]
    alpha = np.random.default_rng(1).integers(0, 256, (16, 24, 1), dtype=np.uint8)
    rgba = Image.fromarray(np.concatenate([x[0], alpha], 2))
    rgba.info |= {"icc_profile": b"profile of the test", "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}
    yield codec.encode(x[0], quality=3)
    yield codec.encode(x[1], quality=3)
    yield codec.encode(x[2][:, :, 0], quality=5.5)
    yield codec.encode(rgba, quality=2, metadata=b"of the test")
    yield codec.encode(np.concatenate([x[1][:, :, :1], np.full_like(alpha, 7)], 2), quality=6)
    with make_golden.listing_many():
        yield codec.encode(x[2], quality=4)
        yield codec.encode(picture(codec.stride + 8, 16), quality=1 + 1 / QUALITY_STEP, tile=codec.stride)
