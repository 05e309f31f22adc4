"""Tiles: the same symbols on both sides, no seams, and a choice that keeps its promise."""

from __future__ import annotations

import dataclasses

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image

import zoo_core as zoo
from zoo_core import constants, container, errors, tiles
from zoo_core.codec import Codec
from zoo_core.container import Section
from zoo_core.images import Picture
from zoo_core.tiles import Grid


@pytest.fixture(scope="module")
def codec() -> Codec:
    return zoo.load("weconvene-q3")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(300, 420, 3): no side is a multiple of the tiles' or of the stride."""
    image = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    return np.asarray(image.convert("RGB"))[:300, :420]


@pytest.mark.parametrize(("size", "side"), [((300, 420), 128), ((64, 64), 64), ((1, 1000), 192)])
def test_tiles_cover_every_pixel_once(codec, size, side):
    grid = Grid.of(codec.model, size, side)
    seen = np.zeros((grid.height, grid.width), int)
    for rows, columns in grid:
        seen[rows.start : rows.stop, columns.start : columns.stop] += 1
        for span, length in ((rows, grid.height), (columns, grid.width)):
            assert span.stop - span.start <= side
            assert span.first == max(0, span.start - 64)
            assert span.last == min(length, span.stop + 64)
    assert (seen == 1).all()


def test_latents_of_tiles_join_to_those_of_the_picture(codec):
    grid = Grid.of(codec.model, (300, 420), 128)
    shapes = codec.model.transform.latent_shapes(grid.height, grid.width)
    latents = tuple(torch.randn(1, *shape) for shape in shapes)
    again = grid.join(grid.inside(latents, *tile) for tile in grid)
    assert all(torch.equal(a, b) for a, b in zip(latents, again, strict=True))
    around = [grid.core(grid.inside(latents, *tile, around=True), *tile) for tile in grid]
    assert all(torch.equal(a, b) for a, b in zip(latents, grid.join(around), strict=True))


@pytest.mark.parametrize("grey", [False, True])
def test_a_file_in_tiles_decodes_to_what_was_encoded(codec, photo, grey):
    image = photo[:, :, 1] if grey else photo
    data = codec.encode(image, tile=128, verify=True)
    assert container.inspect(data).tile == 128
    decoded = np.asarray(zoo.decode(data))
    assert decoded.shape == image.shape
    mse = np.square(decoded.astype(float) - image).mean()
    whole = np.asarray(zoo.decode(codec.encode(image, tile=0)))
    mse_whole = np.square(whole.astype(float) - image).mean()
    assert 10 * np.log10(mse / mse_whole) < 0.1  # dB


def seam_loss(codec: Codec, photo: np.ndarray) -> float:
    """PSNR in dB that tiles lose at pixels beside their seams, for the same latents."""
    known = tuple(y.round() for y in codec.analyse(Picture(photo)))
    whole, tiled = (codec.reconstruct(known, (300, 420), False, side) for side in (0, 128))
    seam = np.zeros((300, 420), bool)
    for edge in (128, 256):
        seam[edge - 8 : edge + 8] = True
        seam[:, edge - 8 : edge + 8] = True
    errors = [np.square(x.astype(float) - photo)[seam].mean() for x in (tiled, whole)]
    return 10 * np.log10(errors[0] / errors[1])


def test_the_pixels_at_seams_are_as_good_as_the_others(codec, photo, monkeypatch):
    assert abs(seam_loss(codec, photo)) < 0.1
    monkeypatch.setattr(tiles, "MARGIN", 0)
    assert seam_loss(codec, photo) > 0.5  # what the margin is for


def test_a_tile_that_holds_the_picture_is_no_tile(codec, photo):
    assert codec.encode(photo, tile=448) == codec.encode(photo)


def test_rate_control_works_with_tiles(codec, photo):
    data = codec.encode(photo, tile=192, max_bytes=9000)
    assert 8500 < len(data) <= 9000
    assert container.inspect(data).tile == 192


@pytest.mark.parametrize("side", [-64, 100, 2**20])
def test_impossible_tiles_are_refused(codec, photo, side):
    with pytest.raises(errors.ZooError, match="multiples of 64"):
        codec.encode(photo, tile=side)


def test_memory_decides_about_tiles(codec):
    size = (8000, 12000)
    sides = [tiles.choose(codec.model, size, int(g * 2**30)) for g in (2.5, 3, 4, 64)]
    assert sides[3] == 0
    assert 256 <= sides[0] < sides[1] < sides[2]
    assert all(side % codec.stride == 0 for side in sides)
    assert tiles.choose(codec.model, (512, 768), constants.DEFAULT_MEMORY) == 0
    with pytest.raises(errors.ZooError, match=r"needs .* GiB"):
        tiles.choose(codec.model, size, 2**30)


@pytest.mark.parametrize("damage", ["missing tile", "surplus", "side"])
def test_a_file_with_damaged_tiles_is_refused(codec, photo, damage):
    header, sections = container.read(codec.encode(photo, tile=192))
    symbols = sections[Section.SYMBOLS]
    if damage == "missing tile":
        symbols = symbols[: 4 + int.from_bytes(symbols[:4], "little")]
    elif damage == "surplus":
        symbols += b"\0"
    else:
        header = dataclasses.replace(header, tile=100)
    with pytest.raises(errors.FileError):
        codec.decode(container.write(header, {**sections, Section.SYMBOLS: symbols}))


def test_a_few_bytes_cannot_claim_all_memory(codec, photo):
    """The pixels of this header are within the limit, but decoding them at once would take 130 GiB."""
    header, sections = container.read(codec.encode(photo[:40, :40]))
    huge = dataclasses.replace(header, width=2**14, height=2**14)
    with pytest.raises(
        errors.LimitExceededError, match=r"16384 x 16384 pixels takes \d+\.\d GiB.*ZOO_MAX_MEMORY"
    ):
        codec.decode(container.write(huge, sections))
    long = dataclasses.replace(header, width=2**20, height=1)  # padded to the stride, it has 2^26 pixels
    with pytest.raises(errors.LimitExceededError, match="1048576 x 64 pixels"):
        codec.check(container.write(long, sections))


def test_what_the_encoder_writes_within_its_memory_is_within_the_decoders(codec, monkeypatch):
    for size in ((1000, 1500), (4000, 6000), (10000, 10000)):
        side = tiles.choose(codec.model, size, constants.DEFAULT_MEMORY)
        tiles.check_memory(codec.model, Grid.of(codec.model, size, side))
    monkeypatch.setattr(constants, "MAX_MEMORY", 2**30)
    with pytest.raises(errors.LimitExceededError, match="in tiles takes"):
        tiles.check_memory(codec.model, Grid.of(codec.model, (10000, 10000), 256))
