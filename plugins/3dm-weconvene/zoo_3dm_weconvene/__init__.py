"""3DM-WeConvene: 3-D multi-level wavelets (after arXiv 2504.04658). Registers the method; no torch."""

from __future__ import annotations

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="3DM-WeConvene: Learned Image Compression with 3D Multi-Level Wavelet-Domain Convolution and "
    "Entropy Model",
    authors="H. Fu, J. Liang, F. Liang, Z. Fang, G. Zhang, J. Han",
    year=2025,
    url="https://arxiv.org/abs/2504.04658",
)

BASE = {
    "stages": ((32, 1), (64, 1)),
    "top": 96,
    "latent": 96,
    "hyper": 32,
    "hyper_latent": 48,
    "params": 64,
    "low_slices": 4,
    "attention": 24,
    "attention_units": 1,
    "context": (64, 48),
    "context_kernels": (1, 3, 1),
    "variable_rate": True,
}

PAPER_PRESET = {
    "stem": (128, 3),
    "stages": ((128, 3), (128, 3)),
    "top": 128,
    "latent": 320,
    "hyper": 128,
    "hyper_blocks": 3,
    "hyper_latent": 192,
    "params": 320,
    "low_slices": 4,
    "attention": 128,
    "attention_units": 3,
    "context": (224, 128),
    "context_kernels": (3, 3, 3),
    "variable_rate": False,
}

_TRANSFORM_KEYS = ("stem", "stages", "top", "latent")


WEIGHTS = Weights(
    file="3dm-weconvene-base.safetensors",
    sha256="948767d85e4ee04f8b3fa96b2d5abb26e5be73498c3b28b6e18481af83356c8d",
    size=7_488_400,
)


@hookimpl
def zoo_register() -> list[Entry]:
    presets = {"base": BASE, "paper": PAPER_PRESET}
    transforms = {k: {n: v for n, v in p.items() if n in _TRANSFORM_KEYS} for k, p in presets.items()}
    entropy_models = {
        k: {n: v for n, v in p.items() if n not in _TRANSFORM_KEYS or n == "latent"}
        for k, p in presets.items()
    }
    return [
        Entry(
            name="3dm-weconvene",
            kind="codec",
            factory="zoo_3dm_weconvene.model:build",
            presets=presets,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="wavelets along channels and over two levels in space; low frequencies coded first",
        ),
        Entry(
            name="3dm-weconvene",
            kind="transform",
            factory="zoo_3dm_weconvene.transform:WaveletTransform3D",
            presets=transforms,
            paper=PAPER,
            summary="3x3 convolutions on low, 1x1 on high frequencies of a 3-D multi-level DWT; one latent at 1/8",
        ),
        Entry(
            name="3dm-weconvene",
            kind="entropy_model",
            factory="zoo_3dm_weconvene.entropy:Entropy3D",
            presets=entropy_models,
            paper=PAPER,
            summary="slices of a 3-D DWT of the latent, all low frequencies first (3DWeChARM)",
        ),
    ]
