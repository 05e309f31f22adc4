"""Large pictures in tiles, so that the memory of the networks does not grow with the picture.

Each tile of the latents is coded on its own. The transforms see more than the tile: its surroundings too, so
that no seam shows. At the encoder those are pixels, at the decoder latents of the neighbours, which it has
anyway: the overlap costs time, not bytes. A picture without tiles has a single one, with nothing around it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo_core import constants
from zoo_core.container import MAX_TILE
from zoo_core.errors import CorruptFileError, LimitExceededError, UsageError
from zoo_core.model import CodecModel, read_latents, write_latents

MARGIN = 64
"""Least width, in pixels, of the surroundings that the transforms see; rounded up to the model's stride."""

MIN_SIDE = 256
"""Smallest side of tiles that is chosen: smaller ones spend most of the time on their margins."""

_FIXED, _PER_PIXEL = 500e6, 14
"""Bytes of a process that has loaded a codec, and bytes per pixel of what is kept of the whole picture:
its pixels as they were read and as they are used, and its latents before and after coding."""

Latents = tuple[Tensor, ...]


@dataclass(frozen=True)
class Span:
    """A tile along one dimension, in pixels: [start, stop) lies inside [first, last), which has the margin."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture.

    Args:
        height, width: of the padded picture, multiples of `stride`.
        side: of a tile, a multiple of `stride`, or 0 for a single tile.
        stride: of the model.

    Latents may have any scale that divides `stride`; their own sizes tell it.
    """

    height: int
    width: int
    side: int
    stride: int

    @classmethod
    def of(cls, model: CodecModel, size: tuple[int, int], side: int) -> Grid:
        """The tiles of a picture of `size` = (H, W), whatever it is."""
        stride = model.downscale
        height, width = (n + -n % stride for n in size)
        return cls(height, width, side, stride)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        """Rows and columns of each tile, row by row."""
        for rows in self._spans(self.height):
            for columns in self._spans(self.width):
                yield rows, columns

    def _spans(self, length: int) -> Iterator[Span]:
        side = self.side or length
        margin = MARGIN + -MARGIN % self.stride
        for start in range(0, length, side):
            stop = min(start + side, length)
            yield Span(start, stop, max(start - margin, 0), min(stop + margin, length))

    def inside(self, latents: Latents, rows: Span, columns: Span, around: bool = False) -> Latents:
        """The part of the picture's latents that belongs to a tile; `around`: with its margin."""
        down = (rows.first, rows.last) if around else (rows.start, rows.stop)
        across = (columns.first, columns.last) if around else (columns.start, columns.stop)
        return _cut(latents, (self.height, self.width), down, across)

    def core(self, latents: Latents, rows: Span, columns: Span) -> Latents:
        """The tile's own part of the latents of the tile with its margin."""
        size = (rows.last - rows.first, columns.last - columns.first)
        down = (rows.start - rows.first, rows.stop - rows.first)
        across = (columns.start - columns.first, columns.stop - columns.first)
        return _cut(latents, size, down, across)

    def join(self, parts: Iterable[Latents]) -> Latents:
        """The picture's latents from those of its tiles, in their order."""
        if not self.side:
            return next(iter(parts))
        whole: Latents = ()
        for (rows, columns), part in zip(self, parts, strict=True):
            if not whole:
                tile = (rows.stop - rows.start, columns.stop - columns.start)
                whole = tuple(self._empty(y, tile) for y in part)
            for target, source in zip(self.inside(whole, rows, columns), part, strict=True):
                target.copy_(source)
        return whole

    def _empty(self, y: Tensor, tile: tuple[int, int]) -> Tensor:
        """Room for the picture's latent, of which `y` is that of one tile."""
        return torch.empty(
            *y.shape[:2], y.shape[2] * self.height // tile[0], y.shape[3] * self.width // tile[1]
        )


