"""Folders: worker processes, what becomes of their failures, interruptions, and going on after one.

Most tests give the workers a stand-in that needs no torch, in a module that other processes can import.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from zoo_core import container, registry, weights
from zoo_core.cli import batch, exits, resume, workers
from zoo_core.cli.files import Job, State
from zoo_core.cli.workers import Done, Outcome, Processes, Task, ThisProcess, Workers
from zoo_core.testing.pictures import picture

STAND_IN = """
import logging, os, pathlib, signal, sys, time
from zoo_core.cli.workers import Done
from zoo_core.errors import UsageError

def prepare():
    return work

def prepare_badly():
    raise UsageError("there is no such model: choose another")

def work(task):
    logging.getLogger("zoo_core").info("%s is worked on", task.name)
    if task.data == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.data == b"bug":
        raise ZeroDivisionError("division by zero")
    if task.data == b"sleep":
        pathlib.Path(task.name + f".{os.getpid()}.pid").touch()
        time.sleep(60)
    return Done(task.data.upper(), "done")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "stand_in.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "stand_in", raising=False)
    return importlib.import_module("stand_in")


def options(**given: object) -> argparse.Namespace:
    usual = {"jobs": 2, "ray": None, "threads": 1, "quiet": False, "verbose": 0}
    return argparse.Namespace(**usual | given)


def folder(path: Path, **contents: bytes) -> list[Job]:
    """A job for each file; its result goes beside it."""
    jobs = []
    for name, data in contents.items():
        (path / name).write_bytes(data)
        jobs.append(Job(path / name, Path(name), path / f"{name}.out"))
    return jobs


def write(job: Job, done: Done) -> None:
    job.target.write_bytes(done.data)


def results(path: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(path.glob("*.out"))}


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_the_number_of_workers_changes_nothing(jobs: int, stand_in, tmp_path: Path) -> None:
    contents = {f"file{k}": f"text {k}".encode() for k in range(5)}
    assert batch.run(folder(tmp_path, **contents), stand_in.prepare, write, options(jobs=jobs)) == exits.OK
    assert results(tmp_path) == {name: data.upper() for name, data in contents.items()}


def test_a_worker_that_dies_takes_one_file_with_it(stand_in, tmp_path: Path, caplog) -> None:
    jobs = folder(tmp_path, a=b"kill", b=b"text", c=b"bug", d=b"text", e=b"kill", f=b"text")
    with caplog.at_level(logging.INFO, "zoo_core"):
        assert batch.run(jobs, stand_in.prepare, write, options()) == exits.BUG
    assert results(tmp_path) == {"b": b"TEXT", "d": b"TEXT", "f": b"TEXT"}
    errors = {r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR}
    ended = "its worker ended (killed by SIGKILL): allow more memory or fewer --jobs"
    bug = "ZeroDivisionError: division by zero (please report it with the output of --debug)"
    assert errors == {
        f"{tmp_path / 'a'}: {ended}",
        f"{tmp_path / 'c'}: {bug}",
        f"{tmp_path / 'e'}: {ended}",
        "3 of 6 files failed",
    }
    assert f"{tmp_path / 'b'} is worked on" in caplog.messages


def test_what_cannot_be_prepared_is_told_once(stand_in, tmp_path: Path, caplog) -> None:
    jobs = folder(tmp_path, a=b"text", b=b"text")
    assert batch.run(jobs, stand_in.prepare_badly, write, options()) == exits.UNUSABLE
    assert caplog.messages == ["there is no such model: choose another"]
    assert results(tmp_path) == {}


def test_a_source_that_vanished_fails_alone(stand_in, tmp_path: Path) -> None:
    jobs = folder(tmp_path, a=b"text", b=b"text", c=b"text")
    (tmp_path / "b").unlink()
    assert batch.run(jobs, stand_in.prepare, write, options()) == exits.SOME_FAILED
    assert set(results(tmp_path)) == {"a", "c"}


