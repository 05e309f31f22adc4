"""Entropy coders side by side on the symbols of a photo, for `zoo bench --coders`.

The load is drawn: scales and Laplacian symbols distributed as in trained models ("photo") or without the many
near-zero scales ("dense"). All coders use the zoo's own 63 Gaussian tables; symbols that the zoo skips are left
out, as are escapes. Every coder decodes what it encoded, and the outcome is compared. Times are those of the
processor: coding uses one thread, and other work on the machine hardly counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import constriction
import numpy as np
import torch

from zoo_core.compressai_bridge import import_compressai
from zoo_core.entropy.stream import Decoder, Encoder, table_index
from zoo_core.entropy.tables import SKIP_SCALE, TABLES, TOTAL, gaussian_tables
from zoo_core.errors import UsageError, ZooError
from zoo_core.evaluation.tables import Row
from zoo_core.evaluation.watch import Watch, watch_nothing

LOADS = ("photo", "dense")
LATENTS = 320 * 32 * 48
"""Samples of a latent of 320 channels at a sixteenth of 768x512."""


class Load(NamedTuple):
    """Symbols to code: their scales, tables and values, all flat; `position` counts from a table's first."""

    name: str
    scale: np.ndarray
    table: np.ndarray
    symbol: np.ndarray

    @property
    def position(self) -> np.ndarray:
        return self.symbol - _firsts()[self.table]

    def ideal_bytes(self) -> float:
        """What the tables promise."""
        tables = gaussian_tables()
        total = 0.0
        for i in np.unique(self.table):
            frequencies = tables[i].frequencies[self.position[self.table == i]]
            total -= np.log2(frequencies / TOTAL).sum()
        return total / 8


def draw(name: str) -> Load:
    """The load "photo" or "dense", the same every time."""
    rng = np.random.default_rng(0)
    if name == "photo":
        scale = np.exp(rng.normal(-3.0, 1.75, LATENTS)).clip(0.02, 30)
    else:
        scale = np.exp(rng.uniform(np.log(SKIP_SCALE), np.log(8), LATENTS))
    symbol = np.rint(rng.laplace(0, scale / 2**0.5)).astype(np.int32)
    scale, symbol = scale[scale > SKIP_SCALE], symbol[scale > SKIP_SCALE]
    table = table_index(torch.from_numpy(scale))
    most = np.array([0, *(t.escape + t.first - 1 for t in gaussian_tables().values())], np.int32)[table]
    return Load(name, scale, table.astype(np.int32), np.clip(symbol, -most, most))


def _firsts() -> np.ndarray:
    return np.array([0, *(t.first for t in gaussian_tables().values())], np.int32)


class Coder:
    """Codes the symbols of a load; encode and decode are timed, what __init__ does is not."""

    name: str

    def __init__(self, load: Load) -> None:
        self.load = load

    def encode(self) -> Any:
        raise NotImplementedError

    def decode(self, coded: Any) -> np.ndarray:
        """The positions, in the order of the load."""
        raise NotImplementedError

    def size(self, coded: Any) -> int:
        """Bytes of what `encode` returned."""
        return coded.nbytes


class Zoo(Coder):
    """What a file goes through: choice of tables, sorting, checksum, rANS."""

    name = "zoo, whole step"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        shape = (1, 1, 1, len(load.scale))
        self._scale = torch.from_numpy(load.scale).view(shape)
        self._mean = torch.zeros(shape, dtype=torch.float64)
        self._latent = torch.from_numpy(load.symbol).double().view(shape)

    def encode(self) -> tuple[bytes, bytes]:
        coder = Encoder()
        coder.gaussian("y", self._latent, self._mean, self._scale)
        return coder.payload(), coder.calibration()

    def decode(self, coded: tuple[bytes, bytes]) -> np.ndarray:
        coder = Decoder(*coded)
        values = coder.gaussian("y", None, self._mean, self._scale)
        coder.finish()
        return values.flatten().numpy().astype(np.int32) - _firsts()[self.load.table]

    def size(self, coded: tuple[bytes, bytes]) -> int:
        return sum(map(len, coded))


class Grouped(Coder):
    """constriction with one call per table, the symbols sorted by table."""

    def _groups(self) -> Iterator[tuple[Any, np.ndarray]]:
        """Model of each table, and where its symbols are."""
        order = np.argsort(self.load.table, kind="stable")
        bounds = np.searchsorted(self.load.table[order], np.arange(TABLES + 1))
        for i, table in gaussian_tables().items():
            if bounds[i] < bounds[i + 1]:
                yield table.model, order[bounds[i] : bounds[i + 1]]

    def _gather(self, coder: Any) -> np.ndarray:
        out = np.empty(len(self.load.table), np.int32)
        for model, where in self._groups():
            out[where] = coder.decode(model, len(where))
        return out


class Ans(Grouped):
    name = "constriction rANS, sorted by table"

    def encode(self) -> np.ndarray:
        coder, position = constriction.stream.stack.AnsCoder(), self.load.position
        for model, where in reversed(list(self._groups())):
            coder.encode_reverse(position[where], model)
        return coder.get_compressed()

    def decode(self, coded: np.ndarray) -> np.ndarray:
        return self._gather(constriction.stream.stack.AnsCoder(coded))


class Range(Grouped):
    name = "constriction range coder, sorted by table"

    def encode(self) -> np.ndarray:
        coder, position = constriction.stream.queue.RangeEncoder(), self.load.position
        for model, where in self._groups():
            coder.encode(position[where], model)
        return coder.get_compressed()

    def decode(self, coded: np.ndarray) -> np.ndarray:
        return self._gather(constriction.stream.queue.RangeDecoder(coded))


