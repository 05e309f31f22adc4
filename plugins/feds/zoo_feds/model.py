"""FEDS as a codec model: transform and entropy model joined (after arXiv 2503.06399)."""

from __future__ import annotations

from typing import Any

from zoo_core.layers.residual16 import Three
from zoo_core.model import CodecModel
from zoo_feds.entropy import FedsEntropy
from zoo_feds.objective import objective  # noqa: F401 (zoo train looks for it here)
from zoo_feds.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_feds.transform import FedsTransform


def build(
    *,
    widths: Three,
    blocks: Three,
    latent: int,
    swin: bool = False,
    extra_rb: int = 0,
    wide_latent: int = 0,
    **entropy: Any,
) -> CodecModel:
    """Build the model of a preset.

    `swin`, `extra_rb` and `wide_latent` are what makes the teacher: `swin=false`, `extra_rb=0` and
    `wide_latent=0` leave one of them out.

    Raises:
        UsageError: attention over channels that are no multiple of 32.
    """
    return CodecModel(
        FedsTransform(widths, blocks, latent, swin, extra_rb, wide_latent),
        FedsEntropy(latent + wide_latent, extra_rb=extra_rb, **entropy),
    )