class Counting(Workers):
    """Workers that finish in turn, and remember how much was going on at most."""

    count = 3

    def __init__(self) -> None:
        self.running: dict[int, str] = {}
        self.groups: list[set[str]] = []

    def prepare(self) -> Outcome:
        return Outcome(exits.OK)

    def give(self, worker: int, task: Task) -> None:
        assert worker not in self.running
        self.running[worker] = Path(task.name).name
        self.groups.append(set(self.running.values()))

    def wait(self) -> tuple[int, Outcome]:
        worker = min(self.running)
        return worker, Outcome(exits.OK, Done(self.running.pop(worker).encode()))

    def close(self) -> None: ...


def test_pictures_share_the_memory(tmp_path: Path) -> None:
    """Two small pictures fit at a time, one that needs more than all is alone, and none is left out."""
    sizes = {"a": (100, 100), "b": (100, 100), "c": (100, 100), "large": (900, 900), "d": (100, 100)}
    for name, size in sizes.items():
        Image.new("L", size).save(tmp_path / name, "PNG")
    jobs = [Job(tmp_path / name, Path(name)) for name in sizes]
    crew = Counting()
    done = [job.relative.name for job, _ in batch.outcomes(crew, jobs, 2 * 512 * 100 * 100)]
    assert sorted(done) == sorted(sizes)
    assert max(map(len, crew.groups)) == 2
    assert all(group == {"large"} for group in crew.groups if "large" in group)


