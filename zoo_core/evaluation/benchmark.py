"""Where the time goes when a photo is encoded and decoded, beside other learned codecs in the same run.

A machine's speed drifts while other work comes and goes. So the contenders take turns: every round times
each of them once, and the medians over the rounds are compared. A first round that is not counted warms up.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from zoo_core.evaluation.tables import Row
from zoo_core.evaluation.watch import Watch, watch_nothing

if TYPE_CHECKING:
    from zoo_core.codec import Codec

STAGES = {
    "image": "image in / out",
    "analysis": "analysis",
    "networks": "parameter networks",
    "coder": "entropy coding",
    "synthesis": "synthesis",
    "container": "container",
}
"""Names of the stages as `zoo_core.codec.stage_times` reports them, and as people read them."""

SLOW_PEER = "compressai elic2022_official"
"""The peer that the table of ratios is about: the best known of the fast learned codecs."""

Direction = Literal["encode", "decode"]


@dataclass(frozen=True)
class Timing:
    """One run of one direction: seconds in all, by stage and counts where the contender tells them."""

    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Contender(Protocol):
    """A codec that encodes its picture, and decodes what it encoded last."""

    name: str
    load_seconds: float

    def encode(self) -> Timing: ...

    def decode(self) -> Timing: ...


@dataclass(frozen=True)
class Result:
    """All timings of one contender, one per round."""

    name: str
    load_seconds: float
    encode: tuple[Timing, ...]
    decode: tuple[Timing, ...]

    def seconds(self, direction: Direction) -> float:
        """Median over the rounds."""
        return statistics.median(t.seconds for t in getattr(self, direction))

    def stage(self, direction: Direction, stage: str) -> float | None:
        """Median seconds of one stage, or None where it was not told."""
        values = [t.stages[stage] for t in getattr(self, direction) if stage in t.stages]
        return statistics.median(values) if values else None

    def symbols(self) -> int | None:
        """Symbols in the entropy coder's stream."""
        return self.encode[0].counts.get("symbol")

    def per_symbol(self, direction: Direction) -> float | None:
        """Median nanoseconds of the entropy coder for each coded symbol, its bookkeeping included."""
        seconds, symbols = self.stage(direction, "coder"), self.symbols()
        return None if seconds is None or not symbols else 1e9 * seconds / symbols

    def coder_share(self, direction: Direction) -> float | None:
        """Median share, 0..1, of the entropy coder in the whole."""
        shares = [t.stages["coder"] / t.seconds for t in getattr(self, direction) if "coder" in t.stages]
        return statistics.median(shares) if shares else None


@functools.cache
def _codec(method: str, picture: Path) -> tuple[Codec, float]:
    """A codec, and the seconds that loading it took.

    One without trained weights gets those that its training would start from, adapted to the picture: a
    transform code, whose symbols are about as many and as large as those of a trained model.
    """
    from zoo_core import codec  # imported before the clock starts: torch is no part of loading

    loaded, seconds = _timed(lambda: codec.load(method))
    if loaded.weights is None:
        _start(loaded, picture)
        loaded = codec.Codec(loaded.entry, loaded.preset, loaded.model, loaded.quality, None)
    return loaded, seconds


def _start(codec: Codec, picture: Path) -> None:
    import torch

    from zoo_core import images
    from zoo_core.training.initial import own_start

    pixels = images.read(picture, convert=True).pixels
    model = codec.model.float().requires_grad_(True)
    own_start(codec.entry)(model, [torch.from_numpy(pixels).permute(2, 0, 1)])
    model.update()
    model.prepare()


class ZooContender:
    """A codec of the zoo, from the picture's file to bytes, and from bytes to a PIL image.

    Args:
        name: method and level, "weconvene-q3".
        picture: file of an RGB picture.
    """

    def __init__(self, name: str, picture: Path) -> None:
        from zoo_core import registry

        entry, level = registry.parse(name)
        self.name = name
        self._level, self._picture, self._data = level, picture, b""
        self._codec, self.load_seconds = _codec(entry.name, picture)
        self.trained = self._codec.weights is not None

    def encode(self) -> Timing:
        from zoo_core.codec import counts

        with counts() as counted:
            self._data, timing = _staged(lambda: self._codec.encode(self._picture, quality=self._level))
        return replace(timing, counts=counted)

    def decode(self) -> Timing:
        _, timing = _staged(lambda: self._codec.decode(self._data))
        return timing


