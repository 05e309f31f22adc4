"""Runs a command's work on each file: one that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from zoo_core.cli import console, exits
from zoo_core.cli.files import Job

Work = Callable[[Job], None]

log = logging.getLogger(__name__)


def run(jobs: Sequence[Job], prepare: Callable[[], Work]) -> int:
    """Do all jobs and return the exit code of the command.

    Args:
        jobs: the files, some perhaps with a problem already known.
        prepare: returns the work to do on each; called only if at least one job can be done, because it
            may load a model. What it raises stops the command.
    """
    work = prepare() if any(job.problem is None for job in jobs) else _nothing
    codes = [_do(job, work) for job in console.progress(jobs, [job.name for job in jobs])]
    failed = len(codes) - codes.count(exits.OK)
    if failed and len(jobs) > 1:
        log.error("%d of %d files failed", failed, len(jobs))
    return exits.overall(codes)


def _nothing(job: Job) -> None:
    """The work when no job can be done."""


def _do(job: Job, work: Work) -> int:
    try:
        if job.problem is not None:
            raise job.problem
        work(job)
    except BrokenPipeError:
        raise
    except Exception as error:
        return exits.report(error, source=job.name)
    return exits.OK
