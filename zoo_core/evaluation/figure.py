"""The rate-distortion figure: quality over rate, readable without colour.

Every curve has its own marker and line style besides its colour. What was measured here is drawn strong
with filled markers, published curves thin with open ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import UsageError
from zoo_core.evaluation.curves import METRICS, Curve, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP*X<>"
_LINES = ("-", "--", "-.", ":")
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""


def require(path: Path) -> None:
    """Fail early, before hours of measuring, if the figure could not be written to `path` at the end.

    Raises:
        UsageError: matplotlib is not installed, or does not write that format.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        message = "the figure needs matplotlib; run: pip install 'zoo-core[plot]'"
        raise UsageError(message) from error
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UsageError(f"a figure cannot be written to {path}: its name must end in png, svg or pdf")


def draw(codecs: Sequence[Curve], anchors: Sequence[Curve], published: Sequence[Curve], path: Path) -> None:
    """Write the figure to `path`; its ending chooses the format (png, svg, pdf).

    Two panels: PSNR and MS-SSIM, both in dB, over the rate. The axes span the codecs; curves that go further
    are cut. Without codecs they span the anchors, and without those the published curves.

    Raises:
        UsageError: matplotlib is not installed, or does not know the format.
    """
    require(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = {"psnr": "PSNR [dB], RGB", "ms_ssim": "MS-SSIM [dB], RGB"}
    for axes, metric in zip((left, right), METRICS, strict=True):
        _plot(axes, [*codecs, *anchors], published, metric)
        _zoom(axes, codecs or anchors or published, metric)
        axes.set_xlabel("rate [bits per pixel]")
        axes.set_ylabel(labels[metric])
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise UsageError(f"cannot draw {path}: {error}") from error


def _plot(axes: Axes, measured: Sequence[Curve], published: Sequence[Curve], metric: Metric) -> None:
    looks = zip(cycle(_MARKERS), cycle(_LINES), cycle(_COLOURS))
    for number, curve in enumerate([*measured, *published]):
        ours, (marker, line, colour) = number < len(measured), next(looks)
        axes.plot(
            *_finite_points(curve, metric),
            label=curve.title or curve.name,
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=6 if ours else 4.5,
            linewidth=2 if ours else 1,
            markerfacecolor=colour if ours else "white",
        )


def _finite_points(curve: Curve, metric: Metric) -> tuple[list[float], list[float]]:
    """Rates and qualities in dB that can be drawn; none if the curve lacks this metric."""
    quality = curve.quality(metric) if curve.has(metric) else []
    pairs = [(r, q) for r, q in zip(curve.bpp, quality, strict=False) if math.isfinite(q)]
    return [r for r, _ in pairs], [q for _, q in pairs]


def _zoom(axes: Axes, curves: Sequence[Curve], metric: Metric) -> None:
    """Let the axes span these curves and a margin."""
    points = [_finite_points(curve, metric) for curve in curves]
    rates = [r for rate, _ in points for r in rate]
    qualities = [q for _, quality in points for q in quality]
    if rates:
        axes.set_xlim(0, 1.05 * max(rates))
        margin = 0.05 * (max(qualities) - min(qualities)) + 0.5
        axes.set_ylim(min(qualities) - margin, max(qualities) + margin)
