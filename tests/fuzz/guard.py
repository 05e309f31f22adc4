"""Limits on time and memory for one case, so that a hang or a flood of memory is a failure like any other."""

from __future__ import annotations

import contextlib
import faulthandler
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.verdict import Failure
from zoo_core import constants

SECONDS = 10
"""Of processor time for one case, so that a busy machine raises no alarm."""
WALL_SECONDS = 300
"""After so long without an answer the process shows where it hangs and ends."""
MEMORY = 2**30
"""Bytes that a decode may claim by the zoo's own limit, and that the process may grow by."""


def limit_memory() -> None:
    """Let this process grow by `MEMORY` bytes of address space from now on, and the zoo's limit be as much."""
    constants.MAX_MEMORY = MEMORY
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """A block that fails if it takes more than its time, or raises what is not of the zoo's tree."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True)
    try:
        yield
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def _too_long(*_: object) -> None:
    raise Failure(f"takes more than {SECONDS} s")


def install() -> None:
    """Make this process raise Failure when the time of a watched block is over."""
    signal.signal(signal.SIGPROF, _too_long)
