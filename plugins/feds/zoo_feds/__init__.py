"""FEDS: feature and entropy-based distillation (arXiv 2503.06399). Registers the method; no torch."""

from __future__ import annotations

from typing import Any

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="FEDS: Feature and Entropy-Based Distillation Strategy for Efficient Learned Image Compression",
    authors="H. Fu, J. Liang, Z. Fang, J. Han",
    year=2025,
    url="https://arxiv.org/abs/2503.06399",
)

BASE = {
    "widths": (40, 64, 112),
    "blocks": (0, 1, 1),
    "latent": 240,
    "slices": 5,
    "hyper_latent": 64,
    "hyper_blocks": 0,
    "params": 128,
    "context": (64, 64),
    "context_kernels": (1, 3, 1),
    "variable_rate": True,
}

BASE_TEACHER = {
    **BASE,
    "swin": True,
    "extra_rb": 1,
    "wide_latent": 48,
    "widths": (56, 88, 128),
    "slices": 6,
    "context": (80, 80),
}
"""Larger in three named ways: attention, more residual blocks, and more latent channels; and wider."""

PAPER_STUDENT = {
    "widths": (128, 128, 128),
    "blocks": (1, 1, 1),
    "latent": 240,
    "slices": 5,
    "hyper_latent": 128,
    "hyper_blocks": 1,
    "params": 240,
    "context": (192, 96),
    "context_kernels": (3, 3, 3),
    "variable_rate": False,
}

PAPER_TEACHER = {
    **PAPER_STUDENT,
    "swin": True,
    "extra_rb": 2,
    "wide_latent": 80,
    "widths": (192, 192, 192),
    "hyper_latent": 192,
    "params": 320,
    "context": (224, 128),
}

PRESETS = {
    "base": BASE,
    "base-teacher": BASE_TEACHER,
    "paper": PAPER_STUDENT,
    "paper-teacher": PAPER_TEACHER,
}

WEIGHTS = Weights(
    file="feds-base.safetensors",
    sha256="bc0eb0fd7baf9e85b8959f16116d6ad62628ac4985287594c7219cd547695dd4",
    size=12_795_008,
)

TRANSFORM_KEYS = ("widths", "blocks", "latent", "swin", "extra_rb", "wide_latent")


def _of_entropy_model(preset: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the entropy model, whose `latent` is all of y: what joins halves sets it so."""
    kept = {n: v for n, v in preset.items() if n not in TRANSFORM_KEYS or n == "extra_rb"}
    return {**kept, "latent": preset["latent"] + preset.get("wide_latent", 0)}


@hookimpl
def zoo_register() -> list[Entry]:
    return [
        Entry(
            name="feds",
            kind="codec",
            factory="zoo_feds.model:build",
            presets=PRESETS,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="a small codec that learns from a larger one: features, then informative channels",
        ),
        Entry(
            name="feds",
            kind="transform",
            factory="zoo_feds.transform:FedsTransform",
            presets={k: {n: v for n, v in p.items() if n in TRANSFORM_KEYS} for k, p in PRESETS.items()},
            paper=PAPER,
            summary="residual blocks, for the teacher with SwinV2 attention; one latent at 1/16",
        ),
        Entry(
            name="feds",
            kind="entropy_model",
            factory="zoo_feds.entropy:FedsEntropy",
            presets={k: _of_entropy_model(p) for k, p in PRESETS.items()},
            paper=PAPER,
            summary="channel-wise autoregression with separate networks for means and scales",
        ),
    ]
