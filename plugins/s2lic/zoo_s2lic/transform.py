"""Analysis and synthesis of S2LIC: residual SwinV2 stages, and dense feature enhancement on both sides."""

from __future__ import annotations

from functools import partial

from zoo_core.layers.enhancement import Kind, enhancement
from zoo_core.layers.swin_transform import SwinTransform, Widths, subpel_picture


class S2LICTransform(SwinTransform):
    """Pictures to one latent at a sixteenth of the size; `latent` to `drop_path` as in `SwinTransform`.

    Args:
        enhance: kind of the enhancement, "dense", "plain" or "none".
        enhance_width, enhance_growth, enhance_fold: of it.
        swin_version: 2, or 1 for the ablation.
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
        make = partial(enhancement, enhance, enhance_width, enhance_growth, enhance_fold)
        super().__init__(
            latent, widths, depths, heads, mlp_ratio, swin_version, drop_path, subpel_picture, make
        )
