"""Pillow opens and saves .zoo files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import zoo_core as zoo
import zoo_core.pillow
from zoo_core import errors
from zoo_core.testing.pictures import picture


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(picture(80, 60))


def test_a_saved_file_opens_as_what_the_codec_decodes(photo, tmp_path):
    path = tmp_path / "a.zoo"
    photo.save(path, codec="weconvene-q5")
    data = path.read_bytes()
    assert data == zoo.load("weconvene-q5").encode(photo)
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == ("ZOO", (80, 60), "RGB")
        assert (image.info["method"], image.info["level"]) == ("weconvene", 5.0)
        assert np.array_equal(np.asarray(image), np.asarray(zoo.decode(data)))


def test_opening_decodes_nothing(photo, tmp_path, monkeypatch):
    path = tmp_path / "a.zoo"
    photo.save(path, codec="weconvene-q1")
    monkeypatch.setattr("zoo_core.codec.decode", lambda data: pytest.fail("decoded too early"))
    with Image.open(path) as image:
        assert image.size == (80, 60)


def test_metadata_and_alpha_are_kept(photo, tmp_path):
    path = tmp_path / "a.zoo"
    photo.putalpha(photo.getchannel("G"))
    exif = Image.Exif()
    exif[0x010E] = "a caption"
    profile = b"not a real profile, kept as it is" * 8
    photo.save(path, exif=exif, icc_profile=profile, keep_metadata=True)
    with Image.open(path) as image:
        image.load()
        assert image.getexif()[0x010E] == "a caption"
        assert image.info["icc_profile"] == profile
        assert np.array_equal(np.asarray(image.getchannel("A")), np.asarray(photo.getchannel("A")))


def test_keywords_of_encode_pass_through(photo, tmp_path):
    path = tmp_path / "a.zoo"
    photo.save(path, max_bytes=400)
    assert 300 < path.stat().st_size <= 400
    with pytest.raises(errors.ZooError):
        photo.save(tmp_path / "b.zoo", max_bytes=3)
    assert not (tmp_path / "b.zoo").exists()


def test_a_damaged_file_says_so(photo, tmp_path):
    path = tmp_path / "a.zoo"
    photo.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.CorruptFileError):
        Image.open(path)
