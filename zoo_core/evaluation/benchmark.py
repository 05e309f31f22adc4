"""Where the time goes when a photo is encoded and decoded, beside other learned codecs in the same run.

A machine's speed drifts while other work comes and goes. So the contenders take turns: every round times
each of them once, and the medians over the rounds are compared. A first round that is not counted warms up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from zoo_core.evaluation.tables import Row
from zoo_core.evaluation.watch import Watch, watch_nothing

STAGES = {
    "image": "image in / out",
    "analysis": "analysis",
    "networks": "parameter networks",
    "coder": "entropy coding",
    "synthesis": "synthesis",
    "container": "container",
}
"""Names of the stages as `zoo_core.codec.stage_times` reports them, and as people read them."""

PEERS = ("mbt2018_mean", "cheng2020_attn")
PEER_QUALITY = 3

Direction = Literal["encode", "decode"]


@dataclass(frozen=True)
class Timing:
    """One run of one direction: seconds in all, and by stage where the contender tells them."""

    seconds: float
    stages: dict[str, float] = field(default_factory=dict)


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

    def coder_share(self, direction: Direction) -> float | None:
        """Median share, 0..1, of the entropy coder in the whole."""
        shares = [t.stages["coder"] / t.seconds for t in getattr(self, direction) if "coder" in t.stages]
        return statistics.median(shares) if shares else None


class ZooContender:
    """A codec of the zoo, from the picture's file to bytes, and from bytes to a PIL image."""

    def __init__(self, name: str, picture: Path) -> None:
        from zoo_core import codec  # imported before the clock starts: torch is no part of loading

        self.name = name
        self._picture = picture
        self._data = b""
        self._codec, self.load_seconds = _timed(lambda: codec.load(name))

    def encode(self) -> Timing:
        self._data, timing = _staged(lambda: self._codec.encode(self._picture))
        return timing

    def decode(self) -> Timing:
        _, timing = _staged(lambda: self._codec.decode(self._data))
        return timing


class PeerContender:
    """A reference model of CompressAI, random weights: the same arithmetic as with trained ones.

    Random weights make nearly all symbols trivial, which flatters the peer's entropy coder.
    """

    def __init__(self, name: str, picture: Path) -> None:
        import torch

        from zoo_core.compressai_bridge import import_compressai

        self.name = f"compressai {name}"
        self._picture = picture
        import_compressai()
        import compressai.zoo

        torch.manual_seed(0)
        build = getattr(compressai.zoo, name)
        self._model, self.load_seconds = _timed(lambda: build(PEER_QUALITY, pretrained=False).eval())
        self._model.update(force=True)
        self._coded: dict[str, Any] = {}
        self._size = (0, 0)

    def encode(self) -> Timing:
        _, seconds = _timed(self._encode)
        return Timing(seconds)

    def decode(self) -> Timing:
        _, seconds = _timed(self._decode)
        return Timing(seconds)

    def _encode(self) -> None:
        import torch

        from zoo_core import images

        pixels = images.read(self._picture, convert=True).pixels
        height, width = pixels.shape[:2]
        self._size = height, width
        x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
        x = torch.nn.functional.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate")
        with torch.inference_mode():
            self._coded = self._model.compress(x)

    def _decode(self) -> None:
        import torch
        from PIL import Image

        with torch.inference_mode():
            x_hat = self._model.decompress(self._coded["strings"], self._coded["shape"])["x_hat"]
        height, width = self._size
        pixels = x_hat[0, :, :height, :width].clamp(0, 1).mul(255).round().byte()
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


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
    rows.append(("entropy coder's share", *(_share(result.coder_share(d)) for d in ("encode", "decode"))))
    return (result.name, "encode ms", "decode ms"), rows


def ratio_rows(results: Sequence[Result]) -> tuple[Row, list[Row]]:
    """Totals of all contenders, and how many times as long as the first one each takes."""
    first = results[0]
    rows: list[Row] = []
    for result in results:
        cells = [result.name]
        for direction in ("encode", "decode"):
            seconds = result.seconds(direction)
            cells += [_ms(seconds), f"{seconds / first.seconds(direction):.2f}"]
        rows.append(tuple(cells))
    return ("codec", "encode ms", "ratio", "decode ms", "ratio"), rows


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
