"""`make fuzz`: mutated files of every method, then coverage-guided inputs for container and entropy coder."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the processes share the cores


from tests.fuzz import campaign
from tests.fuzz.campaign import Tally

FAILURES = Path("fuzz-failures")
_REPORT_SECONDS = 30


def main() -> int:
    """Both parts; 1 if a promise was broken."""
    args = _parser().parse_args()
    tally = mutations(args)
    print(summary(tally), flush=True)
    guided = coverage(args.coverage_seconds) if args.coverage_seconds else 0
    return 1 if tally.failures or guided else 0


def mutations(args: argparse.Namespace) -> Tally:
    """The mutation run in its processes."""
    containers, decodes = (-(-total // args.processes) for total in (args.containers, args.decodes))
    seeds = [1000 * args.seed + index for index in range(args.processes)]
    share = functools.partial(campaign.share, tuple(args.methods), containers, decodes, FAILURES)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, spawn) as pool:  # a process that dies is an error, not a hang
        return sum(pool.map(share, seeds), Tally())


def summary(tally: Tally) -> str:
    """The result as JSON, most frequent outcomes first."""
    facts = {
        "containers parsed": tally.parsed.total(),
        "outcomes of parsing": dict(tally.parsed.most_common()),
        "decodes": tally.decoded.total(),
        "outcomes of decoding": dict(tally.decoded.most_common()),
        "slowest decode, s of processor time": round(tally.slowest, 2),
        "peak memory of a process, MiB": tally.peak >> 20,
        "seconds": round(tally.seconds),
        "kinds of mutation": len(tally.mutations),
        "failures": tally.failures,
    }
    return json.dumps(facts, indent=2)


def coverage(seconds: int) -> int:
    """Exit status of the coverage-guided run; 0 where its tool is not installed."""
    if importlib.util.find_spec("atheris") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        print(f"atheris has no wheel for Python {version}: no coverage-guided fuzzing", flush=True)
        return 0
    command = [sys.executable, "-m", "tests.fuzz.guided", f"-max_total_time={seconds}"]
    return subprocess.run(command).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="of tests/golden (default: all)")
    parser.add_argument(
        "--containers", type=int, default=1_000_000, help="mutated files to parse (%(default)s)"
    )
    parser.add_argument(
        "--decodes", type=int, default=20_000, help="of those to decode in full (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=2, help="at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (%(default)s)")
    parser.add_argument(
        "--coverage-seconds", type=int, default=60, help="of coverage-guided fuzzing (%(default)s); 0: none"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
