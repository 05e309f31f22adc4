"""Res-SwinV2: residual SwinV2 stages in all four networks (arXiv 2308.11864). No torch here."""

from __future__ import annotations

from typing import Any

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="Enhanced Residual SwinV2 Transformer for Learned Image Compression",
    authors="Wang, Liang, Fu and others",
    year=2023,
    url="https://arxiv.org/abs/2308.11864",
)

BASE = {
    "latent": 320,
    "widths": (32, 64, 128),
    "depths": (1, 2, 2),
    "heads": (1, 2, 4),
    "mlp_ratio": 2,
    "enhance_width": 24,
    "enhance_fold": 2,
    "enhance_growth": 12,
    "hyper_latent": 64,
    "hyper_heads": 2,
    "features": 192,
    "context_channels": 192,
    "parameter_widths": (320, 320),
    "variable_rate": True,
}


def _paper(width: int, latent: int) -> dict[str, Any]:
    """The sizes of the predecessor's parameter network, and one width for everything else."""
    return {
        "latent": latent,
        "widths": (width, width, width),
        "depths": (1, 2, 3),
        "heads": (4, 8, 16),
        "mlp_ratio": 4,
        "enhance_width": 64,
        "drop_path": 0.1,
        "hyper_latent": width,
        "hyper_heads": 16,
        "features": 2 * latent,
        "context_channels": 2 * latent,
        "parameter_widths": (10 * latent // 3, 8 * latent // 3),
        "variable_rate": False,
    }


PAPER_PRESET, PAPER_128 = _paper(192, 320), _paper(128, 192)
PRESETS = {"base": BASE, "paper": PAPER_PRESET, "paper-128": PAPER_128}

WEIGHTS = Weights(
    file="res-swinv2-base.safetensors",
    sha256="d788db63a1ab26ef1ebea42266a81861f37326a84cc87e90f06d04482633db3a",
    size=7_941_746,
)

SHARED_KEYS = ("latent", "depths", "mlp_ratio", "swin_version", "drop_path", "hyper_depth")
TRANSFORM_KEYS = ("widths", "heads", "enhance", "enhance_width", "enhance_fold", "enhance_growth")


@hookimpl
def zoo_register() -> list[Entry]:
    transforms = {
        name: {k: v for k, v in preset.items() if k in SHARED_KEYS + TRANSFORM_KEYS}
        for name, preset in PRESETS.items()
    }
    entropy_models = {
        name: {k: v for k, v in preset.items() if k not in TRANSFORM_KEYS} for name, preset in PRESETS.items()
    }
    return [
        Entry(
            name="res-swinv2",
            kind="codec",
            factory="zoo_res_swinv2.model:build",
            presets=PRESETS,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="SwinV2 stages in transforms and hyper coders; one checkerboard over all channels",
        ),
        Entry(
            name="res-swinv2",
            kind="transform",
            factory="zoo_res_swinv2.transform:ResSwinTransform",
            presets=transforms,
            paper=PAPER,
            summary="residual SwinV2 stages and three-convolution feature enhancement; one latent at 1/16",
        ),
        Entry(
            name="res-swinv2",
            kind="entropy_model",
            factory="zoo_res_swinv2.entropy:ResSwinEntropy",
            presets=entropy_models,
            paper=PAPER,
            summary="hyperprior with SwinV2 stages, checkerboard in two passes",
        ),
    ]
