"""What an evaluation found, for people and for programs.

The JSON keeps every picture. Tables and figure show the averages and the BD-rates, against published curves
and against the anchors that were measured on the same pictures.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.evaluation import figure
from zoo_core.evaluation.bdrate import BDRate, bd_rate
from zoo_core.evaluation.curves import METRICS, Curve, Metric, ms_ssim_db
from zoo_core.evaluation.environment import environment
from zoo_core.evaluation.evaluate import Evaluation
from zoo_core.evaluation.tables import Row, markdown_table, text_table

_METRIC_TITLES = {"psnr": "PSNR", "ms_ssim": "MS-SSIM"}
_KODAK_PICTURES = 24
_KODAK_SIZES = {(768, 512), (512, 768)}


@dataclass(frozen=True)
class Comparison:
    """BD-rate of one measured codec against one other curve."""

    name: str
    against: str
    metric: Metric
    result: BDRate


@dataclass(frozen=True)
class Report:
    """Evaluations on the same pictures, and the published curves to set them beside.

    Attributes:
        codecs: the learned codecs.
        anchors: classical codecs measured on the same pictures.
        references: published curves.
        command: what reproduces the figures.
    """

    codecs: Sequence[Evaluation]
    anchors: Sequence[Evaluation] = ()
    references: Sequence[Curve] = ()
    command: str = ""

    @property
    def evaluations(self) -> list[Evaluation]:
        """Codecs and anchors that have figures at all."""
        return [e for e in (*self.codecs, *self.anchors) if e.measurements]

    def comparisons(self, metric: Metric) -> list[Comparison]:
        """Every measured codec against every published curve and every other anchor, in this metric.

        An anchor is called "webp (here)", because there may be a published curve "webp" as well.
        """
        published = [(curve.name, curve, None) for curve in self.references if curve.has(metric)]
        measured = [(f"{e.name} (here)", e.curve(), e) for e in self.anchors if e.measurements]
        return [
            Comparison(evaluation.name, label, metric, bd_rate(evaluation.curve(), curve, metric))
            for evaluation in self.evaluations
            for label, curve, owner in [*published, *measured]
            if owner is not evaluation
        ]

    def notes(self) -> list[str]:
        """What a reader must know before quoting the figures of the codecs."""
        everything = [*self.codecs, *self.anchors]
        notes = [f"{e.name}: {f.picture} failed: {f.reason}" for e in everything for f in e.failures]
        if self.references and not all(map(_looks_like_kodak, self.evaluations)):
            notes.append("the published curves are means over Kodak's 24 pictures; these pictures differ")
        codecs = {e.name for e in self.codecs}
        return notes + [
            f"{c.name} against {c.against}, {_METRIC_TITLES[c.metric]}: {c.result.warning}"
            for metric in METRICS
            for c in self.comparisons(metric)
            if c.result.warning and c.name in codecs
        ]

    def draw(self, path: Path) -> None:
        """Write the rate-distortion figure; raises UsageError where matplotlib is missing."""
        codecs, anchors = (
            [e.curve() for e in group if e.measurements] for group in (self.codecs, self.anchors)
        )
        figure.draw(codecs, anchors, self.references, path)


def _looks_like_kodak(evaluation: Evaluation) -> bool:
    sizes = {m.picture: (m.width, m.height) for m in evaluation.measurements}
    return len(sizes) == _KODAK_PICTURES and set(sizes.values()) <= _KODAK_SIZES


def to_json(report: Report) -> str:
    """Everything, per picture. Infinite values (identical pictures) and missing ones are null."""
    data = {
        "command": report.command,
        "environment": environment(),
        "codecs": [_evaluation_data(e) for e in report.codecs],
        "anchors": [_evaluation_data(e) for e in report.anchors],
        "bd_rate": [
            {"codec": c.name, "against": c.against, "metric": metric, **dataclasses.asdict(c.result)}
            for metric in METRICS
            for c in report.comparisons(metric)
        ],
        "references": {r.name: {"title": r.title, "source": r.source} for r in report.references},
        "notes": report.notes(),
    }
    return json.dumps(_finite(data), indent=1, allow_nan=False) + "\n"


def _evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    data = dataclasses.asdict(evaluation)
    return {
        "name": data["name"],
        "title": data["title"],
        "version": data["version"],
        "peak_memory": data["peak_memory"],
        "cost": evaluation.cost and {**data["cost"], "kmacs": evaluation.cost.kmacs},
        "points": [dataclasses.asdict(point) for point in evaluation.points()],
        "images": data["measurements"],
        "failures": data["failures"],
    }


def _finite(value: Any) -> Any:
    """The same structure with None for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_text(report: Report, *, markdown: bool = False) -> str:
    """The averages, the BD-rates and the notes as aligned text, or as Markdown tables."""
    draw = markdown_table if markdown else text_table
    parts = [draw(*_average_rows(report))]
    header, rows = _codec_rows(report)
    if rows:
        parts.append("Codecs; BD-rate in PSNR, times are means over the levels:")
        parts.append(draw(header, rows))
    for metric in METRICS:
        header, rows = _bd_rate_rows(report, metric)
        if len(header) > 1:
            parts.append(f"BD-rate in {_METRIC_TITLES[metric]}, percent of rate, negative is better:")
            parts.append(draw(header, rows))
    if notes := report.notes():
        parts.append("\n".join(f"{'- ' if markdown else 'note: '}{note}" for note in notes))
    if report.command:
        parts.append(f"Reproduce with: `{report.command}`" if markdown else f"command: {report.command}")
    return "\n\n".join(parts) + "\n"


