"""Killed processes and full disks: the old file, or the whole new one, and one line that says why."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from zoo_core import cli, weights
from zoo_core.cli import exits
from zoo_core.testing.pictures import picture

KILLED = """
import os, pathlib, random, signal, sys, time, torch
torch.set_num_threads(1)  # what is forked has no other thread to wait for
from zoo_core import cli
folder = pathlib.Path(sys.argv[1])

def encode(name, target):
    return cli.main(["encode", "-f", "-m", "weconvene-q1", str(folder / name), "-o", str(folder / target)])

for name in ("a", "b"):
    assert encode(f"{name}.png", f"{name}.zoo") == 0
whole = {(folder / f"{name}.zoo").read_bytes() for name in ("a", "b")}
target, chance, seen = folder / "out.zoo", random.Random(7), set()
target.write_bytes(b"what was there before")
for attempt in range(12):
    before, done, tell = target.read_bytes(), *os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            encode("b.png", target.name)
            os.write(tell, b".")
            encode("a.png", target.name)
            os.write(tell, b".")
    begun = time.monotonic()
    finished = chance.randrange(3)
    for _ in range(finished):
        os.read(done, 1)
    time.sleep(chance.uniform(0, (time.monotonic() - begun) / max(finished, 1)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    after = target.read_bytes()
    assert after in whole or (not finished and after == before), (attempt, len(after))
    seen.add(after)
assert encode("a.png", target.name) == 0 and target.read_bytes() in whole
print(len(seen & whole))
"""
"""Encodes again and again over one file, in children that are killed at random moments of an encode."""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small picture."""
    Image.fromarray(picture(24, 16)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_killed_encode_leaves_the_old_file_or_the_new_one(tmp_path: Path, photo: Path) -> None:
    Image.fromarray(picture(40, 24, 1)).save(tmp_path / "b.png")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "2"  # both pictures were met


def test_a_full_device_is_named(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["encode", "-m", "weconvene-q1", str(photo), "-o", "/dev/full"]) == exits.UNUSABLE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zoo: error: {photo}: /dev/full: No space left on device (free some space")


def test_a_full_standard_output_is_named(photo: Path) -> None:
    command = [sys.executable, "-m", "zoo_core.cli", "encode", "-m", "weconvene-q1", str(photo), "-o", "-"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    [line] = done.stderr.splitlines()
    assert done.returncode == exits.UNUSABLE and "standard output: No space left on device" in line


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Files of this process may have 100 bytes: what the kernel does on a full disk, half-way through a write.

    Not a fixture: the test runner's own log is a file as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_stops_half_way_leaves_the_old_file(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.zoo"
    target.write_bytes(b"precious")
    with no_room():
        code = cli.main(["encode", "-f", "-m", "weconvene-q6", str(photo), "-o", str(target)])
    assert code == exits.UNUSABLE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zoo: error: {photo}: {target}: File too large")
    assert target.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out.zoo"]


def test_weights_that_find_no_room_leave_the_old_ones(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    target.write_bytes(b"precious")
    with no_room(), pytest.raises(OSError, match="File too large") as caught:
        weights.write_tensors({"a": torch.ones(1000)}, target)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(target)
    assert list(tmp_path.iterdir()) == [target] and target.read_bytes() == b"precious"