def run(contenders: Sequence[Contender], rounds: int, watch: Watch = watch_nothing) -> list[Result]:
    """Let the contenders take turns, `rounds` times after a first round that is not counted.

    Args:
        contenders: with names of their own.
        rounds: at least 1.
        watch: told the rounds as they pass, see `zoo_core.evaluation.watch`.
    """
    timings: dict[str, list[tuple[Timing, Timing]]] = {c.name: [] for c in contenders}
    names = ["warming up", *(f"round {k}" for k in range(1, rounds + 1))]
    for _ in watch(names, names):
        for contender in contenders:
            timings[contender.name].append((contender.encode(), contender.decode()))
    return [_result(c, timings[c.name][1:]) for c in contenders]


def _result(contender: Contender, rounds: Sequence[tuple[Timing, Timing]]) -> Result:
    encode, decode = zip(*rounds, strict=True)
    return Result(contender.name, contender.load_seconds, encode, decode)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    outcome = work()
    return outcome, time.perf_counter() - start


def _staged(work: Callable[[], Any]) -> tuple[Any, Timing]:
    from zoo_core.codec import stage_times

    with stage_times() as stages:
        outcome, seconds = _timed(work)
    return outcome, Timing(seconds, dict(stages))


def stage_rows(result: Result) -> tuple[Row, list[Row]]:
    """A table of one contender's stages in milliseconds, with the entropy coder's share."""
    rows: list[Row] = [("load (once)", _ms(result.load_seconds), "")]
    for stage, title in STAGES.items():
        encode, decode = result.stage("encode", stage), result.stage("decode", stage)
        if encode is not None or decode is not None:
            rows.append((title, _ms(encode), _ms(decode)))
    rows.append(("total", _ms(result.seconds("encode")), _ms(result.seconds("decode"))))
    if result.symbols():
        rows.append(("ns a coded symbol", *(f"{result.per_symbol(d):.0f}" for d in ("encode", "decode"))))
    rows.append(("entropy coder's share", *(_share(result.coder_share(d)) for d in ("encode", "decode"))))
    return (result.name, "encode ms", "decode ms"), rows


def ratio_rows(results: Sequence[Result]) -> tuple[Row, list[Row]]:
    """Totals of all contenders, and how many times as long as the first one each takes.

    Where `SLOW_PEER` takes part, also how many times as fast as that each decodes.
    """
    first = results[0]
    slow = next((result.seconds("decode") for result in results if result.name == SLOW_PEER), None)
    rows: list[Row] = []
    for result in results:
        cells = [result.name]
        for direction in ("encode", "decode"):
            seconds = result.seconds(direction)
            cells += [_ms(seconds), f"{seconds / first.seconds(direction):.2f}"]
        rows.append((*cells, *([] if slow is None else [f"{slow / result.seconds('decode'):.1f} x"])))
    header: Row = ("codec", "encode ms", "ratio", "decode ms", "ratio")
    return (header, rows) if slow is None else ((*header, "against ELIC"), rows)


def coder_rows(results: Sequence[Result]) -> tuple[Row, list[Row]]:
    """Entropy coding of each contender that tells its stages: per coded symbol, and as a share of the whole."""
    rows: list[Row] = []
    for result in results:
        symbols = result.symbols()
        if symbols is not None:
            nanoseconds = [result.per_symbol(d) for d in ("encode", "decode")]
            shares = [_share(result.coder_share(d)) for d in ("encode", "decode")]
            latents = result.encode[0].counts["latent"]
            skipped = f"{1 - symbols / latents:.0%}"
            cells = ["-" if value is None else f"{value:.0f}" for value in nanoseconds]
            rows.append((result.name, f"{symbols:,}", skipped, *cells, *shares))
    header = ("codec", "coded symbols", "skipped", "encode ns", "decode ns", "encode share", "decode share")
    return header, rows


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