def _average_rows(report: Report) -> tuple[Row, list[Row]]:
    header = ("codec", "level", "bpp", "PSNR dB", "MS-SSIM", "MS-SSIM dB", "encode s", "decode s", "peak MiB")
    rows: list[Row] = [
        (
            e.name,
            f"{p.level:g}",
            f"{p.bpp:.4f}",
            f"{p.psnr:.3f}",
            f"{p.ms_ssim:.5f}",
            f"{ms_ssim_db(p.ms_ssim):.2f}",
            f"{p.encode_seconds:.3f}",
            f"{p.decode_seconds:.3f}",
            f"{e.peak_memory / 2**20:.0f}" if e.peak_memory else "-",
        )
        for e in report.evaluations
        for p in e.points()
    ]
    return header, rows


def _codec_rows(report: Report) -> tuple[Row, list[Row]]:
    """One row for each learned codec: what it costs beside what it saves."""
    comparisons = report.comparisons("psnr")
    columns = list(dict.fromkeys(c.against for c in comparisons))
    values = {(c.name, c.against): c.result.value for c in comparisons}
    rows: list[Row] = [
        (
            e.name,
            f"{e.cost.parameters / 1e6:.2f} M",
            f"{e.cost.kmacs:.1f}",
            *(_percent(values.get((e.name, column))) for column in columns),
            f"{statistics.fmean(p.encode_seconds for p in e.points()):.2f}",
            f"{statistics.fmean(p.decode_seconds for p in e.points()):.2f}",
        )
        for e in report.codecs
        if e.measurements and e.cost
    ]
    return ("codec", "parameters", "kMAC/px", *columns, "encode s", "decode s"), rows


def _bd_rate_rows(report: Report, metric: Metric) -> tuple[Row, list[Row]]:
    comparisons = report.comparisons(metric)
    values = {(c.name, c.against, c.metric): c.result.value for c in comparisons}
    columns = list(dict.fromkeys(c.against for c in comparisons))
    rows: list[Row] = [
        (e.name, *(_percent(values.get((e.name, column, metric))) for column in columns))
        for e in report.evaluations
    ]
    return ("codec", *columns), rows


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:+.2f}"
