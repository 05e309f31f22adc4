"""Workers on a Ray cluster, for folders that are too large for one machine.

The bytes of the files travel with the tasks, so the nodes need no common file system; they need the packages
of the zoo and, with `--weights`, that file.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from types import ModuleType
from typing import Any

from zoo_core.cli.workers import Outcome, Prepare, Servant, Task, Workers, lost
from zoo_core.errors import UsageError


class RayWorkers(Workers):
    """One actor per worker; an actor that dies is started again by Ray.

    Args:
        prepare: as for all workers.
        count: at most so many, and at most as many as the cluster has processors for.
        args: `--ray`, `--threads` and the verbosity.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, prepare: Prepare, count: int, args: argparse.Namespace) -> None:
        self._ray = _connected(args.ray)
        args.threads = args.threads or 1
        room = int(self._ray.cluster_resources().get("CPU", 1)) // args.threads
        self.count = max(1, min(count, room))
        actor = self._ray.remote(num_cpus=args.threads, max_restarts=-1)(Servant)
        verbosity = -1 if args.quiet else args.verbose
        self._actors = [actor.remote(prepare, verbosity) for _ in range(self.count)]
        self._running: dict[Any, tuple[int, str]] = {}

    def prepare(self) -> Outcome:
        first, *others = self._ray.get([actor.prepared.remote() for actor in self._actors])
        return next((outcome for outcome in others if outcome.code), first)

    def give(self, worker: int, task: Task) -> None:
        self._running[self._actors[worker].do.remote(task)] = worker, task.name

    def wait(self) -> tuple[int, Outcome]:
        (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
        worker, name = self._running.pop(reference)
        try:
            return worker, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return worker, lost(name, type(error).__name__)

    def close(self) -> None:
        for actor in self._actors:
            with contextlib.suppress(Exception):  # the cluster may be gone already
                self._ray.kill(actor)
        self._ray.shutdown()


def _connected(address: str) -> ModuleType:
    """Ray, connected to the cluster at `address`; "" is the one that Ray finds, or a new one here."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError("Ray is not installed; run: pip install zoo-core[ray]") from error
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"no Ray cluster at {address or 'the default address'}: {reason}") from error
    return ray
