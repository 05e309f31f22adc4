"""Which files a command reads and writes, and how it writes them: whole or not at all.

Folders are walked and their structure is kept. Whatever can be known to fail is known before the first
picture is touched: a missing input, an output that exists, two inputs with the same output.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from zoo_core.atomic import replacing
from zoo_core.errors import UsageError

STREAM = "-"
"""Standard input as an input, standard output as an output."""

ZOO = frozenset({".zoo"})
PICTURES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
    + (".ppm", ".pgm", ".pnm", ".avif", ".jxl", ".heic", ".heif", ".jp2")
)
"""Endings that are taken for pictures inside a folder; a file that is named itself may have any ending."""


@dataclass(frozen=True)
class Job:
    """One file to work on.

    Attributes:
        source: file to read; None is standard input.
        relative: path of the source inside the folder that was named, or its bare name.
        target: file to write; None is standard output, or nothing for commands that write no file.
        problem: why the job cannot be done; found while planning.
        done: an earlier run has done it.
    """

    source: Path | None
    relative: Path
    target: Path | None = None
    problem: Exception | None = None
    done: bool = False

    @property
    def name(self) -> str:
        """The source as messages name it."""
        return "standard input" if self.source is None else str(self.source)

    @property
    def target_name(self) -> str:
        """The target as messages name it."""
        return "standard output" if self.target is None else str(self.target)

    def read(self) -> bytes:
        """The bytes of the source."""
        return sys.stdin.buffer.read() if self.source is None else self.source.read_bytes()


class State(Enum):
    """What a target that exists is to a command that resumes."""

    DONE = "what the command would write"
    DAMAGED = "cut off or damaged"
    OTHER = "written with other options, or older than its source, or no file of ours"


Resume = Callable[[Job], State]


def find(inputs: Sequence[str], endings: frozenset[str]) -> list[Job]:
    """The files that the inputs mean; folders are searched for files with one of the endings.

    Raises:
        UsageError: a folder has no such file, or standard input is one of several inputs.
    """
    if STREAM in inputs and len(inputs) > 1:
        raise UsageError("standard input (-) can only be the only input")
    return [job for word in inputs for job in _expand(word, endings)]


def plan(
    inputs: Sequence[str],
    endings: frozenset[str],
    output: str | None,
    rename: Callable[[Path], Path],
    force: bool,
    resume: Resume | None = None,
) -> list[Job]:
    """The jobs of a command that writes one file for each file it reads.

    Args:
        inputs, endings: as `find`.
        output: `-o` as the user typed it: a file, a folder, "-", or None for a place beside each source.
        rename: from the source's path to the target's path.
        force: overwrite what exists.
        resume: judges targets that exist: what is done is not done again, what is damaged is.

    Raises:
        UsageError: as `find`; the output can only take one file, but there are several; or standard output
            is a terminal.
    """
    jobs = find(inputs, endings)
    several = len(inputs) > 1 or os.path.isdir(inputs[0])
    if output == STREAM and several:
        raise UsageError("standard output (-) can take one file only: choose a folder with -o")
    if output is not None and several and os.path.isfile(output):
        raise UsageError(f"{output} is a file, but there are several inputs: choose a folder with -o")
    into_folder = output is not None and (several or output.endswith(os.sep) or os.path.isdir(output))
    placed = [
        job if job.problem else replace(job, target=_target(job, output, into_folder, rename)) for job in jobs
    ]
    if any(job.target is None and job.problem is None for job in placed) and sys.stdout.isatty():
        raise UsageError("standard output is a terminal: redirect it, or choose a file with -o")
    return _checked(placed, force, resume)


@contextlib.contextmanager
def writing(target: Path | None) -> Iterator[BinaryIO]:
    """A file to write that takes its name only when it is complete; an error leaves nothing behind.

    Args:
        target: where to write; None is standard output. Devices and pipes are written in one go at the end.

    Raises:
        OSError: naming the target, not the temporary file.
    """
    if target is None or (os.path.exists(target) and not os.path.isfile(target)):
        buffer = io.BytesIO()
        yield buffer
        _write_through(target, buffer.getbuffer())
        return
    real = Path(os.path.realpath(target))  # a link stays a link
    real.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(real) as file:
            yield file
    except OSError as error:
        if error.filename == str(real):
            error.filename = str(target)
        raise


def _write_through(target: Path | None, data: memoryview) -> None:
    try:
        if target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        with open(target, "wb") as file:
            file.write(data)
    except OSError as error:
        if error.filename is None and error.strerror:
            error.filename = "standard output" if target is None else str(target)
        raise


def _expand(word: str, endings: frozenset[str]) -> list[Job]:
    if word == STREAM:
        return [Job(source=None, relative=Path("stdin"))]
    path = Path(word)
    if os.path.isdir(word):
        return _walk(path, endings)
    try:
        os.stat(word)
    except OSError as error:
        return [Job(path, Path(path.name), problem=error)]
    return [Job(path, Path(path.name))]


def _walk(folder: Path, endings: frozenset[str]) -> list[Job]:
    """Jobs for the visible files below a folder, in a fixed order; an unreadable folder is a failed job."""
    jobs: list[Job] = []

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        jobs.append(Job(path, path.relative_to(folder), problem=error))

    for here, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in endings:
                path = Path(here, name)
                jobs.append(Job(path, path.relative_to(folder)))
    if not jobs:
        raise UsageError(f"{folder}: no file in this folder ends in {', '.join(sorted(endings))}")
    return jobs


def _target(job: Job, output: str | None, into_folder: bool, rename: Callable[[Path], Path]) -> Path | None:
    if output == STREAM:
        return None
    if output is None:
        return None if job.source is None else rename(job.source)
    return Path(output) / rename(job.relative) if into_folder else Path(output)


def _checked(jobs: Sequence[Job], force: bool, resume: Resume | None) -> list[Job]:
    """Mark the jobs that would destroy a source, another job's result, or a file that exists; and those done."""
    taken: dict[Path, Job] = {}
    checked = []
    for job in jobs:
        if job.problem is None and job.target is not None:
            first = taken.setdefault(job.target, job)
            found = resume(job) if resume and first is job and os.path.isfile(job.target) else State.OTHER
            problem = _conflict(job, job.target, first, force or found is State.DAMAGED)
            job = replace(job, problem=None if found is State.DONE else problem, done=found is State.DONE)
        checked.append(job)
    return checked


def _conflict(job: Job, target: Path, first: Job, force: bool) -> UsageError | None:
    if first is not job:
        return UsageError(
            f"{job.name}: {first.name} is written to {target} already: write them to two folders"
        )
    if not os.path.exists(target):
        return None
    if job.source is not None and os.path.samefile(target, job.source):
        return UsageError(f"{target} is the input itself: choose another file with -o")
    if os.path.isfile(target) and not force:
        return UsageError(f"{target} exists: overwrite it with -f, or choose another file with -o")
    return None
