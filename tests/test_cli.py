"""The command line: files in and out, exit codes, one line per error, and what starting it costs.

A codec of a few lines stands in for the learned ones: a "FAKE" file is the magic word and a PNG.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo_core
from zoo_core import atomic, cli, registry
from zoo_core.cli import comparison, console, demo, exits, module, workers
from zoo_core.errors import ImageError, MismatchError, NotAZooFileError, UsageError
from zoo_core.hooks import Entry, Weights

MAGIC = b"FAKE"
ENTRY = Entry(
    name="fake",
    kind="codec",
    factory="fake_model:build",
    presets={"base": {}, "paper": {}},
    weights={"base": Weights(file="fake.safetensors", sha256="ab" * 32, size=123)},
    summary="a stand-in",
)


@dataclass(frozen=True)
class FakeInfo:
    """What the stand-in's files say about themselves."""

    method: str
    preset: str
    digest: bytes
    width: int
    height: int
    bpp: float

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


class FakeCodec:
    """Lossless; keeps what it was asked for in `calls`."""

    entry, weights = ENTRY, None

    def __init__(self, quality: float) -> None:
        self.quality = quality
        self.calls: list[dict[str, Any]] = []

    def encode(self, image: io.BytesIO | Path, **options: Any) -> bytes:
        self.calls.append(options)
        if Path(getattr(image, "name", image)).stem == "bug":
            raise ZeroDivisionError("division by zero")
        try:
            picture = Image.open(image)
        except Image.UnidentifiedImageError:
            raise ImageError("not a picture: give a file that Pillow reads") from None
        buffer = io.BytesIO(MAGIC)
        buffer.seek(len(MAGIC))
        picture.save(buffer, "PNG", exif=picture.getexif())
        return buffer.getvalue()

    def decode(self, data: bytes, **options: Any) -> Image.Image:
        self.calls.append(options)
        self.check(data)
        picture = Image.open(io.BytesIO(data[len(MAGIC) :]))
        picture.load()
        return picture

    def check(self, data: bytes) -> None:
        if data.endswith(b"damaged"):
            raise MismatchError("the decoded symbols are not the encoded ones: get the file again")


def fake_inspect(data: bytes) -> FakeInfo:
    if not data.startswith(MAGIC):
        raise NotAZooFileError("not a .zoo file: give one that zoo encode wrote")
    return FakeInfo("fake", "base", b"\x01\x02", 8, 6, 8 * len(data) / 48)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeCodec]]:
    """Put the stand-in in the place of the codecs; the codecs that a command loads end up in this list.

    Worker processes would not know it, so files are worked on in this one.
    """
    codecs: list[FakeCodec] = []
    monkeypatch.setattr(workers, "cores", lambda: 1)

    def load(name: str, *, quality: float | None = None, **_: Any) -> FakeCodec:
        codecs.append(FakeCodec(3.0 if quality is None else quality))
        return codecs[-1]

    importlib.import_module("zoo_core.images")  # with the real container
    replace_module(monkeypatch, "codec", load=load)
    replace_module(monkeypatch, "container", inspect=fake_inspect, MAGIC=b"\x89ZOO")
    monkeypatch.setattr(
        registry, "_discover", lambda: registry._Discovery((registry._Registered(ENTRY, "zoo-fake 1.0"),), ())
    )
    yield codecs


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = types.ModuleType(f"zoo_core.{name}")
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(zoo_core, name, module, raising=False)


