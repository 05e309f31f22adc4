"""Runs a command's work on each file: one that fails does not stop the others.

This process reads the files, hands their bytes to workers (`zoo_core.cli.workers`) and writes what comes back.
So it is the only one that writes: whatever happens to a worker, nothing is left half written.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from zoo_core.cli import console, exits, workers
from zoo_core.cli.files import Job
from zoo_core.cli.workers import Done, Outcome, Prepare, Task, Workers
from zoo_core.constants import BYTES_PER_PIXEL, DEFAULT_MEMORY

Deliver = Callable[[Job, Done], None]
"""Writes one result and tells the user."""

log = logging.getLogger(__name__)


def run(jobs: Sequence[Job], prepare: Prepare, deliver: Deliver, args: argparse.Namespace) -> int:
    """Do all jobs and return the exit code of the command.

    Args:
        jobs: the files, some perhaps with a problem already known, some done by an earlier run.
        prepare: returns the work to do on each; called by every worker, only if at least one job can be done,
            because it may load a model. If it fails, the command ends.
        deliver: called here, as the results come.
        args: with the options of `options.add_workers`.
    """
    todo = [job for job in jobs if not job.done]
    if len(todo) < len(jobs):
        log.info("%d of %d files are done already", len(jobs) - len(todo), len(jobs))
    hopeless = [_failure(job, job.problem) for job in todo if job.problem is not None]
    possible = [job for job in todo if job.problem is None]
    try:
        codes = hopeless + (_work(possible, prepare, deliver, args) if possible else [])
    except workers.NotPrepared as stop:
        return stop.code
    failed = len(codes) - codes.count(exits.OK)
    if failed and len(jobs) > 1:
        log.error("%d of %d files failed", failed, len(jobs))
    return exits.overall(codes, of_several=len(jobs) > 1)


def _work(jobs: Sequence[Job], prepare: Prepare, deliver: Deliver, args: argparse.Namespace) -> list[int]:
    """The exit codes of the jobs."""
    memory = getattr(args, "memory", DEFAULT_MEMORY)
    with contextlib.closing(workers.choose(args, len(jobs), prepare)) as crew:
        prepared = crew.prepare()
        console.replay(prepared.records)
        if prepared.code != exits.OK:
            raise workers.NotPrepared(prepared.code)
        bar = console.progress(jobs, [job.name for job in jobs])
        results = zip(bar, outcomes(crew, jobs, memory), strict=False)
        return [_deliver(job, outcome, deliver) for _, (job, outcome) in results]


def _deliver(job: Job, outcome: Outcome, deliver: Deliver) -> int:
    console.replay(outcome.records)
    if outcome.done is None:
        return outcome.code
    try:
        deliver(job, outcome.done)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _failure(job, error)
    return exits.OK


def _failure(job: Job, error: Exception) -> int:
    return exits.report(error, source=job.name)


class _Read(NamedTuple):
    """A job whose file was read, and the memory that its picture needs."""

    job: Job
    data: bytes
    need: int


def outcomes(crew: Workers, jobs: Sequence[Job], memory: int) -> Iterator[tuple[Job, Outcome]]:
    """Each job with its outcome, as they come.

    The pictures that are worked on at the same time need at most `memory` bytes together; one that needs more
    is worked on alone.
    """
    todo, ready = deque(jobs), None
    idle = list(range(crew.count))
    running: dict[int, _Read] = {}
    while todo or ready or running:
        while idle and (ready or todo):
            if ready is None:
                job = todo.popleft()
                try:
                    ready = _read(job, memory)
                except Exception as error:
                    yield job, Outcome(_failure(job, error))
                    continue
            if running and ready.need + sum(other.need for other in running.values()) > memory:
                break
            worker = idle.pop()
            crew.give(worker, Task(ready.job.name, ready.data))
            running[worker], ready = ready._replace(data=b""), None
        if running:
            worker, outcome = crew.wait()
            idle.append(worker)
            yield running.pop(worker).job, outcome


def _read(job: Job, memory: int) -> _Read:
    data = job.read()
    return _Read(job, data, min(_pixels(data) * BYTES_PER_PIXEL, memory))


def _pixels(data: bytes) -> int:
    """Pixels of a picture or of a .zoo file as their headers tell; 0 for what will fail anyway."""
    from zoo_core import container

    if data.startswith(container.MAGIC):
        with contextlib.suppress(Exception):
            header, _ = container.read(data)
            return header.width * header.height
        return 0
    from PIL import Image

    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        return image.width * image.height
    return 0