class Quantized(Coder):
    """No tables: constriction evaluates a normal distribution for each symbol."""

    name = "constriction rANS, a Gaussian per symbol"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._model = constriction.stream.model.QuantizedGaussian(-2000, 2000)
        self._mean, self._scale = np.zeros(len(load.scale)), load.scale.astype(np.float64)

    def encode(self) -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(self.load.symbol, self._model, self._mean, self._scale)
        return coder.get_compressed()

    def decode(self, coded: np.ndarray) -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder(coded)
        return coder.decode(self._model, self._mean, self._scale) - _firsts()[self.load.table]


class Rows(Coder):
    """A table of probabilities for each symbol, as torchac takes them; 33 wide, cut off like there."""

    name = "constriction rANS, a table per symbol"
    _HALF = 16

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._model = constriction.stream.model.Categorical(perfect=False)
        self._centred = np.clip(load.symbol, -self._HALF, self._HALF) + self._HALF

    def _probabilities(self) -> np.ndarray:
        edges = torch.arange(-self._HALF, self._HALF + 2) - 0.5
        below = torch.special.ndtr(edges / torch.from_numpy(self.load.scale).float()[:, None])
        return torch.diff(below).clamp_min_(1e-6).numpy()

    def encode(self) -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(self._centred, self._model, self._probabilities())
        return coder.get_compressed()

    def decode(self, coded: np.ndarray) -> np.ndarray:
        found = constriction.stream.stack.AnsCoder(coded).decode(self._model, self._probabilities())
        if not np.array_equal(found, self._centred):
            raise ZooError(f"{self.name} did not decode what it encoded")
        return self.load.position


class CompressAI(Coder):
    """Its tables are nested lists, and symbols and their tables travel as lists, which is part of the time."""

    name = "CompressAI rANS, through lists"

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        import_compressai()
        from compressai import ans

        self._encoder, self._decoder = ans.RansEncoder(), ans.RansDecoder()
        rows = [np.array([TOTAL])] + [t.frequencies for t in gaussian_tables().values()]
        width = max(map(len, rows)) + 1
        cdfs = [np.concatenate([[0], np.cumsum(row)]).astype(int).tolist() for row in rows]
        self._sizes = [len(cdf) for cdf in cdfs]
        self._cdfs = [cdf + [0] * (width - len(cdf)) for cdf in cdfs]
        self._offsets = _firsts().tolist()

    def encode(self) -> bytes:
        lists = self.load.symbol.tolist(), self.load.table.tolist()
        return self._encoder.encode_with_indexes(*lists, self._cdfs, self._sizes, self._offsets)

    def decode(self, coded: bytes) -> np.ndarray:
        tables = (self._cdfs, self._sizes, self._offsets)
        symbols = self._decoder.decode_with_indexes(coded, self.load.table.tolist(), *tables)
        return np.array(symbols, np.int32) - _firsts()[self.load.table]

    def size(self, coded: bytes) -> int:
        return len(coded)


CODERS: tuple[type[Coder], ...] = (Zoo, Ans, Range, Quantized, Rows, CompressAI)


@dataclass(frozen=True)
class CoderResult:
    """Median nanoseconds a symbol each way, bytes, and bytes beyond what the tables promise."""

    load: str
    coder: str
    encode_ns: float
    decode_ns: float
    size: int
    over_ideal: float


def measure(rounds: int, watch: Watch = watch_nothing) -> list[CoderResult]:
    """All coders on all loads, taking turns, after a first round that is not counted.

    Raises:
        ZooError: a coder did not decode what it encoded.
    """
    contenders = [coder for name in LOADS for coder in _available(draw(name))]
    times: list[list[tuple[float, float, int]]] = [[] for _ in contenders]
    names = ["warming up", *(f"round {k}" for k in range(1, rounds + 1))]
    for _ in watch(names, names):
        for contender, found in zip(contenders, times, strict=True):
            found.append(_once(contender))
    return [_result(c, found[1:]) for c, found in zip(contenders, times, strict=True)]


def _available(load: Load) -> list[Coder]:
    """The coders on one load; without CompressAI's where that is not installed."""
    coders = [kind(load) for kind in CODERS[:-1]]
    try:
        return [*coders, CompressAI(load)]
    except UsageError:
        return coders


def _once(coder: Coder) -> tuple[float, float, int]:
    coded, encoding = _timed(coder.encode)
    positions, decoding = _timed(lambda: coder.decode(coded))
    if not np.array_equal(positions, coder.load.position):
        raise ZooError(f"{coder.name} did not decode what it encoded")
    return encoding, decoding, coder.size(coded)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def _result(coder: Coder, found: Sequence[tuple[float, float, int]]) -> CoderResult:
    encode, decode, sizes = zip(*found, strict=True)
    symbols, size = len(coder.load.table), sizes[0]
    to_encode, to_decode = (1e9 * statistics.median(seconds) / symbols for seconds in (encode, decode))
    return CoderResult(
        coder.load.name, coder.name, to_encode, to_decode, size, size - coder.load.ideal_bytes()
    )


def coder_table(results: Sequence[CoderResult]) -> tuple[Row, list[Row]]:
    """The results as rows of a table."""
    rows: list[Row] = [
        (r.load, r.coder, f"{r.encode_ns:.0f}", f"{r.decode_ns:.0f}", f"{r.size:,}", f"{r.over_ideal:+,.0f}")
        for r in results
    ]
    return ("load", "coder", "encode ns", "decode ns", "bytes", "beyond ideal"), rows
