"""The curve of a run: loss, rate and distortion of each level over the steps, from its log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.training.loop import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {"loss": "loss", "bpp": "rate [bits per pixel]", "psnr": "PSNR [dB]"}
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
"""Lines by level, for readers without colours."""


def draw(log: Path, path: Path) -> None:
    """Draw the records of `log` (JSON lines) into `path`; its ending chooses the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    records = read_log(log)
    levels = sorted({key for record in records for key in record if key.startswith("q")})
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, 3), _PANELS.items(), strict=True):
        for level, line in zip(levels, _LINES, strict=False):
            _plot(axes, records, level, key, line)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if key == "loss" and levels:
            axes.set_yscale("log")
            axes.legend()
    figure.savefig(path, dpi=120)


def _plot(axes: Axes, records: Sequence[dict], level: str, key: str, line: object) -> None:
    points = [(record["step"], record[level][key]) for record in records if level in record]
    marker = "." if len(points) < 2 else ""
    axes.plot(*zip(*points, strict=True), label=level, linestyle=line, marker=marker, linewidth=1.2)
