"""What a codec reaches on a set of pictures, level by level, in files that are really written and read.

Learned codecs and anchors go through the same few lines, so that their figures can be compared. Only the
colour planes take part: alpha, ICC and EXIF are stored losslessly and have no place in a rate-distortion
figure, and no anchor stores them here.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import zoo_core
from zoo_core import images
from zoo_core.constants import LAMBDAS
from zoo_core.errors import ZooError
from zoo_core.evaluation import memory, metrics
from zoo_core.evaluation.cost import Cost, cost
from zoo_core.evaluation.curves import Curve
from zoo_core.evaluation.watch import Watch, watch_nothing

if TYPE_CHECKING:
    from zoo_core.codec import Codec

log = logging.getLogger(__name__)

LEVELS = tuple(float(level) for level in range(1, len(LAMBDAS) + 1))


class Subject(Protocol):
    """What can be evaluated: a learned codec or an anchor. The attributes are explained at both."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def levels(self) -> Sequence[float]: ...

    @property
    def cost(self) -> Cost | None: ...

    def encode(self, pixels: np.ndarray, level: float) -> bytes: ...

    def decode(self, data: bytes, grey: bool) -> np.ndarray: ...


@dataclass(frozen=True)
class LearnedCodec:
    """A codec of the zoo as the subject of an evaluation.

    Files are decoded through `zoo_core.decode`, as anybody would who has only the file.

    Attributes:
        codec: what `zoo_core.load` returned.
        name: for tables.
        levels: the qualities to measure, 1..6, fractions allowed.
        decoding: further arguments of `zoo_core.decode` (device, weights).
    """

    codec: Codec
    name: str
    levels: Sequence[float] = LEVELS
    decoding: dict[str, Any] = field(default_factory=dict)
    suffix: str = ".zoo"

    @property
    def title(self) -> str:
        return self.name

    @property
    def version(self) -> str:
        return f"weights {self.codec.weights.sha256}" if self.codec.weights else "random weights"

    @property
    def cost(self) -> Cost:
        return cost(self.codec.entry, self.codec.preset)

    def encode(self, pixels: np.ndarray, level: float) -> bytes:
        return self.codec.encode(pixels, quality=level)

    def decode(self, data: bytes, grey: bool) -> np.ndarray:
        return images.read(zoo_core.decode(data, **self.decoding)).pixels


@dataclass(frozen=True)
class Measurement:
    """One picture at one level: bpp counts the whole file, the rest is in dB, 0..1 and seconds."""

    picture: str
    level: float
    width: int
    height: int
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Failure:
    """A picture that could not be measured, and why, in one line."""

    picture: str
    reason: str


@dataclass(frozen=True)
class Point:
    """One level: means over the pictures of bpp, dB and MS-SSIM, medians of the times."""

    level: float
    bpp: float
    psnr: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Evaluation:
    """All that was measured for one codec.

    Attributes:
        version: exactly what was measured: the digest of the weights, or the version of the library.
        measurements: every picture at every level; a picture that failed at one level is in none of them,
            so that all points of the curve are means over the same pictures.
        peak_memory: bytes of the process while it encoded and decoded, or None where unknown.
        cost: of a learned codec's model.
    """

    name: str
    title: str
    version: str
    measurements: tuple[Measurement, ...]
    failures: tuple[Failure, ...]
    peak_memory: int | None
    cost: Cost | None = None

    def points(self) -> list[Point]:
        """Averages over the pictures, one per level, in the order of the levels."""
        levels = sorted({m.level for m in self.measurements})
        return [_average(level, [m for m in self.measurements if m.level == level]) for level in levels]

    def curve(self) -> Curve:
        """The points as a curve that can be compared with the reference curves."""
        points = self.points()
        return Curve(
            name=self.name,
            bpp=[p.bpp for p in points],
            psnr=[p.psnr for p in points],
            ms_ssim=[p.ms_ssim for p in points],
            title=self.title,
            source="measured here",
        )


def evaluate(
    subject: Subject,
    pictures: Sequence[Path],
    *,
    folder: Path | None = None,
    watch: Watch = watch_nothing,
) -> Evaluation:
    """Write every picture at every level, read the files back from disk, and measure.

    Args:
        subject: a LearnedCodec or an anchor.
        pictures: files that `zoo_core.images` can read.
        folder: keeps the compressed files, in one sub-folder per level; None uses a temporary folder.
        watch: told the pictures as they pass, see `zoo_core.evaluation.watch`.

    A picture that fails, for whatever reason, is reported in the result and costs only its own figures.
    """
    spent = subject.cost  # first: should it fail, no measurement is lost
    _warm_up(subject)
    memory.reset_peak()
    measurements: list[Measurement] = []
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        named = _named(pictures)
        for name in watch(list(named), [f"{subject.name} {name}" for name in named]):
            try:
                measurements += _measure_picture(subject, name, named[name], Path(place))
            except Exception as error:  # one bad picture in a night's run must not cost the others
                log.debug("%s: %s failed", subject.name, name, exc_info=error)
                failures.append(Failure(name, _reason(error)))
    return Evaluation(
        name=subject.name,
        title=subject.title,
        version=subject.version,
        measurements=tuple(measurements),
        failures=tuple(failures),
        peak_memory=memory.peak(),
        cost=spent,
    )


def _warm_up(subject: Subject) -> None:
    """Encode and decode a small ramp, so that the first picture's time holds no one-off preparations."""
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None], (64, 64, 3))
    subject.decode(subject.encode(np.ascontiguousarray(ramp), subject.levels[0]), grey=False)


def _measure_picture(subject: Subject, name: str, path: Path, folder: Path) -> list[Measurement]:
    pixels = images.read(path).pixels
    return [_measure(subject, name, pixels, level, folder) for level in subject.levels]


def _measure(subject: Subject, name: str, pixels: np.ndarray, level: float, folder: Path) -> Measurement:
    start = time.perf_counter()
    data = subject.encode(pixels, level)
    encoded = time.perf_counter()
    file = folder / f"{subject.name}-q{level:g}" / f"{name}{subject.suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    stored = file.read_bytes()
    decoding = time.perf_counter()
    result = subject.decode(stored, grey=pixels.ndim == 2)
    decoded = time.perf_counter()
    height, width = pixels.shape[:2]
    return Measurement(
        picture=name,
        level=level,
        width=width,
        height=height,
        bytes=len(stored),
        bpp=8 * len(stored) / (width * height),
        psnr=metrics.psnr(pixels, result),
        ms_ssim=metrics.ms_ssim(pixels, result),
        encode_seconds=encoded - start,
        decode_seconds=decoded - decoding,
    )


def _average(level: float, measurements: Sequence[Measurement]) -> Point:
    """Means as the literature takes them: of the dB and of the bits per pixel, not of errors or bytes."""
    return Point(
        level=level,
        bpp=statistics.fmean(m.bpp for m in measurements),
        psnr=statistics.fmean(m.psnr for m in measurements),
        ms_ssim=statistics.fmean(m.ms_ssim for m in measurements),
        encode_seconds=statistics.median(m.encode_seconds for m in measurements),
        decode_seconds=statistics.median(m.decode_seconds for m in measurements),
    )


def _named(pictures: Sequence[Path]) -> dict[str, Path]:
    """A name for every picture: its file name, all of them numbered if two are the same."""
    names = [path.name for path in pictures]
    if len(set(names)) < len(names):
        names = [f"{number:04d}-{name}" for number, name in enumerate(names)]
    return dict(zip(names, pictures, strict=True))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ZooError) else f"{type(error).__name__}: {text}"
