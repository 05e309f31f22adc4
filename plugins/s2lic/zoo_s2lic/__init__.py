"""S2LIC: SwinV2 transforms, adaptive channel-wise and global contexts (arXiv 2403.14471). No torch here."""

from __future__ import annotations

from typing import Any

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="S2LIC: Learned Image Compression with the SwinV2 Block, Adaptive Channel-wise and Global-inter "
    "Attention Context",
    authors="Y. Wang, H. Fu, Q. Cao, S. Wang, Z. Chen, F. Liang",
    year=2024,
    url="https://arxiv.org/abs/2403.14471",
)

BASE: dict[str, Any] = {
    "slices": (32, 32, 32, 224),
    "widths": (32, 64, 128),
    "depths": (1, 2, 2),
    "heads": (1, 2, 4),
    "mlp_ratio": 2,
    "enhance_width": 24,
    "enhance_growth": 12,
    "enhance_fold": 4,
    "hyper_latent": 64,
    "params": 96,
    "hyper_widths": (64, 64),
    "parameter_widths": (96, 96),
    "prediction_widths": (64, 48),
    "prediction_kernel": 1,
    "norm": False,
    "local_channels": 64,
    "intra": "local",
    "variable_rate": True,
}

PAPER_PRESET: dict[str, Any] = {
    "slices": (32,) * 10,
    "widths": (192, 192, 192),
    "depths": (1, 2, 3),
    "heads": (4, 8, 16),
    "mlp_ratio": 4,
    "enhance_width": 64,
    "enhance_growth": 32,
    "drop_path": 0.1,
    "hyper_latent": 192,
    "params": 320,
    "hyper_widths": (320, 480),
    "parameter_widths": (320, 256, 128),
    "prediction_widths": (224, 128),
    "variable_rate": False,
}

TRANSFORM_KEYS = (
    "widths",
    "depths",
    "heads",
    "mlp_ratio",
    "enhance",
    "enhance_width",
    "enhance_growth",
    "enhance_fold",
    "swin_version",
    "drop_path",
)


WEIGHTS = Weights(
    file="s2lic-base.safetensors",
    sha256="abb0c2750bdf2fde015976c2ef4b675b54c18db102e25fdcdea60b216d98a76e",
    size=9_007_168,
)


@hookimpl
def zoo_register() -> list[Entry]:
    presets = {"base": BASE, "paper": PAPER_PRESET}
    transforms = {
        name: {"latent": sum(preset["slices"])} | {k: v for k, v in preset.items() if k in TRANSFORM_KEYS}
        for name, preset in presets.items()
    }
    entropy_models = {
        name: {k: v for k, v in preset.items() if k not in TRANSFORM_KEYS} for name, preset in presets.items()
    }
    return [
        Entry(
            name="s2lic",
            kind="codec",
            factory="zoo_s2lic.model:build",
            presets=presets,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="SwinV2 transforms; slices in a checkerboard with channel-wise and global contexts",
        ),
        Entry(
            name="s2lic",
            kind="transform",
            factory="zoo_s2lic.transform:S2LICTransform",
            presets=transforms,
            paper=PAPER,
            summary="residual SwinV2 stages and dense feature enhancement; one latent at 1/16",
        ),
        Entry(
            name="s2lic",
            kind="entropy_model",
            factory="zoo_s2lic.entropy:AdaptiveEntropy",
            presets=entropy_models,
            paper=PAPER,
            summary="slices in a checkerboard, given gated convolutions and deformable attention (ACGC)",
        ),
    ]
