"""A run of many mutations: one process's share, with what came of it counted."""

from __future__ import annotations

import hashlib
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from tests.fuzz import guard, samples, verdict
from tests.fuzz.mutations import mutate
from tests.fuzz.samples import Target

_REPORT_SECONDS = 30


@dataclass
class Tally:
    """What happened.

    Attributes:
        parsed, decoded: how often each outcome was met. mutations: how often each was made.
        failures: one line for each broken promise. slowest: seconds of the slowest decode.
        peak: bytes of memory at the highest, of the process. seconds: wall-clock time.
    """

    parsed: Counter[str] = field(default_factory=Counter)
    decoded: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak: int = 0
    seconds: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.parsed + other.parsed,
            self.decoded + other.decoded,
            self.mutations + other.mutations,
            self.failures + other.failures,
            max(self.slowest, other.slowest),
            max(self.peak, other.peak),
            max(self.seconds, other.seconds),
        )


def share(methods: tuple[str, ...], containers: int, decodes: int, keep: Path, seed: int) -> Tally:
    """One process's share of a run, on one core and within the limit of memory; it reports twice a minute."""
    torch.set_num_threads(1)
    known = list(samples.targets(methods or None))
    guard.limit_memory()
    reported = time.monotonic()

    def progress(tally: Tally) -> None:
        nonlocal reported
        if time.monotonic() > reported + _REPORT_SECONDS:
            reported = time.monotonic()
            done = f"{tally.parsed.total():,} parsed, {tally.decoded.total():,} decoded"
            print(f"seed {seed}: {done}, {len(tally.failures)} failures", flush=True)

    return run(known, seed, containers, decodes, keep, progress)


def run(
    targets: list[Target],
    seed: int,
    containers: int,
    decodes: int,
    keep: Path | None = None,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Mutate, parse and decode until both numbers are reached.

    Args:
        targets: codecs with valid files.
        seed: of everything that is drawn.
        containers: how many mutated files are parsed at least.
        decodes: how many of those whose container was taken are decoded, spread evenly over the run.
        keep: folder for the files that break a promise.
        progress: called after each decode.
    """
    random, tally, start = Random(seed), Tally(), time.monotonic()
    guard.install()
    while (parsed := tally.parsed.total()) < containers or tally.decoded.total() < decodes:
        target = targets[random.randrange(len(targets))]
        donor = target if random.random() < 0.7 else random.choice(targets)
        name, data = mutate(random, random.choice(target.files), random.choice(donor.files))
        tally.mutations[name] += 1
        due = tally.decoded.total() * containers <= decodes * parsed
        _case(target, name, data, due, tally, keep)
        if due:
            progress(tally)
    tally.seconds = time.monotonic() - start
    tally.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return tally


def _case(target: Target, name: str, data: bytes, due: bool, tally: Tally, keep: Path | None) -> None:
    """One mutated file: parse it, and decode it if that is due and the container was taken."""
    try:
        with guard.watched():
            outcome = verdict.parse(data)
            tally.parsed[outcome] += 1
            if due and outcome in (verdict.READ, verdict.UNKNOWN):
                begin = time.process_time()
                tally.decoded[verdict.decode(target, data)] += 1
                tally.slowest = max(tally.slowest, time.process_time() - begin)
    except verdict.Failure as failure:
        digest = hashlib.sha256(data).hexdigest()[:16]
        tally.failures.append(f"{target.codec.entry.name}, {name}, {digest}.zoo: {failure}")
        tally.decoded["failure"] += 1
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{digest}.zoo").write_bytes(data)
