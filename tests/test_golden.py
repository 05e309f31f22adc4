"""Golden files: what format version 1 has written decodes for ever, to the same symbols and the same picture.

Decoding compares the CRC-32 of the symbols, which is exact. Pixels come out of float32 networks and may differ
by a level between machines. `tests/make_golden.py` says how the files were made.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo_core as zoo
from tests import golden_models, make_golden
from zoo_core import container, registry
from zoo_core.codec import Codec
from zoo_core.container import Section
from zoo_core.errors import WrongWeightsError


def golden(name: str) -> tuple[bytes, np.ndarray]:
    """File and picture (H, W, 4)."""
    path = golden_models.FOLDER / name
    with Image.open(f"{path}.png") as image:
        return Path(f"{path}.zoo").read_bytes(), np.asarray(image)


def assert_decodes(codec: Codec, data: bytes, expected: np.ndarray) -> None:
    image = codec.decode(data)
    found = np.asarray(image)
    assert image.mode == "RGBA" and found.shape == expected.shape
    assert np.array_equal(found[..., 3], expected[..., 3])
    assert np.abs(found[..., :3].astype(int) - expected[..., :3]).max() <= 1
    assert image.getexif()[0x0112] == 6 and len(image.info["icc_profile"]) == 588


def test_every_method_has_a_golden_file() -> None:
    assert len(registry.PUBLISHED) == 10
    assert set(registry.PUBLISHED) <= set(golden_models.METHODS)


@pytest.mark.parametrize("method", golden_models.METHODS)
def test_golden_file(method: str) -> None:
    data, expected = golden(method)
    header, sections = container.read(data)
    assert header.tile and sections[Section.USER] == b"golden"
    assert_decodes(golden_models.load(method), data, expected)


def test_the_golden_files_know_calibration() -> None:
    listed = [m for m in golden_models.METHODS if Section.CALIBRATION in container.read(golden(m)[0])[1]]
    assert len(listed) >= 5


@pytest.mark.parametrize("method", sorted(p.stem[:-10] for p in golden_models.FOLDER.glob("*-published.zoo")))
def test_file_of_published_weights(method: str) -> None:
    """It decodes with the weights that it names; beside others it says which ones it needs."""
    data, expected = golden(f"{method}-published")
    digest = container.read(data)[0].digest.hex()
    if registry.find(method, "codec").weights["base"].sha256.startswith(digest):
        assert_decodes(zoo.load(method), data, expected)
    else:
        with pytest.raises(WrongWeightsError, match=f"written with weights {digest}.*plugin version"):
            zoo.decode(data)


def test_other_weights_are_refused_by_their_digest() -> None:
    """The file of the published weights is nothing for the tiny model, whose digest is another one."""
    data, _ = golden("weconvene-published")
    digest = hashlib.sha256((golden_models.FOLDER / "weconvene.safetensors").read_bytes()).hexdigest()
    with pytest.raises(WrongWeightsError, match=rf"but these are {digest[:16]}: install the plugin version"):
        golden_models.load("weconvene").decode(data)


def test_making_golden_files_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is made, and decodes; what is there stays as it is."""
    monkeypatch.setattr(golden_models, "FOLDER", tmp_path)
    monkeypatch.setattr(golden_models, "METHODS", ("feds",))
    monkeypatch.setattr(make_golden, "published", lambda: [])
    preset = Path(__file__).parent / "golden" / "feds.json"
    (tmp_path / "feds.json").write_bytes(preset.read_bytes())
    (tmp_path / "feds.png").write_bytes(b"precious")
    make_golden.main()
    assert re.findall(r"^(\S+):", capsys.readouterr().out, re.MULTILINE) == ["feds.safetensors", "feds.zoo"]
    assert (tmp_path / "feds.png").read_bytes() == b"precious"
    first = (tmp_path / "feds.zoo").read_bytes()
    make_golden.main()
    assert (tmp_path / "feds.zoo").read_bytes() == first and capsys.readouterr().out == ""
    assert golden_models.load("feds").decode(first).mode == "RGBA"
