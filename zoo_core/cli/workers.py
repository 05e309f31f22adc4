"""Who does a command's work on the bytes of each file: this process, worker processes, or a Ray cluster.

All three are `Workers`, and `zoo_core.cli.batch` drives them alike. A worker prepares once, which loads the
model, and then turns the bytes of one file after the other into the bytes of another. It writes nothing and
shows nothing: its messages travel back with the result.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, NamedTuple

from zoo_core.cli import console, exits
from zoo_core.errors import ZooError

MOST_WORKERS = 8
"""Each worker process holds about 0.4 GiB; more than this many only if the user asks for them."""


class Task(NamedTuple):
    """A file: its name for messages, and its bytes."""

    name: str
    data: bytes


class Done(NamedTuple):
    """What became of a file: bytes to write, and what to tell the user about them."""

    data: bytes
    facts: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back: an exit code, the result if that is 0, and its messages."""

    code: int
    done: Done | None = None
    records: tuple[logging.LogRecord, ...] = ()


Work = Callable[[Task], Done]
Prepare = Callable[[], Work]
"""What a worker calls first; it travels to other processes, so it must be picklable."""


class NotPrepared(Exception):
    """No worker could be prepared; the user has been told why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Workers(ABC):
    """A number of workers, each of which takes one task at a time."""

    count: int

    @abstractmethod
    def prepare(self) -> Outcome:
        """Wait until all are ready; the first failure, or the messages of the first worker."""

    @abstractmethod
    def give(self, worker: int, task: Task) -> None:
        """Let an idle worker, 0 to count - 1, begin with a task."""

    @abstractmethod
    def wait(self) -> tuple[int, Outcome]:
        """Wait for any of the busy workers: which one it was, and its outcome."""

    @abstractmethod
    def close(self) -> None:
        """Stop all workers at once, whatever they are doing."""


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose(args: argparse.Namespace, files: int, prepare: Prepare) -> Workers:
    """The workers that the options of a command ask for, and no more than there are files."""
    if args.ray is not None:
        from zoo_core.cli.ray_workers import RayWorkers

        return RayWorkers(prepare, min(args.jobs or files, files), args)
    count = min(args.jobs or min(cores(), MOST_WORKERS), files)
    if count == 1:
        return ThisProcess(prepare)
    if args.threads is None:
        args.threads = max(1, cores() // count)
    return Processes(prepare, count, -1 if args.quiet else args.verbose)


def perform(work: Work, task: Task) -> Outcome:
    """Do a task; an error becomes a message and an exit code."""
    try:
        return Outcome(exits.OK, work(task))
    except Exception as error:
        return Outcome(exits.report(error, source=task.name))


class ThisProcess(Workers):
    """One worker: the process itself."""

    count = 1

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare

    def prepare(self) -> Outcome:
        self._work = self._prepare()
        return Outcome(exits.OK)

    def give(self, worker: int, task: Task) -> None:
        self._task = task

    def wait(self) -> tuple[int, Outcome]:
        return 0, perform(self._work, self._task)

    def close(self) -> None:
        """There is nothing to stop."""


class Servant:
    """A worker's side in another process: prepares when it is made, and keeps its messages for the answer."""

    def __init__(self, prepare: Prepare, verbosity: int) -> None:
        self._verbosity = verbosity
        with console.recording(verbosity) as records:
            try:
                self._work, code = prepare(), exits.OK
            except Exception as error:
                code = exits.report(error)
        self._prepared = Outcome(code, None, tuple(records))

    def prepared(self) -> Outcome:
        """How preparing went."""
        return self._prepared

    def do(self, task: Task) -> Outcome:
        """The outcome of one task."""
        with console.recording(self._verbosity) as records:
            outcome = perform(self._work, task)
        return Outcome(outcome.code, outcome.done, tuple(records))


def lost(name: str, reason: str) -> Outcome:
    """The outcome of a task whose worker died over it."""
    with console.recording(0) as records:
        code = exits.report(
            ZooError(f"{name}: its worker ended ({reason}): allow more memory or fewer --jobs")
        )
    return Outcome(code, None, tuple(records))


class Processes(Workers):
    """Worker processes on this machine. They end with this process, even if that is killed."""

    def __init__(self, prepare: Prepare, count: int, verbosity: int) -> None:
        self.count = count
        self._arguments = (prepare, verbosity)
        self._context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half
        self._pipes: list[connection.Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._names: dict[int, str] = {}
        for _ in range(count):
            process, pipe = self._start()
            self._processes.append(process)
            self._pipes.append(pipe)

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, connection.Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()  # or the end of the process would not show in ours
        return process, ours

    def prepare(self) -> Outcome:
        first, *others = [self._receive(worker, "preparing") for worker in range(self.count)]
        return next((outcome for outcome in others if outcome.code != exits.OK), first)

    def give(self, worker: int, task: Task) -> None:
        self._names[worker] = task.name
        with contextlib.suppress(BrokenPipeError):  # it is dead, which `wait` will find
            self._pipes[worker].send(task)

    def wait(self) -> tuple[int, Outcome]:
        busy: dict[Any, int] = {self._pipes[worker]: worker for worker in self._names}
        worker = busy[connection.wait(list(busy))[0]]
        return worker, self._receive(worker, self._names.pop(worker))

    def _receive(self, worker: int, name: str) -> Outcome:
        try:
            return self._pipes[worker].recv()
        except (EOFError, ConnectionResetError):
            outcome = lost(name, self._reason(worker))
        if name != "preparing":
            self._processes[worker], self._pipes[worker] = self._start()
            self._receive(worker, "preparing")
        return outcome

    def _reason(self, worker: int) -> str:
        process = self._processes[worker]
        process.join()
        code = process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _serve(pipe: connection.Connection, prepare: Prepare, verbosity: int) -> None:
    """The whole life of a worker process; it ends when the other side of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    servant = Servant(prepare, verbosity)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(servant.prepared())
        while True:
            pipe.send(servant.do(pipe.recv()))


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, which it does otherwise while they import."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
