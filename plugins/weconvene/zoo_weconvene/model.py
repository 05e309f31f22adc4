"""WeConvene as a codec model: transform and entropy model joined (arXiv 2407.09983)."""

from __future__ import annotations

from typing import Any

from zoo_core.model import CodecModel
from zoo_weconvene.entropy import WeConveneEntropy
from zoo_weconvene.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_weconvene.transform import WeConveneTransform


def build(
    *,
    stages: tuple[tuple[int, int], tuple[int, int]],
    top: int,
    latent: int,
    stem: tuple[int, int] | None = None,
    weconv: bool = True,
    wecharm: bool = True,
    wavelet: str = "haar",
    entropy_wavelet: str = "haar",
    **entropy: Any,
) -> CodecModel:
    """Build the model of a preset.

    `weconv=False` and `wecharm=False` are the paper's ablations; `wavelet` and `entropy_wavelet` choose
    haar, 5/3, 9/7, or poly (no filter: the control at equal capacity and order).
    """
    conv_wavelet = wavelet if weconv else None
    return CodecModel(
        WeConveneTransform(stages, top, latent, stem, conv_wavelet),
        WeConveneEntropy(
            latent, wavelet=conv_wavelet, entropy_wavelet=entropy_wavelet if wecharm else None, **entropy
        ),
    )
