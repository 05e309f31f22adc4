"""Analysis and synthesis of S2LIC: residual SwinV2 stages, and dense feature enhancement on both sides."""

from __future__ import annotations

from functools import partial

from zoo_core.errors import UsageError
from zoo_core.layers.enhancement import Kind, enhancement
from zoo_core.layers.swin_transform import SwinTransform, Widths, subpel_picture

FOLDS = (1, 2, 4, 8, 16)
"""Sides of the enhancement's blocks: what divides every padded picture."""


class S2LICTransform(SwinTransform):
    """Pictures to one latent at a sixteenth of the size; `latent` to `drop_path` as in `SwinTransform`.

    Args:
        enhance: kind of the enhancement, "dense", "plain" or "none".
        enhance_width, enhance_growth, enhance_fold: of it.
        swin_version: 2, or 1 for the ablation.

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
        enhance_growth: int,
        enhance_fold: int = 1,
        enhance: Kind = "dense",
        swin_version: int = 2,
        drop_path: float = 0.0,
    ):
        if enhance_fold not in FOLDS:
            raise UsageError(f"enhance_fold={enhance_fold}: choose {', '.join(map(str, FOLDS))}")
        make = partial(enhancement, enhance, enhance_width, enhance_growth, enhance_fold)
        super().__init__(
            latent, widths, depths, heads, mlp_ratio, swin_version, drop_path, subpel_picture, make
        )