def picture(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    """Write a picture of smooth colours and fine noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, size[0])[None, :, None] + np.zeros((size[1], 1, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((ramp + rng.integers(0, 50, ramp.shape)).astype(np.uint8)).save(path)
    return path


def encode(*words: Any) -> int:
    return cli.main(["encode", "-m", "fake-q3", *map(str, words)])


def names(folder: Path) -> list[str]:
    """Every file below a folder, temporary ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on standard error."""
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert captured.out == "" and line.startswith("zoo: error: ")
    return line


# --- one file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "spins"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_do_not_keep_a_busy_processor(wish: dict[str, str], spins: str | None) -> None:
    """Set before torch is imported, since OpenMP reads it once; what the user wants goes first."""
    program = (
        "import os, sys\n"
        "from zoo_core import cli\n"
        "assert 'torch' not in sys.modules\n"
        "cli.main(['list'])\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment | wish, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == str(spins)


def test_encode_and_decode_write_beside_the_input(tmp_path: Path, loaded: list, capsys: Any) -> None:
    photo = picture(tmp_path / "a.v2.jpg")
    assert encode(photo) == exits.OK
    data = (tmp_path / "a.v2.zoo").read_bytes()
    expected = f"{photo} -> {tmp_path / 'a.v2.zoo'}: {len(data):,} bytes, {8 * len(data) / 48:.3f} bpp, "
    captured = capsys.readouterr()
    assert captured.err.startswith(expected) and captured.out == ""
    assert cli.main(["decode", str(tmp_path / "a.v2.zoo")]) == exits.OK
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.v2.png")), np.asarray(Image.open(photo)))
    assert names(tmp_path) == ["a.v2.jpg", "a.v2.png", "a.v2.zoo"]


def test_precision_reaches_the_decoder(tmp_path: Path, loaded: list[FakeCodec]) -> None:
    assert encode(picture(tmp_path / "a.png"), "-o", tmp_path / "a.zoo") == exits.OK
    assert cli.main(["decode", "-f", "--precision", "auto", str(tmp_path / "a.zoo")]) == exits.OK
    assert cli.main(["decode", "-f", str(tmp_path / "a.zoo")]) == exits.OK
    assert [codec.calls[0] for codec in loaded[1:]] == [{"precision": "auto"}, {"precision": "fp32"}]


def test_options_reach_the_codec(tmp_path: Path, loaded: list[FakeCodec]) -> None:
    photo = picture(tmp_path / "a.png")
    out = tmp_path / "out.zoo"
    assert (
        encode(
            photo,
            "-o",
            out,
            "--max-bytes",
            900,
            "--no-metadata",
            "--convert",
            "--verify",
            "--tile",
            128,
            "--memory",
            "3G",
        )
        == exits.OK
    )
    assert loaded[-1].quality == 3
    assert loaded[-1].calls == [
        {
            "max_bytes": 900,
            "target_bpp": None,
            "target_psnr": None,
            "keep_metadata": False,
            "convert": True,
            "verify": True,
            "tile": 128,
            "memory": 3 * 2**30,
        }
    ]
    assert encode(photo, "-f", "-o", out, "-q", "4.5") == exits.OK
    assert loaded[-1].quality == 4.5


def test_side_inputs_reach_a_codec_that_takes_them(
    tmp_path: Path, loaded: list, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out.zoo"
    assert encode(photo, "-o", out, "--roi", "mask.png") == exits.UNUSABLE
    assert "fake does not take --roi" in one_error(capsys) and not out.exists()
    takes = ("roi", "roi_threshold", "roi_dilate")
    monkeypatch.setattr(FakeCodec, "entry", dataclasses.replace(ENTRY, conditions=takes))
    assert encode(photo, "-o", out, "--roi", "mask.png", "--roi-dilate", "3") == exits.OK
    assert loaded[-1].calls[0].items() >= {"roi": "mask.png", "roi_dilate": 3}.items()
    assert "roi_threshold" not in loaded[-1].calls[0]
    assert encode(photo, "-f", "-o", out, "--roi", "0,0,4,3;.5,0,1,1") == exits.OK
    assert loaded[-1].calls[0]["roi"] == [(0, 0, 4, 3), (0.5, 0, 1, 1)]
    takes = ("caption", "captioner", "text_mode")
    monkeypatch.setattr(FakeCodec, "entry", dataclasses.replace(ENTRY, conditions=takes))
    assert encode(photo, "-f", "-o", out, "--caption", "a red kite", "--text-mode", "best") == exits.OK
    assert loaded[-1].calls[0].items() >= {"caption": "a red kite", "text_mode": "best"}.items()
    assert encode(photo, "-f", "-o", out, "--roi", "mask.png") == exits.UNUSABLE


def test_options_may_stand_between_the_files(tmp_path: Path, loaded: list[FakeCodec]) -> None:
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    assert encode(first, "-q", "2", second) == exits.OK
    assert loaded[-1].quality == 2
    assert (tmp_path / "a.zoo").exists() and (tmp_path / "b.zoo").exists()


def test_two_rates_at_once_are_refused(tmp_path: Path, loaded: list, capsys: Any) -> None:
    assert encode(picture(tmp_path / "a.png"), "-q", 3, "--target-bpp", 0.5) == exits.UNUSABLE
    assert "--target-bpp: not allowed with argument -q" in one_error(capsys)


def test_nothing_is_overwritten_without_force(tmp_path: Path, loaded: list, capsys: Any) -> None:
    photo = picture(tmp_path / "a.png")
    (tmp_path / "a.zoo").write_bytes(b"precious")
    assert encode(photo) == exits.UNUSABLE
    assert "a.zoo exists: overwrite it with -f" in one_error(capsys)
    assert (tmp_path / "a.zoo").read_bytes() == b"precious" and loaded == []
    assert encode(photo, "--force") == exits.OK
    assert (tmp_path / "a.zoo").read_bytes().startswith(MAGIC)


def test_the_input_itself_is_never_the_output(tmp_path: Path, loaded: list, capsys: Any) -> None:
    photo = picture(tmp_path / "a.png")
    before = photo.read_bytes()
    assert encode(photo, "-f", "-o", photo) == exits.UNUSABLE
    assert "is the input itself" in one_error(capsys)
    assert photo.read_bytes() == before


def test_a_link_stays_a_link_and_permissions_follow_the_mask(tmp_path: Path, loaded: list) -> None:
    (tmp_path / "link.zoo").symlink_to(tmp_path / "real.zoo")
    (tmp_path / "real.zoo").touch()
    assert encode(picture(tmp_path / "a.png"), "-f", "-o", tmp_path / "link.zoo") == exits.OK
    assert (tmp_path / "link.zoo").is_symlink()
    assert (tmp_path / "real.zoo").read_bytes().startswith(MAGIC)
    (tmp_path / "plain").touch()
    assert (tmp_path / "real.zoo").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_device_is_written_and_stays_a_device(tmp_path: Path, loaded: list) -> None:
    assert encode(picture(tmp_path / "a.png"), "-o", os.devnull) == exits.OK
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    "ending, format, exact", [("png", "PNG", True), ("jpg", "JPEG", False), ("webp", "WEBP", True)]
)
def test_decode_writes_the_format_that_the_ending_names(
    ending: str, format: str, exact: bool, tmp_path: Path, loaded: list
) -> None:
    photo = picture(tmp_path / "a.png")
    encode(photo)
    assert cli.main(["decode", str(tmp_path / "a.zoo"), "-o", str(tmp_path / f"out.{ending}")]) == exits.OK
    decoded = Image.open(tmp_path / f"out.{ending}")
    assert decoded.format == format
    assert np.array_equal(np.asarray(decoded), np.asarray(Image.open(photo))) is exact


def test_decode_keeps_exif_and_profile(tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    decoded = Image.new("RGB", (8, 6))
    decoded.info = {"exif": exif.tobytes(), "icc_profile": b"a profile"}
    monkeypatch.setattr(FakeCodec, "decode", lambda self, data, **_: decoded)
    (tmp_path / "a.zoo").write_bytes(MAGIC)
    for ending in ("png", "jpg", "webp", "tiff"):
        target = tmp_path / f"a.{ending}"
        assert cli.main(["decode", str(tmp_path / "a.zoo"), "-o", str(target)]) == exits.OK
        written = Image.open(target)
        assert written.getexif()[0x010E] == "a description", ending
        assert written.info["icc_profile"] == b"a profile", ending


def test_a_format_without_alpha_refuses_alpha(tmp_path: Path, loaded: list, capsys: Any) -> None:
    Image.new("RGBA", (8, 6)).save(tmp_path / "a.png")
    encode("--quiet", tmp_path / "a.png")
    assert cli.main(["decode", str(tmp_path / "a.zoo"), "-o", str(tmp_path / "a.jpg")]) == exits.UNUSABLE
    assert "JPEG cannot hold this picture" in one_error(capsys)
    assert names(tmp_path) == ["a.png", "a.zoo"]


def test_an_unknown_format_is_refused(tmp_path: Path, loaded: list, capsys: Any) -> None:
    (tmp_path / "a.zoo").write_bytes(MAGIC)
    assert cli.main(["decode", str(tmp_path / "a.zoo"), "-o", str(tmp_path / "a.xyz")]) == exits.UNUSABLE
    assert "cannot write pictures that end in '.xyz'" in one_error(capsys)


# --- standard input and output ----------------------------------------------------------------------


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> io.BytesIO:
    """Feed standard input; what is written to standard output lands in the returned buffer."""
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    return out


def test_a_pipe_in_and_out(tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = picture(tmp_path / "a.png")
    out = piped(monkeypatch, photo.read_bytes())
    assert encode("-") == exits.OK
    data = out.getvalue()
    assert data.startswith(MAGIC)
    out = piped(monkeypatch, data)
    assert cli.main(["decode", "-"]) == exits.OK
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(photo)))
    assert names(tmp_path) == ["a.png"]


def test_a_pipe_into_a_file_and_a_file_into_a_pipe(
    tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = picture(tmp_path / "a.png")
    piped(monkeypatch, photo.read_bytes())
    assert encode("-", "-o", tmp_path / "b.zoo") == exits.OK
    out = piped(monkeypatch, b"")
    assert cli.main(["decode", str(tmp_path / "b.zoo"), "-o", "-", "--format", "tiff"]) == exits.OK
    assert Image.open(out).format == "TIFF"


def test_a_failure_writes_nothing_to_the_pipe(loaded: list, monkeypatch: pytest.MonkeyPatch) -> None:
    out = piped(monkeypatch, b"not a picture")
    assert encode("-") == exits.UNUSABLE
    assert out.getvalue() == b""


def test_binary_data_stays_off_the_terminal(
    tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert encode(picture(tmp_path / "a.png"), "-o", "-") == exits.UNUSABLE
    assert "standard output is a terminal" in one_error(capsys)
    assert loaded == []


def test_pipes_take_one_file(tmp_path: Path, loaded: list, capsys: Any) -> None:
    photo = picture(tmp_path / "a.png")
    assert encode(photo, "-") == exits.UNUSABLE
    assert "can only be the only input" in one_error(capsys)
    assert encode(tmp_path, "-o", "-") == exits.UNUSABLE
    assert "one file only" in one_error(capsys)


# --- several files ----------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with pictures, and with things that are none."""
    folder = tmp_path / "album"
    for name in ("one.jpg", "deep/er/two.PNG", "deep/three.webp"):
        picture(folder / name)
    picture(folder / ".hidden.png")
    picture(folder / ".thumbnails/one.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_a_folder_keeps_its_structure_there_and_back(album: Path, tmp_path: Path, loaded: list) -> None:
    assert encode(album, "-o", tmp_path / "zoo") == exits.OK
    assert names(tmp_path / "zoo") == ["deep/er/two.zoo", "deep/three.zoo", "one.zoo"]
    assert len(loaded) == 1
    words = ["decode", "--format", "tif", str(tmp_path / "zoo"), "-o", str(tmp_path / "back")]
    assert cli.main(words) == exits.OK
    assert names(tmp_path / "back") == ["deep/er/two.tif", "deep/three.tif", "one.tif"]
    assert len(loaded) == 2


def test_a_folder_without_output_is_filled_in_place(album: Path, loaded: list) -> None:
    before = names(album)
    assert encode(album) == exits.OK
    assert sorted(set(names(album)) - set(before)) == ["deep/er/two.zoo", "deep/three.zoo", "one.zoo"]


def test_one_failing_file_stops_no_other(album: Path, tmp_path: Path, loaded: list, capsys: Any) -> None:
    (album / "a-fake.jpg").write_text("not a picture")
    missing = tmp_path / "missing.jpg"
    assert encode("--quiet", album, missing, "-o", tmp_path / "zoo") == exits.SOME_FAILED
    assert names(tmp_path / "zoo") == ["deep/er/two.zoo", "deep/three.zoo", "one.zoo"]
    assert capsys.readouterr().err.splitlines() == [
        f"zoo: error: {missing}: No such file or directory (check the path)",
        f"zoo: error: {album / 'a-fake.jpg'}: not a picture: give a file that Pillow reads",
        "zoo: error: 2 of 5 files failed",
    ]


def test_a_bug_in_one_file_is_told_apart(album: Path, loaded: list, capsys: Any) -> None:
    bug = picture(album / "bug.png")
    assert encode("--quiet", album) == exits.BUG
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"zoo: bug: {bug}: ZeroDivisionError: division by zero (please report")
    assert (album / "one.zoo").exists() and len(lines) == 2


def test_two_inputs_for_one_output_are_not_merged(tmp_path: Path, loaded: list, capsys: Any) -> None:
    first, second = picture(tmp_path / "a.jpg"), picture(tmp_path / "a.png", size=(9, 9))
    assert encode("--quiet", "-f", first, second) == exits.SOME_FAILED
    assert f"{second}: {first} is written to {tmp_path / 'a.zoo'} already" in capsys.readouterr().err
    assert Image.open(io.BytesIO((tmp_path / "a.zoo").read_bytes()[len(MAGIC) :])).size == (8, 6)


def test_several_inputs_need_a_folder(album: Path, tmp_path: Path, loaded: list, capsys: Any) -> None:
    (tmp_path / "file").touch()
    assert encode(album, "-f", "-o", tmp_path / "file") == exits.UNUSABLE
    assert "is a file, but there are several inputs" in one_error(capsys)


def test_an_output_that_ends_in_a_slash_is_a_folder(tmp_path: Path, loaded: list) -> None:
    assert encode(picture(tmp_path / "a.png"), "-o", f"{tmp_path}/new/") == exits.OK
    assert names(tmp_path) == ["a.png", "new/a.zoo"]


def test_an_ending_that_is_no_pictures_is_kept(tmp_path: Path, loaded: list) -> None:
    picture(tmp_path / "scan.png").rename(tmp_path / "scan.01")
    assert encode(tmp_path / "scan.01") == exits.OK
    assert names(tmp_path) == ["scan.01", "scan.01.zoo"]


# --- unusable input ---------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path, loaded: list, capsys: Any) -> None:
    missing = tmp_path / "missing.jpg"
    assert encode(missing) == exits.UNUSABLE
    assert one_error(capsys) == f"zoo: error: {missing}: No such file or directory (check the path)"
    assert loaded == []


def test_no_name_at_all(loaded: list, capsys: Any) -> None:
    assert encode("") == exits.UNUSABLE
    assert "No such file" in one_error(capsys)


def test_a_folder_without_pictures(tmp_path: Path, loaded: list, capsys: Any) -> None:
    (tmp_path / "notes.txt").touch()
    assert encode(tmp_path) == exits.UNUSABLE
    assert f"{tmp_path}: no file in this folder ends in .avif, .bmp" in one_error(capsys)


def test_an_unreadable_folder_fails_alone(album: Path, loaded: list, monkeypatch: Any, capsys: Any) -> None:
    scandir = os.scandir

    def locked(path: str) -> Any:
        if Path(path).name == "deep":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert encode("--quiet", album) == exits.SOME_FAILED
    assert f"{album / 'deep'}: Permission denied (check its permissions)" in capsys.readouterr().err
    assert (album / "one.zoo").exists()


def test_another_format_given_to_decode_and_verify(tmp_path: Path, loaded: list, capsys: Any) -> None:
    photo = picture(tmp_path / "a.png")
    for command in ("decode", "verify", "info"):
        assert cli.main([command, str(photo)]) == exits.UNUSABLE
        assert one_error(capsys) == f"zoo: error: {photo}: not a .zoo file: give one that zoo encode wrote"
    assert names(tmp_path) == ["a.png"]


def test_unknown_model_stops_before_the_first_file(album: Path, loaded: list, capsys: Any) -> None:
    assert cli.main(["encode", "-m", "fak-q3", str(album)]) == exits.UNUSABLE
    assert "did you mean 'fake'?" in one_error(capsys)


@pytest.mark.parametrize("stage", ["write", "replace"])
def test_a_full_disk_leaves_nothing(
    stage: str, tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    photo = picture(tmp_path / "a.png")
    (tmp_path / "a.zoo").write_bytes(b"precious")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if stage == "replace":
        monkeypatch.setattr(os, "replace", full)
    else:
        monkeypatch.setattr(FullFile, "write", full)
        monkeypatch.setattr(atomic, "open", lambda path, _: FullFile(io.FileIO(path, "x")), raising=False)
    assert encode("-f", photo) == exits.UNUSABLE
    line = one_error(capsys)
    assert line.startswith(f"zoo: error: {photo}: {tmp_path / 'a.zoo'}: No space left on device (free some")
    assert names(tmp_path) == ["a.png", "a.zoo"]
    assert (tmp_path / "a.zoo").read_bytes() == b"precious"


class FullFile(io.BufferedWriter):
    """An open file on a full disk, once its `write` is replaced."""


def test_a_target_in_a_place_that_is_no_folder(tmp_path: Path, loaded: list, capsys: Any) -> None:
    photo = picture(tmp_path / "a.png")
    assert encode(photo, "-o", photo / "b.zoo") == exits.UNUSABLE
    error = capsys.readouterr().err
    assert error == f"zoo: error: {photo}: File exists (a file stands where a folder is needed)\n"
    assert names(tmp_path) == ["a.png"]


def test_debug_shows_the_traceback_and_nothing_else_does(tmp_path: Path, loaded: list, capsys: Any) -> None:
    missing = str(tmp_path / "missing.jpg")
    assert encode(missing, "-v") == exits.UNUSABLE
    assert "Traceback" not in capsys.readouterr().err
    assert encode(missing, "--debug") == exits.UNUSABLE
    assert cli.main(["--debug", "encode", "-m", "fake", missing]) == exits.UNUSABLE
    assert capsys.readouterr().err.count("Traceback") == 2


def test_a_bug_outside_the_files_exits_with_3(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def bug() -> None:
        raise KeyError("lost")

    monkeypatch.setattr(registry, "entries", bug)
    assert cli.main(["list"]) == exits.BUG
    error = capsys.readouterr().err
    assert error == "zoo: bug: KeyError: 'lost' (please report it with the output of --debug)\n"


# --- verify, info, list -----------------------------------------------------------------------------


def test_verify_tells_sound_from_damaged(tmp_path: Path, loaded: list, capsys: Any) -> None:
    (tmp_path / "a.zoo").write_bytes(MAGIC)
    assert cli.main(["verify", str(tmp_path / "a.zoo")]) == exits.OK
    assert capsys.readouterr().out == f"{tmp_path / 'a.zoo'}: ok\n"
    (tmp_path / "b.zoo").write_bytes(MAGIC + b"damaged")
    assert cli.main(["verify", str(tmp_path / "b.zoo")]) == exits.UNUSABLE
    assert "symbols are not the encoded ones" in one_error(capsys)
    assert cli.main(["verify", str(tmp_path)]) == exits.SOME_FAILED
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'a.zoo'}: ok\n"
    assert captured.err.endswith("zoo: error: 1 of 2 files failed\n")


def test_info_of_a_file(tmp_path: Path, loaded: list, capsys: Any) -> None:
    (tmp_path / "a.zoo").write_bytes(MAGIC + b"1234")
    assert cli.main(["info", "--json", str(tmp_path / "a.zoo")]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert (facts["method"], facts["digest"], facts["width"]) == ("fake", "0102", 8)
    assert cli.main(["info", str(tmp_path / "a.zoo")]) == exits.OK
    assert "\nmethod  fake\n" in capsys.readouterr().out
    assert loaded == []


def test_info_of_a_model(loaded: list, capsys: Any) -> None:
    assert cli.main(["info", "--json", "fake"]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["package"] == "zoo-fake 1.0" and facts["lambdas"]["q4"] == 0.013
    assert facts["weights"]["base"]["sha256"] == "ab" * 32
    assert cli.main(["info", "fake-q3.5"]) == exits.OK
    assert "level      3.5" in capsys.readouterr().out


def test_info_goes_on_after_a_failure(loaded: list, capsys: Any) -> None:
    assert cli.main(["info", "nothing", "fake"]) == exits.SOME_FAILED
    captured = capsys.readouterr()
    assert "name" in captured.out and captured.err.startswith("zoo: error: no model named 'nothing'")


def test_list(loaded: list, capsys: Any) -> None:
    assert cli.main(["list"]) == exits.OK
    row = capsys.readouterr().out.splitlines()[1]
    assert " ".join(row.split()) == "fake codec q1..q6 base*, paper zoo-fake 1.0 a stand-in"
    assert cli.main(["list", "--json"]) == exits.OK
    listing = json.loads(capsys.readouterr().out)
    assert listing["entries"][0]["models"][-1] == "fake-q6" and listing["broken"] == []


# --- demo -------------------------------------------------------------------------------------------


@pytest.fixture
def demo_photo(tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photo, and the stand-in for the module that reads it."""
    read = {"read": lambda path, convert: Image.open(path), "to_pil": lambda image: image}
    replace_module(monkeypatch, "images", **read)
    monkeypatch.chdir(tmp_path)
    return picture(tmp_path / "photo.png", size=(320, 240))


def test_demo_draws_three_columns_again_and_again(demo_photo: Path, capsys: Any) -> None:
    for _ in range(2):
        assert cli.main(["demo", "-m", "fake-q3", str(demo_photo)]) == exits.OK
    out = capsys.readouterr().out
    size = Path("demo/photo-comparison.zoo").stat().st_size
    assert "fake-q3: loaded in" in out and f"{size:,}" in out and "JPEG 4:4:4, quality" in out
    assert "inf" in out  # the stand-in is lossless
    sheet = Image.open("demo/photo-comparison.png")
    assert sheet.width == 3 * 320 + 4 * 12
    left, right = (np.asarray(sheet.crop((x, 80, x + 320, sheet.height))) for x in (12, 2 * 332 + 12))
    assert np.array_equal(left, right)


def test_demo_overwrites_only_with_force(demo_photo: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "x.zoo").write_bytes(b"precious")
    words = ["demo", "-m", "fake", str(demo_photo), "-o", str(tmp_path / "x.png")]
    assert cli.main(words) == exits.UNUSABLE
    assert "x.zoo exists" in one_error(capsys)
    assert cli.main([*words, "-f"]) == exits.OK
    assert cli.main([*words[:-1], "x.zoo", "-f"]) == exits.UNUSABLE


def test_demo_uses_matplotlibs_photo_or_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.open(demo.sample_photo()).size == (512, 600)
    monkeypatch.setitem(sys.modules, "matplotlib.cbook", None)
    with pytest.raises(zoo_core.ZooError, match="zoo demo PHOTO"):
        demo.sample_photo()


@pytest.mark.parametrize("size", [2000, 6000, 20000])
def test_jpeg_takes_as_many_bytes_or_just_more(size: int, tmp_path: Path) -> None:
    original = Image.open(picture(tmp_path / "a.png", size=(160, 120)))
    result = demo.jpeg_of_size(original, size)
    quality = int(result.name.rsplit(" ", 1)[1])
    assert result.size >= size
    assert len(demo._jpeg(original, quality - 1)) < size
    assert result.bpp == 8 * result.size / (160 * 120)


def test_jpeg_stops_at_its_limits(tmp_path: Path) -> None:
    original = Image.open(picture(tmp_path / "a.png", size=(64, 48)))
    assert demo.jpeg_of_size(original, 1).name.endswith("quality 1")
    assert demo.jpeg_of_size(original, 10**9).name.endswith("quality 100")


def test_the_enlarged_part_is_where_the_detail_is() -> None:
    pixels = np.full((480, 640, 3), 128, np.uint8)
    pixels[330:400, 500:600] = np.random.default_rng(0).integers(0, 255, (70, 100, 3))
    left, top, right, bottom = comparison.busiest_part(Image.fromarray(pixels))
    assert (right - left, bottom - top) == (160, 160)
    assert left <= 500 and right >= 600 and top <= 330 and bottom >= 400


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_tiny_pictures_can_be_compared(size: tuple[int, int]) -> None:
    sheet = comparison.side_by_side([(("a",), Image.new("RGB", size)), (("b",), Image.new("RGB", size))])
    assert sheet.width > 600


# --- messages ---------------------------------------------------------------------------------------


def test_the_bar_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for terminal, verbosity, shown in ((False, 0, False), (True, 0, True), (True, -1, False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with console.session(verbosity, debug=False):
            assert list(console.progress([1, 2], ["one", "two"])) == [1, 2]
        error = capsys.readouterr().err
        assert ("1/2 two" in error) is shown
        assert error.endswith("\r\x1b[K") is shown


def test_a_session_leaves_logging_as_it_was() -> None:
    before = list(console.log.handlers), console.log.level
    with console.session(1, debug=True):
        assert len(console.log.handlers) == len(before[0]) + 1
    assert (console.log.handlers, console.log.level) == before


def test_no_command_prints_help_with_the_exit_codes(capsys: Any) -> None:
    assert cli.main([]) == exits.OK
    out = capsys.readouterr().out
    assert "exit codes:" in out and all(f"    {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "words, message",
    [
        (["encod"], "no command 'encod': did you mean 'encode'? (see zoo --help)"),
        (["fly"], "no command 'fly': choose from list, info"),
        (["encode"], "the following arguments are required: INPUT (see zoo encode --help)"),
        (["encode", "a.png", "--max-bytes", "0"], "'0' is no whole number above 0"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: list[str], message: str, capsys: Any) -> None:
    assert cli.main(words) == exits.UNUSABLE
    assert message in one_error(capsys)


def test_a_file_that_looks_like_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("-dash.png")
    assert cli.main(["encode", "-dash.png"]) == exits.UNUSABLE
    assert "if you mean the file, write ./-dash.png" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: Any) -> None:
    assert cli.main([command, "--help"]) == exits.OK
    out = capsys.readouterr().out
    assert out.startswith(f"usage: zoo {command} ") and "exit codes:" in out


# --- processes --------------------------------------------------------------------------------------


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
from zoo_core import cli
from zoo_core.cli import files, list as command

def run(args):
    with files.writing(pathlib.Path({str(tmp_path)!r}, "a.zoo")) as file:
        file.write(b"half"); file.flush()
        print("writing", flush=True)
        time.sleep(30)

command.run = run
sys.exit(cli.main(["list"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    assert len(names(tmp_path)) == 1
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (exits.INTERRUPTED, "zoo: error: interrupted\n")
    assert names(tmp_path) == []


def test_a_reader_that_leaves_is_no_error_message() -> None:
    code = "import sys; from zoo_core.cli import main; sys.exit(main(['list', '--json']))"
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (exits.UNUSABLE, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_missing_stream_is_no_bug(closed: str, tmp_path: Path) -> None:
    """What belongs to standard error stays out of the results, also when there is no standard error."""
    (tmp_path / "a.zoo").write_bytes(b"")
    zoo = f"{shlex.quote(sys.executable)} -m zoo_core.cli"
    for words, code in (("list", 0), ("info a.zoo", 2), ("verify -", 2)):
        command = f"{zoo} {words} {closed}"
        done = subprocess.run(command, shell=True, cwd=tmp_path, input=b"", capture_output=True)
        assert done.returncode == code
        assert b"bug" not in done.stderr and b"error" not in done.stdout


HEAVY = ("torch", "numpy", "PIL", "compressai", "huggingface_hub", "safetensors", "matplotlib")


@pytest.mark.parametrize("words", [None, ["--help"], ["list"], ["encode", "--help"], ["demo", "--help"]])
def test_starting_imports_nothing_heavy(words: list[str] | None) -> None:
    run = f"from zoo_core.cli import main; main({words})" if words else "import zoo_core"
    code = f"{run}\nimport sys; print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("raised", "words", "code", "said"),
    [
        (
            UsageError("no such thing: name another"),
            [],
            exits.UNUSABLE,
            "zoo: error: no such thing: name another\n",
        ),
        (KeyboardInterrupt(), [], exits.INTERRUPTED, "zoo: error: interrupted\n"),
        (ValueError("odd"), [], exits.BUG, "please report it"),
        (UsageError("no such thing"), ["--debug"], exits.UNUSABLE, "Traceback"),
    ],
)
def test_commands_of_plugins_report_errors_as_zoo_does(
    raised: BaseException, words: list[str], code: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    def work(args: argparse.Namespace) -> None:
        raise raised

    assert module.run(argparse.ArgumentParser(), work, words) == code
    out, err = capsys.readouterr()
    assert not out and said in err and (words or err.count("\n") == 1)
