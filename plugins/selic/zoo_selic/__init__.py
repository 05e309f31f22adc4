"""SELIC: text-guided learned image compression (arXiv 2504.01279). Registers the method; no torch."""

from __future__ import annotations

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="SELIC: Semantic-Enhanced Learned Image Compression via High-Level Textual Guidance",
    authors="H. Fu, J. Liang, Z. Fang, J. Han",
    year=2025,
    url="https://arxiv.org/abs/2504.01279",
)

BASE = {
    "widths": (40, 64, 112),
    "blocks": (0, 1, 1),
    "latent": 240,
    "embedding": 384,
    "text_hidden": 192,
    "text_channels": 32,
    "fusion_hidden": 56,
    "slices": 5,
    "hyper_latent": 64,
    "hyper_blocks": 0,
    "params": 128,
    "context": (64, 64),
    "context_kernels": (1, 3, 1),
    "variable_rate": True,
}

PAPER_PRESET = {
    "widths": (128, 128, 128),
    "blocks": (3, 3, 3),
    "latent": 320,
    "embedding": 768,
    "text_hidden": 512,
    "text_channels": 64,
    "fusion_hidden": 160,
    "slices": 5,
    "hyper_latent": 192,
    "hyper_blocks": 3,
    "params": 320,
    "context": (224, 128),
    "context_kernels": (3, 3, 3),
    "variable_rate": False,
}

PRESETS = {"base": BASE, "paper": PAPER_PRESET}

CONDITIONS = ("caption", "captioner", "strict_text", "text_mode", "info")

WEIGHTS = Weights(
    file="selic-base.safetensors",
    sha256="140eb2162d82701b43dc894e7101a855026d15cf3114b6939b22714ef8b5c669",
    size=13_464_136,
)

_TEXT_KEYS = ("embedding", "text_hidden", "text_channels", "fusion_hidden")
_TRANSFORM_KEYS = ("widths", "blocks", "latent", *_TEXT_KEYS)


@hookimpl
def zoo_register() -> list[Entry]:
    return [
        Entry(
            name="selic",
            kind="codec",
            factory="zoo_selic.model:build",
            presets=PRESETS,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="a caption, fused with the latent, helps the encoder; files and decoder know no text",
            conditions=CONDITIONS,
        ),
        Entry(
            name="selic",
            kind="transform",
            factory="zoo_selic.transform:SelicTransform",
            presets={k: {n: v for n, v in p.items() if n in _TRANSFORM_KEYS} for k, p in PRESETS.items()},
            paper=PAPER,
            summary="residual blocks, and a caption fused with the latent; one latent at 1/16",
            conditions=CONDITIONS,
        ),
        Entry(
            name="selic",
            kind="entropy_model",
            factory="zoo_core.entropy.channelwise:ChannelwiseEntropy",
            presets={
                k: {n: v for n, v in p.items() if n == "latent" or n not in _TRANSFORM_KEYS}
                for k, p in PRESETS.items()
            },
            paper=PAPER,
            summary="channel-wise autoregression with separate networks for means and scales",
        ),
    ]
