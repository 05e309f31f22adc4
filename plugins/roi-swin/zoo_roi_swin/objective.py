"""Rate and a distortion that weighs the region of interest more than the background.

    loss = bpp + 255^2 * mean over pixels of lambda(i) * (x_i - x_hat_i)^2 / 3
    lambda(i) = lambda of the level inside of the region, rho times that outside

A run first trains the codec without masks and without SFT. Then every crop gets a random mask, and the
SFT, still zero, join. So what is scarce at first, a codec at all, is learnt at lower cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.model import CodecModel, bits_per_pixel
from zoo_core.training.loss import lambda_of
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms
from zoo_roi_swin.synthetic import Shapes, masks
from zoo_roi_swin.transform import RoiSwinTransform

_LEAST_LAMBDA = 0.0002
"""Of the background if rho is 0: left to itself it would diverge."""


class RegionObjective(Objective):
    """The objective of the module's docstring.

    Args:
        rho: lambda of the background over that of the region; 1 is the ordinary codec, the control.
        masks_from: share of the run after which there are masks; 0 for masks from the first step on.
        shapes: of the masks, see `synthetic.masks`.
        transform_rate: factor on the learning rate of the transforms and their SFT; 1 suits random weights.
    """

    def __init__(
        self,
        rho: float = 0.1,
        masks_from: float = 0.5,
        shapes: Shapes = "all",
        transform_rate: float = TRANSFORM_RATE,
    ):
        super().__init__(transform_rate)
        if not (0 <= rho <= 1 and 0 <= masks_from <= 1):
            raise UsageError(f"rho={rho}, masks_from={masks_from}: both lie between 0 and 1")
        if shapes not in get_args(Shapes):
            raise UsageError(f"shapes={shapes}: choose {' or '.join(get_args(Shapes))}")
        self.rho, self.masks_from, self.shapes = rho, masks_from, shapes
        self.with_masks = masks_from == 0

    def begin(self, model: CodecModel, progress: float) -> None:
        self.with_masks = progress >= self.masks_from
        assert isinstance(model.transform, RoiSwinTransform)
        model.transform.modulated = self.with_masks

    def conditions(self, x: Tensor, photos: Sequence[Tensor]) -> dict[str, Any]:
        if not self.with_masks:
            return {}
        return {"roi": masks(len(x), x.shape[-1], self.shapes).to(x.device)}

    def forward(self, model: CodecModel, x: Tensor, level: Tensor, roi: Tensor | None = None) -> Terms:
        out = model(x, level, roi=roi)
        error = (out["x_hat"].float() - x).square()
        weighted = error if roi is None else error * self.weights(roi, level)
        bpp = bits_per_pixel(out["likelihoods"], x.shape[-2] * x.shape[-1])
        distortion = lambda_of(level) * 255**2 * weighted.mean((1, 2, 3))
        return Terms(bpp + distortion, bpp, error.mean((1, 2, 3)))

    def weights(self, roi: Tensor, level: Tensor) -> Tensor:
        """lambda(i) over the level's lambda, (B, 1, H, W)."""
        least = _LEAST_LAMBDA / lambda_of(level)[:, None, None, None]
        outside = self.rho if self.rho else least.clamp(max=1)
        return torch.where(roi > 0.5, 1.0, outside)

    def learning_rate_factor(self, name: str) -> float:
        """SFT are as gentle as what they modulate: all at once they would shake a codec that works."""
        return self.transform_rate if ".sft_" in name else super().learning_rate_factor(name)


def objective(model: CodecModel, **settings: Any) -> Objective:
    """The region-wise objective; its settings are those of `RegionObjective`."""
    return RegionObjective(**settings)
