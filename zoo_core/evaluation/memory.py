"""How much memory a piece of work takes at its peak.

Run as a program, it encodes or decodes one file in this otherwise empty process and prints what that took:

    python -m zoo_core.evaluation.memory encode weconvene-q3 photo.jpg photo.zoo
    python -m zoo_core.evaluation.memory decode weconvene-q3 photo.zoo photo.png
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from zoo_core.errors import ZooError
from zoo_core.images import use_own_pixel_limit

_STATUS = Path("/proc/self/status")


def reset_peak() -> None:
    """Start a new measurement, where the system can: on Linux. Elsewhere the peak is that of the process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int | None:
    """Largest resident memory in bytes since the last reset, or None where the system does not tell.

    Linux's own figure comes first: the portable one of a child starts at its parent's size.
    """
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def measure(direction: str, model: str, source: str, target: str) -> dict[str, float | None]:
    """Encode or decode one file; peak bytes before (codec loaded) and after, seconds, and bytes written."""
    import zoo_core as zoo

    codec = zoo.load(model)
    before = peak()
    start = time.perf_counter()
    if direction == "encode":
        Path(target).write_bytes(codec.encode(source))
    else:
        codec.decode(Path(source).read_bytes()).save(target, compress_level=1)
    seconds = time.perf_counter() - start
    return {"loaded": before, "peak": peak(), "seconds": seconds, "bytes": Path(target).stat().st_size}


def measure_apart(
    direction: str, model: str, source: Path, target: Path, threads: int
) -> dict[str, float | None]:
    """The same in a process of its own, where nothing else has used memory before.

    Raises:
        ZooError: the process failed.
    """
    words = (direction, model, str(source), str(target))
    command = (sys.executable, "-m", "zoo_core.evaluation.memory", *words)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ZooError(f"{direction} of {source} with {model} in a process of its own failed: {reason[0]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    use_own_pixel_limit()
    print(json.dumps(measure(*sys.argv[1:])))
