"""Where the time of encoding and decoding goes, for `zoo bench`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_counts: ContextVar[dict[str, int] | None] = ContextVar("counts", default=None)
_times: ContextVar[dict[str, float] | None] = ContextVar("stage_times", default=None)


@contextmanager
def stage_times() -> Iterator[dict[str, float]]:
    """Collect seconds by stage of everything coded inside the block.

    Stages: image, analysis, networks (entropy parameters), coder, synthesis, container.
    """
    times: dict[str, float] = {}
    token = _times.set(times)
    try:
        yield times
    finally:
        _times.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the time of the block to stage `name`, less what stages inside it take."""
    times = _times.get()
    if times is None:
        yield
        return
    inner, began = sum(times.values()), time.perf_counter()
    try:
        yield
    finally:
        elapsed = time.perf_counter() - began - (sum(times.values()) - inner)
        times[name] = times.get(name, 0.0) + elapsed


@contextmanager
def counts() -> Iterator[dict[str, int]]:
    """Collect counts of everything done inside the block.

    Names: analysis (runs of the analysis transform), walk (codings of all latents), symbol (symbols in the
    entropy coder's stream, those that are skipped left out), latent (those included).
    """
    found: dict[str, int] = {}
    token = _counts.set(found)
    try:
        yield found
    finally:
        _counts.reset(token)


def count(name: str, by: int = 1) -> None:
    """Add to a count."""
    found = _counts.get()
    if found is not None:
        found[name] = found.get(name, 0) + by
