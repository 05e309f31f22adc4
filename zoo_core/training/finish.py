"""What a run leaves behind: weights to publish, their digest, the curve and the figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo_core.constants import LAMBDAS
from zoo_core.model import CodecModel, parameter_count
from zoo_core.training import curve
from zoo_core.training.export import export
from zoo_core.training.loop import LOG_FILE
from zoo_core.training.recipe import RunConfig
from zoo_core.training.validate import validate
from zoo_core.weights import RUN_FILE, WeightsFile, read_tensors

CURVE_FILE = "curve.png"
SUMMARY_FILE = "summary.json"

log = logging.getLogger(__name__)


def finish(
    config: RunConfig,
    model: CodecModel,
    state: dict[str, Tensor],
    step: int,
    folder: Path,
    photos: Sequence[Tensor] = (),
) -> dict[str, Any]:
    """Write weights, curve and summary into the run's folder; the summary is returned.

    Args:
        config: of the run.
        model: what `state` belongs to; it holds the published weights afterwards.
        state: state dict with averaged parameters.
        step: that they were averaged up to.
        photos: to validate the published weights with; none for no figures.
    """
    path = folder / RUN_FILE
    file = WeightsFile(path, export(model, state, path))
    _draw_curve(folder)
    summary = {
        "method": config.method,
        "preset": config.preset,
        "settings": dict(config.settings),
        "step": step,
        "steps": config.recipe.steps if config.recipe.minutes is None else step,
        "parameters": parameter_count(model),
        "weights": {"file": path.name, "sha256": file.sha256, "size": path.stat().st_size},
    }
    if photos:
        model.load_state_dict(read_tensors(file))
        summary["photos"] = len(photos)
        summary["validation"] = validate(model, photos, _levels(config.recipe.level))
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _levels(level: float | None) -> list[float]:
    """The levels that a run trains: one, or all of a variable-rate model."""
    return [float(n) for n in range(1, len(LAMBDAS) + 1)] if level is None else [level]


def _draw_curve(folder: Path) -> None:
    try:
        curve.draw(folder / LOG_FILE, folder / CURVE_FILE)
    except ImportError:
        log.warning("no curve is drawn without matplotlib; run: pip install 'zoo-core[plot]'")
