"""Octave: generalised octave convolutions and cross-resolution estimation (arXiv 2209.03353). No torch here."""

from __future__ import annotations

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="Learned Image Compression with Generalized Octave Convolution and Cross-Resolution "
    "Parameter Estimation",
    authors="H. Fu, F. Liang",
    year=2022,
    url="https://arxiv.org/abs/2209.03353",
)

BASE = {
    "noise_downstream": False,
    "widths": (128, 192, 192),
    "latent": 384,
    "cross_kernel": 3,
    "transposed_act": "post",
    "hyper": 96,
    "params": 256,
    "middle": 96,
    "estimate_z": (192, 144),
    "estimate_y": (320, 256),
    "hyper_kernel": 3,
    "variable_rate": True,
}


def _paper(width: int) -> dict[str, object]:
    """The paper's model of one width for all transforms and latents."""
    return {
        "widths": (width, width, width),
        "latent": width,
        "hyper": width,
        "params": 2 * width,
        "middle": 288,
        "estimate_z": (640, 512),
        "estimate_y": (640, 512),
        "variable_rate": False,
    }


PAPER_PRESET = _paper(448)
PAPER_256 = _paper(256)

WEIGHTS = Weights(
    file="octave-base.safetensors",
    sha256="f69864c318f872ac05ccd152e186f1e24f49662d8ffd0230c688ed1aace85d41",
    size=16_132_036,
)

_SHARED_KEYS = ("latent", "cross_kernel", "transposed_act")
_TRANSFORM_KEYS = ("widths", *_SHARED_KEYS)


@hookimpl
def zoo_register() -> list[Entry]:
    presets = {"base": BASE, "paper": PAPER_PRESET, "paper-256": PAPER_256}
    return [
        Entry(
            name="octave",
            kind="codec",
            factory="zoo_octave.model:build",
            presets=presets,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="two resolutions in every layer; low ones help to estimate high ones, two hyper layers",
        ),
        Entry(
            name="octave",
            kind="transform",
            factory="zoo_octave.transform:OctaveTransform",
            presets={k: {n: v for n, v in p.items() if n in _TRANSFORM_KEYS} for k, p in presets.items()},
            paper=PAPER,
            summary="generalised octave convolutions; latents at 1/16 and 1/32",
        ),
        Entry(
            name="octave",
            kind="entropy_model",
            factory="zoo_octave.entropy:OctaveEntropy",
            presets={k: {n: v for n, v in p.items() if n != "widths"} for k, p in presets.items()},
            paper=PAPER,
            summary="two hyper layers and cross-resolution parameter estimation of two latents",
        ),
    ]
