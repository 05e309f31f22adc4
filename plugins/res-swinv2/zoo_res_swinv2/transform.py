"""Analysis and synthesis of Res-SwinV2: residual SwinV2 stages, and three convolutions on both sides."""

from __future__ import annotations

from functools import partial

from zoo_core.errors import UsageError
from zoo_core.layers.enhancement import Kind, enhancement
from zoo_core.layers.swin_transform import SwinTransform, Widths, transposed_picture

FOLDS = (1, 2, 4, 8, 16)
"""Sides of the enhancement's blocks: what divides every padded picture."""


class ResSwinTransform(SwinTransform):
    """Pictures to one latent at a sixteenth of the size; `latent` to `mlp_ratio` as in `SwinTransform`.

    Args:
        enhance: kind of the enhancement: "plain", or for ablations "dense" or "none".
        enhance_width, enhance_fold: of it. enhance_growth: of the dense kind.
        swin_version: 2, or 1 for the ablation.
        drop_path: largest rate of stochastic depth.
        hyper_depth: blocks of each of the two stages of a hyper coder, which the rates go on in.

    Raises:
        UsageError: there is no such kind of enhancement, or its blocks do not fit into the picture.
    """

    def __init__(
        self,
        latent: int,
        widths: Widths,
        depths: Widths,
        heads: Widths,
        mlp_ratio: float,
        enhance_width: int,
        enhance_fold: int = 1,
        enhance_growth: int = 32,
        enhance: Kind = "plain",
        swin_version: int = 2,
        drop_path: float = 0.0,
        hyper_depth: int = 1,
    ):
        if enhance_fold not in FOLDS:
            raise UsageError(f"enhance_fold={enhance_fold}: choose {', '.join(map(str, FOLDS))}")
        make = partial(enhancement, enhance, enhance_width, enhance_growth, enhance_fold)
        super().__init__(
            latent,
            widths,
            depths,
            heads,
            mlp_ratio,
            swin_version,
            drop_path,
            transposed_picture,
            make,
            hyper_blocks=2 * hyper_depth,
        )
