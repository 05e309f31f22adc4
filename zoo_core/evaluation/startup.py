"""How long a command takes from the start of its process, which no timing inside the process can tell."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo_core.errors import ZooError

_ZOO = (sys.executable, "-m", "zoo_core.cli")


def commands(model: str, picture: Path, folder: Path) -> dict[str, Sequence[str]]:
    """What is timed, by name. `import torch` is what encoding and decoding cannot avoid."""
    coded, decoded = str(folder / "picture.zoo"), str(folder / "picture.png")
    return {
        "import zoo_core": (sys.executable, "-c", "import zoo_core"),
        "import torch": (sys.executable, "-c", "import torch"),
        "zoo --help": (*_ZOO, "--help"),
        "zoo list": (*_ZOO, "list"),
        "zoo encode": (*_ZOO, "encode", "--model", model, "-f", "-o", coded, str(picture)),
        "zoo decode": (*_ZOO, "decode", "-f", "-o", decoded, coded),
    }


def measure(model: str, picture: Path, *, rounds: int = 5, threads: int = 2) -> dict[str, float]:
    """Median seconds from process start to end, each command once per round, in fresh processes.

    Raises:
        ZooError: one of the commands fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        timed = commands(model, picture, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(rounds):
            for name, command in timed.items():
                seconds[name].append(_time(command, environment))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _time(command: Sequence[str], environment: Mapping[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if done.returncode:
        raise ZooError(f"{' '.join(command[3:])} failed: {done.stderr.strip()[-300:]}")
    return elapsed
