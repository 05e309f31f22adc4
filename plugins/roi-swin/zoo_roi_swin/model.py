"""ROI-Swin as a codec model: transform and entropy model joined (after arXiv 2305.07783)."""

from __future__ import annotations

from typing import Any

from zoo_core.layers.swin_transform import Widths
from zoo_core.model import CodecModel
from zoo_roi_swin.entropy import RoiSwinEntropy
from zoo_roi_swin.objective import objective  # noqa: F401 (zoo train looks for it here)
from zoo_roi_swin.stages import Blocks
from zoo_roi_swin.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_roi_swin.transform import DecoderCondition, MaskInput, RoiSwinTransform


def build(
    *,
    widths: Widths,
    depths: Widths,
    heads: Widths,
    latent: int,
    hyper_latent: int,
    mlp_ratio: float,
    condition: int,
    hidden: int,
    mask_input: MaskInput = "layers",
    dec_cond: DecoderCondition = "latent",
    blocks: Blocks = "swin",
    hyper_sft: bool = True,
    **entropy: Any,
) -> CodecModel:
    """Build the model of a preset; `mask_input`, `dec_cond`, `blocks`, `hyper_sft` and `context` are ablations.

    The hyper-analysis is shown the mask by SFT only where the analysis is.
    """
    shared: dict[str, Any] = {
        "latent": latent,
        "hyper_latent": hyper_latent,
        "mlp_ratio": mlp_ratio,
        "condition": condition,
        "hidden": hidden,
        "blocks": blocks,
    }
    in_layers = mask_input in ("layers", "none")
    return CodecModel(
        RoiSwinTransform(
            widths, depths=depths, heads=heads, mask_input=mask_input, dec_cond=dec_cond, **shared
        ),
        RoiSwinEntropy(
            **shared, hyper_sft=hyper_sft and in_layers, signalled=dec_cond == "signalled", **entropy
        ),
    )
