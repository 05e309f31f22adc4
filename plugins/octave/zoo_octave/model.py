"""Octave as a codec model: transform and entropy model joined (arXiv 2209.03353)."""

from __future__ import annotations

from typing import Any

from zoo_core.model import CodecModel
from zoo_octave.entropy import OctaveEntropy
from zoo_octave.objective import objective  # noqa: F401 (zoo train looks for it here)
from zoo_octave.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_octave.transform import OctaveTransform


def build(
    *,
    widths: tuple[int, int, int],
    latent: int,
    cross_kernel: int | None = None,
    transposed_act: str = "pre",
    octave: bool = True,
    **entropy: Any,
) -> CodecModel:
    """Build the model of a preset.

    The ablations are `octave`, `extra_hyper`, `crpe_y`, `crpe_z` and `hyper_skip`, each to be set False,
    and `cross_kernel` and `transposed_act`.
    """
    shared: dict[str, Any] = {
        "cross_kernel": cross_kernel,
        "transposed_act": transposed_act,
        "octave": octave,
    }
    return CodecModel(
        OctaveTransform(widths, latent, **shared),
        OctaveEntropy(latent, **entropy, **shared),
    )