def test_as_many_workers_as_cores_and_no_more_than_files(stand_in, monkeypatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(Processes, "_start", lambda self: started.append(self.count) or (None, None))
    for cores, given, files, expected in ((2, None, 9, 2), (64, None, 99, 8), (2, 5, 99, 5), (8, None, 3, 3)):
        monkeypatch.setattr(workers, "cores", lambda cores=cores: cores)
        asked = options(jobs=given, threads=None)
        assert workers.choose(asked, files, stand_in.prepare).count == expected
        assert asked.threads == max(1, cores // expected)
    assert isinstance(workers.choose(options(jobs=None), 1, stand_in.prepare), ThisProcess)


def sleeping(tmp_path: Path, stand_in) -> subprocess.Popen:
    """A command whose two workers hang over their files."""
    code = f"""
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
sys.path[:0] = [{str(tmp_path / "modules")!r}]
import stand_in
from zoo_core import cli
from zoo_core.cli import batch, list as command
from zoo_core.cli.files import Job

def run(args):
    args.jobs, args.ray, args.threads = 2, None, 1
    jobs = [Job(pathlib.Path({str(tmp_path)!r}, name), pathlib.Path(name)) for name in "ab"]
    return batch.run(jobs, stand_in.prepare, print, args)

command.run = run
if __name__ == "__main__":
    sys.exit(cli.main(["list"]))
"""
    folder(tmp_path, a=b"sleep", b=b"sleep")
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, str(tmp_path / "main.py")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    return process


def gone(pid: int) -> bool:
    """Whether a process ends soon."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # nobody has asked how it ended
        time.sleep(0.02)
    return False


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("terminal", [True, False])
def test_an_interruption_ends_all_workers(terminal: bool, stand_in, tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the terminal; `kill -INT` only the command."""
    process = sleeping(tmp_path, stand_in)
    if terminal:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (exits.INTERRUPTED, "zoo: error: interrupted\n")
    assert all(gone(int(file.suffixes[-2][1:])) for file in tmp_path.glob("*.pid"))


# --- with the real codec -----------------------------------------------------------------------------


def zoo(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "zoo_core.cli", *map(str, words)]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("album")
    for k, name in enumerate(("one.png", "two.png")):
        Image.fromarray(picture(70 + 8 * k, 50)).save(path / name)
    (path / "broken.jpg").write_bytes(b"no picture")
    return path


@pytest.fixture(scope="module")
def encoded(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoded")
    done = zoo("encode", album, "-o", out, "--jobs", 2, "--threads", 1)
    assert done.returncode == exits.SOME_FAILED
    assert f"zoo: error: {album / 'broken.jpg'} is no picture" in done.stderr
    assert "1 of 3 files failed" in done.stderr
    return out


def test_a_folder_in_two_processes_gives_the_bytes_of_one(album: Path, encoded: Path, tmp_path: Path) -> None:
    assert zoo("encode", album, "-o", tmp_path, "--jobs", 1).returncode == exits.SOME_FAILED
    for name in ("one.zoo", "two.zoo"):
        assert (tmp_path / name).read_bytes() == (encoded / name).read_bytes()
    assert zoo("decode", encoded, "-o", tmp_path / "back", "-j", 2).returncode == exits.OK
    assert Image.open(tmp_path / "back" / "two.png").size == (78, 50)


def test_ray_gives_the_same_bytes_and_resumes(album: Path, encoded: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install zoo-core[ray]")
    done = zoo("encode", album, "-o", tmp_path, "--ray", "local")
    assert done.returncode == exits.SOME_FAILED, done.stderr
    assert f"zoo: error: {album / 'broken.jpg'} is no picture" in done.stderr
    for name in ("one.zoo", "two.zoo"):
        assert (tmp_path / name).read_bytes() == (encoded / name).read_bytes()
    again = zoo("encode", album, "-o", tmp_path, "--ray", "local", "--resume")
    assert "2 of 3 files are done already" in again.stderr and " -> " not in again.stderr


# --- resuming ----------------------------------------------------------------------------------------


def encode_options(*words: str) -> argparse.Namespace:
    from zoo_core.cli import encode

    parser = argparse.ArgumentParser()
    encode.add_arguments(parser)
    return parser.parse_args(["photo.png", "-m", "weconvene", "--resume", *words])


@pytest.fixture
def earlier(tmp_path: Path) -> Job:
    """A file that an earlier run has written at level 2, of 1,000 pixels and about 70 bytes."""
    digest = weights.locate(registry.find("weconvene", "codec")).sha256
    header = container.Header("weconvene", "base", bytes.fromhex(digest)[:8], 512, 40, 25)
    (tmp_path / "photo.png").touch()
    (tmp_path / "photo.zoo").write_bytes(container.write(header, {container.Section.SYMBOLS: b"12345"}))
    return Job(tmp_path / "photo.png", Path("photo.png"), tmp_path / "photo.zoo")


@pytest.mark.parametrize(
    "words, state",
    [
        ("-q 2", State.DONE),
        ("-q 2.5", State.OTHER),
        ("-q 2 --preset paper", State.OTHER),
        ("-m dual-branch -q 2", State.OTHER),
        ("--max-bytes 1000", State.DONE),
        ("--max-bytes 20", State.OTHER),
        ("--target-bpp 2", State.DONE),
        ("--target-bpp 0.1", State.OTHER),
        ("--target-psnr 30", State.DONE),
    ],
)
def test_done_is_what_the_same_options_wrote(words: str, state: State, earlier: Job) -> None:
    assert resume.Encoded(encode_options(*words.split()))(earlier) is state


def test_damaged_older_and_foreign_files_are_not_done(earlier: Job) -> None:
    judge = resume.Encoded(encode_options("-q", "2"))
    data = earlier.target.read_bytes()
    for damaged in (data[:-1], data[:20], data[:-9] + b"?" + data[-8:]):
        earlier.target.write_bytes(damaged)
        assert judge(earlier) is State.DAMAGED
    earlier.target.write_bytes(b"my diary")
    assert judge(earlier) is State.OTHER
    earlier.target.write_bytes(data)
    os.utime(earlier.source, (time.time() + 60,) * 2)
    assert judge(earlier) is State.OTHER


def test_a_decoded_picture_is_done_if_it_opens_in_full(earlier: Job, tmp_path: Path) -> None:
    job = Job(earlier.target, Path("photo.zoo"), tmp_path / "back.png")
    Image.new("RGB", (40, 25)).save(job.target)
    assert resume.decoded(job) is State.DONE
    data = job.target.read_bytes()
    job.target.write_bytes(data[: len(data) // 2])
    assert resume.decoded(job) is State.DAMAGED
    Image.new("RGB", (25, 40)).save(job.target)
    assert resume.decoded(job) is State.OTHER
