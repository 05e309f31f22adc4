"""Published rate-distortion curves on Kodak, by name, and the type that measured curves share with them.

Each file under `curves/` holds one codec's points and says where they come from. `X` is CompressAI's
measurement of model X, `X_8bit` the same with reconstructions rounded to 8 bit, `X_ms-ssim` the model
optimised for MS-SSIM, `X-vbr` one model for all rates, `paper-X` the figures of the paper.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable
Metric = Literal["psnr", "ms_ssim"]
METRICS: tuple[Metric, ...] = ("psnr", "ms_ssim")


@dataclass(frozen=True)
class Curve:
    """What a codec reaches: one point per level, sorted by rate.

    Attributes:
        name: short, for tables and the command line.
        bpp: bits per pixel of each point.
        psnr: dB over RGB of each point, or None where nobody measured it.
        ms_ssim: linear, 0..1, of each point, or None.
        title: the full name, for legends.
        source: where the figures come from.
    """

    name: str
    bpp: Sequence[float]
    psnr: Sequence[float] | None = None
    ms_ssim: Sequence[float] | None = None
    title: str = ""
    source: str = ""

    def has(self, metric: Metric) -> bool:
        """Whether anybody measured the curve in this metric."""
        return getattr(self, metric) is not None

    def quality(self, metric: Metric) -> list[float]:
        """The quality of each point in dB.

        Raises:
            UsageError: there is no such metric, or the curve was never measured in it.
        """
        if metric not in METRICS:
            raise UsageError(f"unknown metric {metric!r}; choose one of: {', '.join(METRICS)}")
        if not self.has(metric):
            raise UsageError(f"the curve {self.name} has no {metric} values; compare it in another metric")
        values = getattr(self, metric)
        return [ms_ssim_db(v) for v in values] if metric == "ms_ssim" else list(values)


def ms_ssim_db(value: float) -> float:
    """MS-SSIM in dB, -10 log10(1 - value): spreads out the values near one; infinite for 1."""
    return -10 * math.log10(1 - value) if value < 1 else math.inf


@cache
def names() -> tuple[str, ...]:
    """Names of all reference curves, sorted."""
    return tuple(sorted(f.name[:-5] for f in _folder().iterdir() if f.name.endswith(".json")))


def reference(name: str) -> Curve:
    """The published curve of that name.

    Raises:
        UsageError: there is no such curve; the message names the near misses.
    """
    if name not in names():
        near = difflib.get_close_matches(name.lower(), names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names())}"
        raise UsageError(f"no reference curve {name!r}; {hint}")
    data = json.loads(_folder().joinpath(f"{name}.json").read_text(encoding="utf-8"))
    points = data["results"]
    return Curve(
        name=name,
        bpp=points["bpp"],
        psnr=points.get("psnr-rgb"),
        ms_ssim=points.get("ms-ssim-rgb"),
        title=data["name"],
        source=data["source"],
    )


def _folder() -> Traversable:
    return files("zoo_core.evaluation").joinpath("curves")
