"""ROI-Swin: a mask of the region of interest in the layers of a Swin codec (after arXiv 2305.07783). No torch."""

from __future__ import annotations

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="ROI-based Deep Image Compression with Swin Transformers",
    authors="B. Li, J. Liang, H. Fu, J. Han",
    year=2023,
    url="https://arxiv.org/abs/2305.07783",
)

BASE = {
    "widths": (32, 64, 128),
    "latent": 320,
    "hyper_latent": 64,
    "depths": (1, 2, 2),
    "heads": (1, 2, 4),
    "hyper_heads": 4,
    "mlp_ratio": 2,
    "condition": 16,
    "hidden": 12,
    "slices": (2, 3, 5, 10),
    "context_widths": (96, 64),
    "lrp_widths": (64, 48),
    "context_kernels": (1, 3, 1),
    "variable_rate": True,
}

PAPER_PRESET = {
    "widths": (128, 128, 128),
    "latent": 192,
    "hyper_latent": 128,
    "depths": (2, 4, 6),
    "heads": (4, 8, 16),
    "hyper_heads": 16,
    "mlp_ratio": 4,
    "condition": 64,
    "hidden": 128,
    "slices": (1, 1, 1, 1),
    "context_widths": (224, 128),
    "lrp_widths": (224, 128),
    "context_kernels": (3, 3, 3),
    "variable_rate": False,
}

_SHARED = ("latent", "hyper_latent", "mlp_ratio", "condition", "hidden")
WEIGHTS = Weights(
    file="roi-swin-base.safetensors",
    sha256="849cb540b8cce98c6e0cbfa92ec7d474af1d5f48df6681e6c50e3728ca2ce97a",
    size=7_839_674,
)

_TRANSFORM = (*_SHARED, "widths", "depths", "heads")
_ENTROPY = (
    *_SHARED,
    *("hyper_heads", "slices", "context_widths", "lrp_widths", "context_kernels", "variable_rate"),
)


@hookimpl
def zoo_register() -> list[Entry]:
    presets = {"base": BASE, "paper": PAPER_PRESET}
    conditions = ("roi", "roi_threshold", "roi_dilate")
    return [
        Entry(
            name="roi-swin",
            kind="codec",
            factory="zoo_roi_swin.model:build",
            presets=presets,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="Swin transformers; a mask in several layers says where quality matters most",
            conditions=conditions,
        ),
        Entry(
            name="roi-swin",
            kind="transform",
            factory="zoo_roi_swin.transform:RoiSwinTransform",
            presets={k: {n: p[n] for n in _TRANSFORM} for k, p in presets.items()},
            paper=PAPER,
            summary="Swin blocks modulated by a mask; one latent at 1/16",
            conditions=conditions,
        ),
        Entry(
            name="roi-swin",
            kind="entropy_model",
            factory="zoo_roi_swin.entropy:RoiSwinEntropy",
            presets={k: {n: p[n] for n in _ENTROPY} for k, p in presets.items()},
            paper=PAPER,
            summary="hyperprior of Swin blocks and channel-wise autoregression of one latent",
        ),
    ]
