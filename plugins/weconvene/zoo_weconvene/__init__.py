"""WeConvene: wavelet-domain convolution and entropy model (arXiv 2407.09983). Registers the method; no torch."""

from __future__ import annotations

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="WeConvene: Learned Image Compression with Wavelet-Domain Convolution and Entropy Model",
    authors="H. Fu, J. Liang, Z. Fang, J. Han, F. Liang, G. Zhang",
    year=2024,
    url="https://arxiv.org/abs/2407.09983",
)

BASE = {
    "stages": ((32, 1), (64, 1)),
    "top": 96,
    "latent": 96,
    "hyper": 32,
    "hyper_latent": 48,
    "params": 64,
    "slices": (4, 4),
    "attention": 24,
    "attention_units": 1,
    "context": (64, 64),
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
    "slices": (5, 5),
    "attention": 128,
    "attention_units": 3,
    "context": (224, 128),
    "context_kernels": (3, 3, 3),
    "variable_rate": False,
}

WEIGHTS = Weights(
    file="weconvene-base.safetensors",
    sha256="1b8dc4c51a6b0d8d1b2b601aea9cc272d612c4a44ef22415960e8384f71cfce2",
    size=9_765_392,
)

_TRANSFORM_KEYS = ("stem", "stages", "top", "latent")


@hookimpl
def zoo_register() -> list[Entry]:
    presets = {"base": BASE, "paper": PAPER_PRESET}
    return [
        Entry(
            name="weconvene",
            kind="codec",
            factory="zoo_weconvene.model:build",
            presets=presets,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="wavelet-domain convolutions; low frequencies of the latent coded before high ones",
        ),
        Entry(
            name="weconvene",
            kind="transform",
            factory="zoo_weconvene.transform:WeConveneTransform",
            presets={k: {n: v for n, v in p.items() if n in _TRANSFORM_KEYS} for k, p in presets.items()},
            paper=PAPER,
            summary="convolutions in the wavelet domain (WeConv); one latent at 1/8",
        ),
        Entry(
            name="weconvene",
            kind="entropy_model",
            factory="zoo_weconvene.entropy:WeConveneEntropy",
            presets={
                k: {n: v for n, v in p.items() if n == "latent" or n not in _TRANSFORM_KEYS}
                for k, p in presets.items()
            },
            paper=PAPER,
            summary="wavelet-domain channel-wise autoregression (WeChARM) of one latent",
        ),
    ]
