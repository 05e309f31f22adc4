"""How much memory a piece of work takes at its peak.

Run as a program, it encodes one picture in this otherwise empty process and prints what that took:

    python -m zoo_core.evaluation.memory weconvene-q3 photo.jpg
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


def measure_encoding(model: str, picture: str) -> dict[str, float | None]:
    """Encode one picture file; peak bytes before (codec loaded) and after, seconds, and bytes written."""
    import zoo_core as zoo

    codec = zoo.load(model)
    before = peak()
    start = time.perf_counter()
    data = codec.encode(picture)
    return {"loaded": before, "peak": peak(), "seconds": time.perf_counter() - start, "bytes": len(data)}


def measure_encoding_apart(model: str, picture: Path, threads: int) -> dict[str, float | None]:
    """The same in a process of its own, where nothing else has used memory before.

    Raises:
        ZooError: the process failed.
    """
    command = (sys.executable, "-m", "zoo_core.evaluation.memory", model, str(picture))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ZooError(f"encoding {picture} with {model} in a process of its own failed: {reason[0]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(measure_encoding(*sys.argv[1:])))
