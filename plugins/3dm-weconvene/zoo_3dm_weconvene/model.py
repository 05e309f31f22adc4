"""3DM-WeConvene as a codec model: transform and entropy model joined (after arXiv 2504.04658)."""

from __future__ import annotations

from typing import Any

from zoo_3dm_weconvene.entropy import Entropy3D
from zoo_3dm_weconvene.objective import objective  # noqa: F401 (zoo train looks for it here)
from zoo_3dm_weconvene.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_3dm_weconvene.transform import WaveletTransform3D
from zoo_core.model import CodecModel


def build(
    *,
    stages: tuple[tuple[int, int], tuple[int, int]],
    top: int,
    latent: int,
    stem: tuple[int, int] | None = None,
    weconv: bool = True,
    wecharm: bool = True,
    wavelet: str = "9/7",
    levels: int = 2,
    hf_kernel: int = 1,
    channel_dwt: bool = True,
    **entropy: Any,
) -> CodecModel:
    """Build the model of a preset.

    `weconv=False` and `wecharm=False` leave out 3DM-WeConv and 3DWeChARM; `wavelet` (haar, 5/3, 9/7, or
    poly for no filter), `levels`, `hf_kernel`, `channel_dwt`, `lf_def` and `hf_attention` are the other switches.
    """
    core: dict[str, Any] = {
        "wavelet": wavelet if weconv else None,
        "levels": levels,
        "hf_kernel": hf_kernel,
        "channel_dwt": channel_dwt,
    }
    return CodecModel(
        WaveletTransform3D(stages, top, latent, stem, **core),
        Entropy3D(latent, entropy_wavelet=wavelet if wecharm else None, **core, **entropy),
    )