def _cut(latents: Latents, size: tuple[int, int], down: tuple[int, int], across: tuple[int, int]) -> Latents:
    """What belongs to the pixels [down) and [across), from the latents of a region of `size` = (H, W) pixels."""
    parts = []
    for y in latents:
        high, wide = size[0] // y.shape[-2], size[1] // y.shape[-1]  # pixels of one sample
        parts.append(y[..., down[0] // high : down[1] // high, across[0] // wide : across[1] // wide])
    return tuple(parts)


def checked(grid: Grid) -> Grid:
    """A grid with a side that the model and the format allow; none if one tile holds the picture."""
    if grid.side % grid.stride or not 0 <= grid.side <= MAX_TILE:
        raise UsageError(
            f"tiles have sides that are multiples of {grid.stride}, up to {MAX_TILE // grid.stride * grid.stride}, "
            f"not {grid.side}"
        )
    return replace(grid, side=0) if grid.side >= max(grid.height, grid.width) else grid


def choose(model: CodecModel, size: tuple[int, int], memory: int) -> int:
    """The largest side of tiles with which a picture of `size` = (H, W) fits into `memory` bytes; 0: no tiles.

    Raises:
        UsageError: it does not fit with the smallest sensible tiles either.
    """
    stride, cost = model.downscale, model.transform.bytes_per_pixel
    rest = memory - _FIXED - _PER_PIXEL * size[0] * size[1]
    if rest >= cost * size[0] * size[1]:
        return 0
    margin = MARGIN + -MARGIN % stride
    side = int((max(rest, 0) / cost) ** 0.5 - 2 * margin) // stride * stride
    if side < MIN_SIDE:
        needed = memory - rest + cost * (MIN_SIDE + 2 * margin) ** 2
        raise UsageError(
            f"a picture of {size[1]} x {size[0]} pixels needs {needed / 2**30:.1f} GiB of memory, more than the "
            f"limit of {memory / 2**30:.1f} GiB: allow more, or name the side of the tiles"
        )
    return min(side, MAX_TILE // stride * stride)


def check_memory(model: CodecModel, grid: Grid) -> None:
    """Refuse a file that takes too much memory to decode, before any of it is taken.

    Raises:
        LimitExceededError: it takes more than `constants.MAX_MEMORY` bytes.
    """
    pixels = grid.height * grid.width
    around = 2 * (MARGIN + -MARGIN % grid.stride)
    region = min(pixels, (grid.side + around) ** 2) if grid.side else pixels
    needed = _FIXED + _PER_PIXEL * pixels + model.transform.bytes_per_pixel * region
    if needed > constants.MAX_MEMORY:
        raise LimitExceededError(
            f"decoding a picture of {grid.width} x {grid.height} pixels{' in tiles' * bool(grid.side)} takes "
            f"{needed / 2**30:.1f} GiB of memory, more than the limit of {constants.MAX_MEMORY / 2**30:.1f} GiB: "
            "raise ZOO_MAX_MEMORY if you trust it"
        )


def write(model: CodecModel, latents: Latents, level: float, grid: Grid) -> tuple[bytes, bytes, Latents]:
    """Code a picture's latents: payload, calibration, and the latents as the decoder will know them."""
    if not grid.side:
        return write_latents(model, latents, level)
    payloads, calibrations = [], []

    def parts() -> Iterator[Latents]:
        for rows, columns in grid:
            payload, calibration, known = write_latents(model, grid.inside(latents, rows, columns), level)
            payloads.append(payload)
            calibrations.append(calibration)
            yield known

    known = grid.join(parts())
    return _chain(payloads), _chain(calibrations) if any(calibrations) else b"", known


def read(model: CodecModel, payload: bytes, calibration: bytes, level: float, grid: Grid) -> Latents:
    """The latents of a picture; raises if they are not the encoded ones."""
    if not grid.side:
        return read_latents(model, payload, calibration, (grid.height, grid.width), level)
    tiles = list(grid)
    payloads = _unchain(payload, len(tiles))
    calibrations = _unchain(calibration, len(tiles)) if calibration else [b""] * len(tiles)
    return grid.join(
        read_latents(model, one, other, (rows.stop - rows.start, columns.stop - columns.start), level)
        for (rows, columns), one, other in zip(tiles, payloads, calibrations, strict=True)
    )


def _chain(pieces: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(piece)) + piece for piece in pieces)


def _unchain(data: bytes, count: int) -> list[bytes]:
    pieces, place = [], 0
    for _ in range(count):
        if place + 4 > len(data):
            raise CorruptFileError("the symbols end before the last tile: get the file again")
        (length,) = struct.unpack_from("<I", data, place)
        pieces.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    if place != len(data):
        raise CorruptFileError("the symbols do not end with the last tile: get the file again")
    return pieces
