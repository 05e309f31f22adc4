"""Coverage-guided fuzzing with atheris: `python -m tests.fuzz.guided -max_total_time=600`.

Options are libFuzzer's. It begins with the committed corpus, which `make_corpus.py` writes, and leaves it as it is.
An input that breaks a promise ends the run and is kept as `crash-...` in the current folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["zoo_core.container", "zoo_core.sealed", "zoo_core.entropy.stream"]):
    from tests.fuzz import harness

CORPUS = Path(__file__).with_name("corpus")


def main() -> None:
    """Run libFuzzer; it ends the process by itself."""
    with tempfile.TemporaryDirectory(prefix="zoo-fuzz-") as found:
        options = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], found, str(CORPUS)], harness.one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
