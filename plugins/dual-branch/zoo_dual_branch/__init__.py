"""Dual-branch encoder and conditional information coding (arXiv 2401.11093). Registers the method; no torch."""

from __future__ import annotations

from zoo_core.hooks import Entry, Paper, Weights, hookimpl

PAPER = Paper(
    title="Learned Image Compression with Dual-Branch Encoder and Conditional Information Coding",
    authors="H. Fu, F. Liang, J. Liang, Z. Fang, G. Zhang, J. Han",
    year=2024,
    url="https://arxiv.org/abs/2401.11093",
)

_TRANSFORM = {
    "base": {"widths": (32, 96), "latent": 88, "lr_widths": (64, 96), "lr_blocks": 1, "lr_latent": 32},
    "paper": {
        "widths": (192, 192, 192),
        "latent": 160,
        "lr_widths": (128, 128, 192),
        "lr_blocks": 2,
        "lr_latent": 160,
    },
}

_ENTROPY = {
    "base": {
        "slices": (8, 16, 24, 40),
        "lr_slices": (8, 8, 16),
        "hyper_latent": 48,
        "lr_hyper_latent": 32,
        "params": 48,
        "lr_params": 48,
        "halvings": 3,
        "condition": 32,
        "parameter_net": ((64, 64), (3, 1, 1)),
        "lrp_net": ((32,), (1, 1)),
        "order": "hl",
        "variable_rate": True,
    },
    "paper": {
        "slices": (32,) * 5,
        "lr_slices": (32,) * 5,
        "hyper_latent": 192,
        "lr_hyper_latent": 128,
        "params": 320,
        "lr_params": 320,
        "halvings": 2,
        "condition": 128,
        "parameter_net": ((224, 128), (3, 3, 3)),
        "lrp_net": ((128,), (3, 3)),
        "order": "hl",
        "variable_rate": False,
    },
}

_LATENTS = ("latent", "lr_latent")  # the codec's factory takes them from the slices

PRESETS = {
    preset: {key: value for key, value in sizes.items() if key not in _LATENTS} | _ENTROPY[preset]
    for preset, sizes in _TRANSFORM.items()
}


WEIGHTS = Weights(
    file="dual-branch-base.safetensors",
    sha256="0781461552250483a0f55de67a4f49c39a8c65fd21d1eaa262544aedd8bd101c",
    size=6_760_784,
)


@hookimpl
def zoo_register() -> list[Entry]:
    return [
        Entry(
            name="dual-branch",
            kind="codec",
            factory="zoo_dual_branch.model:build",
            presets=PRESETS,
            weights={"base": WEIGHTS},
            paper=PAPER,
            summary="two encoders, for local and global information; one latent is the condition of the other",
        ),
        Entry(
            name="dual-branch",
            kind="transform",
            factory="zoo_dual_branch.transform:DualBranchTransform",
            presets=_TRANSFORM,
            paper=PAPER,
            summary="two independent encoders and one synthesis; latents at 1/8 and 1/16",
        ),
        Entry(
            name="dual-branch",
            kind="entropy_model",
            factory="zoo_dual_branch.entropy:DualBranchEntropy",
            presets=_ENTROPY,
            paper=PAPER,
            summary="conditional coding of two latents, channel-wise autoregression in both",
        ),
    ]
