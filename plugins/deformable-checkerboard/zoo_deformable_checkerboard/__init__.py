"""Deformable residual modules, two-model checkerboard, distillation (arXiv 2309.02529). No torch here."""

from __future__ import annotations

from typing import Any

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="Fast and High-Performance Learned Image Compression With Improved Checkerboard Context Model, "
    "Deformable Residual Module, and Knowledge Distillation",
    authors="H. Fu, F. Liang, J. Liang, Y. Wang, Z. Fang, G. Zhang, J. Han",
    year=2024,
    url="https://arxiv.org/abs/2309.02529",
)

BASE = {
    "latent": 240,
    "widths": (40, 64, 112),
    "concatenated": False,
    "refine": (False, True, True),
    "deform": (False, True),
    "synthesis": {"refine": (False, True, False, False), "deform": (True, False), "attend": False},
    "teacher": {"refine": (True, True, True, True), "deform": (True, False), "attend": True},
    "offset_groups": 4,
    "deformable_convs": 1,
    "attention_units": 1,
    "hyper_latent": 64,
    "context_channels": 128,
    "parameter_widths": (160, 224),
    "models": ("gllmm1", "gmm3"),
    "variable_rate": True,
    "least_weight": 1 / 1024,
}


def _paper(width: int) -> dict[str, Any]:
    """The predecessor's sizes, which this paper is taken to have kept."""
    return {
        "latent": width,
        "widths": (width, width, width),
        "concatenated": True,
        "refine": (True, True, True),
        "deform": (True, True),
        "synthesis": {"refine": (True, True, True, True), "deform": (True, True), "attend": True},
        "teacher": None,
        "offset_groups": 1,
        "deformable_convs": 2,
        "hyper_latent": width,
        "context_channels": 2 * width,
        "parameter_widths": (640, 1280),
        "models": ("gllmm", "gmm3"),
        "variable_rate": False,
    }


PAPER_128, PAPER_256 = _paper(128), _paper(256)
PAPER_STUDENT = PAPER_128 | {
    "synthesis": {"refine": (False, False, False, False), "deform": (True, False), "attend": True},
    "teacher": PAPER_128["synthesis"],
}
PRESETS = {"base": BASE, "paper": PAPER_128, "paper-256": PAPER_256, "paper-student": PAPER_STUDENT}

WEIGHTS = Weights(
    file="deformable-checkerboard-base.safetensors",
    sha256="0362413effa2131c42966c26522e042df99f95d40ec69af44c8df01a5b43a14b",
    size=13_640_770,
)

_ENTROPY_KEYS = (
    "latent",
    "hyper_latent",
    "context_channels",
    "parameter_widths",
    "models",
    "variable_rate",
    "least_weight",
)


@hookimpl
def zoo_register() -> list[Entry]:
    transforms = {
        name: {k: v for k, v in preset.items() if k == "latent" or k not in _ENTROPY_KEYS}
        for name, preset in PRESETS.items()
    }
    entropy_models = {
        name: {k: v for k, v in preset.items() if k in _ENTROPY_KEYS} for name, preset in PRESETS.items()
    }
    return [
        Entry(
            name="deformable-checkerboard",
            kind="codec",
            factory="zoo_deformable_checkerboard.model:build",
            presets=PRESETS,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="deformable convolutions; two-pass checkerboard with a mixture model for each pass",
        ),
        Entry(
            name="deformable-checkerboard",
            kind="transform",
            factory="zoo_deformable_checkerboard.transform:DeformableTransform",
            presets=transforms,
            paper=PAPER,
            summary="residual blocks, gated attention and deformable residual modules; one latent at 1/16",
        ),
        Entry(
            name="deformable-checkerboard",
            kind="entropy_model",
            factory="zoo_deformable_checkerboard.entropy:CheckerboardEntropy",
            presets=entropy_models,
            paper=PAPER,
            summary="checkerboard in two passes, each with its own networks and mixture of distributions",
        ),
    ]
