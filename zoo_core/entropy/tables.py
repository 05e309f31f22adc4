"""Integer tables of the coded distributions: 16-bit frequencies, so that every machine codes alike.

A table covers consecutive symbols and one escape for all others. Gaussian tables are indexed by the
logarithm of the scale; they ship as integers in `gaussian_tables.npz`, because erfc differs in its last bits
between libraries. `python -m zoo_core.entropy.tables FILE` writes that file anew.
"""

from __future__ import annotations

import functools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOTAL = 1 << 16
TABLES = 64
SKIP_SCALE = 0.12
"""Symbols with a scale up to this are not coded at all: 1 in 30,000 of them would not be 0."""
MAX_SCALE = 256.0
LOG_STEP = math.log(MAX_SCALE / SKIP_SCALE) / (TABLES - 1)
"""Table i > 0 serves scales up to SKIP_SCALE * exp(i * LOG_STEP); table 0 is the skip."""

_FILE = Path(__file__).with_name("gaussian_tables.npz")


@dataclass(frozen=True)
class Table:
    """Frequencies of the symbols first, first + 1, ..., and last of the escape; they sum to 2^16."""

    first: int
    frequencies: np.ndarray

    @functools.cached_property
    def model(self):
        """Entropy model for constriction; `perfect` makes its fixed-point form exactly frequency * 2^8."""
        import constriction

        return constriction.stream.model.Categorical(self.frequencies / TOTAL, perfect=True)

    @property
    def escape(self) -> int:
        """Index of the escape."""
        return len(self.frequencies) - 1


def table_from_pmf(pmf: np.ndarray, first: int) -> Table:
    """Integer table of a probability mass function over first, first + 1, ...; every symbol gets >= 1."""
    escape = max(1.0 - pmf.sum(), 0.0)
    frequencies = np.maximum(1, np.rint(np.append(pmf, escape) * TOTAL)).astype(np.int64)
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return Table(first, frequencies)


@functools.cache
def gaussian_tables() -> dict[int, Table]:
    """The tables by index, from 1; the symbols of index 0 are not coded."""
    with np.load(_FILE) as data:
        halves, lengths = data["halves"], data["lengths"]
    tables, start = {}, 0
    for index, length in enumerate(lengths.tolist(), 1):
        half = halves[start : start + length].astype(np.int64)  # frequencies of 0, 1, ..., r
        start += length
        both = np.concatenate([half[:0:-1], half])
        tables[index] = Table(1 - length, np.append(both, TOTAL - both.sum()))
    return tables


def build_gaussian_tables() -> tuple[np.ndarray, np.ndarray]:
    """Halves of all tables (frequencies of 0, 1, ..., r, one table after the other) and their lengths."""
    halves = [_gaussian_half(SKIP_SCALE * math.exp((i - 0.5) * LOG_STEP)) for i in range(1, TABLES)]
    return np.concatenate(halves).astype(np.uint16), np.array([len(h) for h in halves], dtype=np.uint16)


def _gaussian_half(scale: float) -> np.ndarray:
    edges = [0.5 * math.erfc(-(k - 0.5) / scale * math.sqrt(0.5)) for k in range(math.ceil(5 * scale) + 3)]
    pmf = np.diff(np.array(edges))  # of 0, 1, ...
    radius = max(1, int(np.flatnonzero(pmf * TOTAL >= 0.5)[-1]))  # rarer symbols are left to the escape
    half = np.maximum(1, np.rint(pmf[: radius + 1] * TOTAL)).astype(np.int64)
    escape = max(1, round(2 * (1 - edges[radius + 1]) * TOTAL))
    half[0] = TOTAL - escape - 2 * half[1:].sum()
    return half


if __name__ == "__main__":
    built_halves, built_lengths = build_gaussian_tables()
    np.savez_compressed(sys.argv[1], halves=built_halves, lengths=built_lengths)
