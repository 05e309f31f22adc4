"""A seeded slice of `make fuzz`, and the fuzzers' own parts: a fuzzer that sees nothing finds nothing."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from tests import golden_models
from tests.fuzz import campaign, guard, harness, make_corpus, verdict
from tests.fuzz.layout import Layout
from tests.fuzz.mutations import mutate
from tests.fuzz.samples import Target, targets
from zoo_core import container, images
from zoo_core.errors import ZooError


@pytest.fixture(scope="module")
def target() -> Target:
    """One method's files."""
    return next(targets(("feds",)))


def test_a_slice_over_all_methods() -> None:
    """Thousands of damaged containers and hundreds of decodes, with no broken promise among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tally = campaign.run(list(targets(golden_models.METHODS)), seed=1, containers=3000, decodes=150)
    finally:
        torch.set_num_threads(before)
    assert tally.failures == []
    assert tally.decoded.total() >= 150 and tally.decoded["MismatchError"] > 20
    errors = {"NotAZooFileError", "TruncatedFileError", "CorruptFileError", "UnsupportedFileError"}
    assert errors | {"LimitExceededError", verdict.READ} <= set(tally.parsed)


def test_the_second_reader_agrees_with_the_first(target: Target) -> None:
    for data in target.files:
        layout = Layout.of(data)
        assert layout.build() == layout.build(sealed=False) == data
        _, sections = container.read(data)
        assert {block.kind: block.payload for block in layout.blocks} == sections


def test_one_seed_gives_one_run(target: Target) -> None:
    first, second = ([mutate(Random(5), *target.files[:2]) for _ in range(3)] for _ in range(2))
    assert first == second


def test_undamaged_files_are_right(target: Target) -> None:
    for data in target.files:
        assert verdict.parse(data) == verdict.READ
        assert verdict.decode(target, data) == verdict.RIGHT


# --- files that say something else about the symbols that they hold ---------------------------------


def _tiles(target: Target, across: int, down: int) -> bytes:
    """The target's file of two tiles beside each other, its header written anew for another grid of tiles."""
    header, sections = container.read(target.files[-1])
    side = header.tile
    assert header.width > side >= header.height
    return container.write(replace(header, width=across * side, height=down * side), sections)


def test_tiles_in_another_grid_are_another_valid_file(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pixels are compared too: with those of the known latents, moved to where the header says."""
    restated = _tiles(target, across=1, down=2)
    assert verdict.decode(target, restated) == verdict.RESTATED
    key = target.key(*container.read(restated))
    monkeypatch.setitem(target.pictures, key, tuple(one ^ np.uint8(1) for one in target.pictures[key]))
    with pytest.raises(verdict.Failure, match="pixels are not those of the symbols"):
        verdict.decode(target, restated)


def test_tiles_that_nobody_encoded_are_noticed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles are refused as three; a reader that would not mind is found out."""
    restated = _tiles(target, across=3, down=1)
    assert verdict.decode(target, restated) == "CorruptFileError"
    header, _ = container.read(restated)
    black = images.read(np.zeros((header.height, header.width, 3), np.uint8))
    latents = target.codec.analyse(black)
    monkeypatch.setattr("zoo_core.tiles.read", lambda *_: latents)
    with pytest.raises(verdict.Failure, match="symbols were accepted for a picture that they are not of"):
        verdict.decode(target, restated)


# --- what the fuzzer would notice -------------------------------------------------------------------


def test_wrong_pixels_are_noticed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    real = type(target.codec).reconstruct

    def off_by_one(self, *arguments):
        return real(self, *arguments) ^ np.uint8(1)

    monkeypatch.setattr(type(target.codec), "reconstruct", off_by_one)
    with pytest.raises(verdict.Failure, match="pixels are not those of the symbols"):
        verdict.decode(target, target.files[0])


def test_a_checksum_that_is_not_compared_is_noticed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo_core.entropy.stream.Decoder.finish", lambda self: None)
    tally = campaign.run([target], seed=3, containers=400, decodes=200)
    assert any("changed symbols were accepted" in line for line in tally.failures)


def test_an_error_that_is_not_ours_is_noticed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr("zoo_core.entropy.stream.Decoder.gaussian", broken)
    tally = campaign.run([target], seed=3, containers=40, decodes=20)
    assert any(line.endswith("ValueError: two lines") for line in tally.failures)


def test_a_hang_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECONDS", 0.05)
    guard.install()
    with pytest.raises(verdict.Failure, match="takes more than"), guard.watched():
        while True:
            pass


# --- the coverage-guided target ---------------------------------------------------------------------


def test_the_corpus_is_what_its_maker_writes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = {path.name: path.read_bytes() for path in make_corpus.FOLDER.iterdir()}
    monkeypatch.setattr(make_corpus, "FOLDER", tmp_path)
    make_corpus.main()
    assert committed == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_the_corpus_goes_through_every_door() -> None:
    outcomes = {path.name: harness.one_input(path.read_bytes()) for path in make_corpus.FOLDER.iterdir()}
    assert outcomes["raw-sections"] is outcomes["sealed-sections"] is outcomes["coder-escapes"] is None
    assert outcomes["raw-cut"] == "TruncatedFileError" and outcomes["raw-future"] == "CorruptFileError"
    assert outcomes["sealed-future"] is None  # with right seals it is a file with an unknown section
    assert outcomes["coder-large-listed"] == "MismatchError"


def test_hostile_symbols_end_in_errors_of_the_zoo() -> None:
    """Random payloads, and every byte of a sound one set to other values."""
    random = Random(0)
    sound = make_corpus.symbols()["coder-large"]
    for _ in range(100):
        harness.one_input(bytes([harness.CODER, 0, 0]) + random.randbytes(random.randrange(200)))
    for place in range(3, len(sound)):
        broken = bytearray(sound)
        broken[place] ^= random.randrange(1, 256)
        with pytest.raises(ZooError):
            harness.read_symbols(bytes(broken[1:]))
