"""Deformable-checkerboard as a codec model: transform and entropy model joined (after arXiv 2309.02529)."""

from __future__ import annotations

from typing import Any

from zoo_core.model import CodecModel
from zoo_deformable_checkerboard.entropy import CheckerboardEntropy, Context
from zoo_deformable_checkerboard.objective import objective  # noqa: F401 (zoo train looks for it here)
from zoo_deformable_checkerboard.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_deformable_checkerboard.transform import DeformableTransform


def build(
    *,
    latent: int,
    hyper_latent: int,
    context_channels: int,
    parameter_widths: tuple[int, int],
    models: tuple[str, str],
    context: Context = "two",
    variable_rate: bool = False,
    least_weight: float = 0.0,
    **transform: Any,
) -> CodecModel:
    """Build the model of a preset.

    Switches: `drm` (deformable, frozen, none), `offset_groups`, `modulated`, `context` (none, shared, two) and
    `models` (two of gauss, gmm2, gmm3, gllmm1, gllmm).
    """
    return CodecModel(
        DeformableTransform(latent, **transform),
        CheckerboardEntropy(
            latent,
            hyper_latent,
            context_channels,
            parameter_widths,
            models,
            context,
            variable_rate,
            least_weight,
        ),
    )
