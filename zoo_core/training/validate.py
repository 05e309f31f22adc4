"""Estimated rate and distortion on whole photos: quick figures to choose by.

Real bytes of real files are the business of `zoo eval`; the estimate agrees with them within a percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.model import CodecModel, psnr_from_mse
from zoo_core.training.loss import rate_distortion


def validate(
    model: CodecModel, photos: Sequence[Tensor], levels: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Figures per level, {"q3": {"loss", "bpp", "psnr"}}, as means over the photos (PSNR: in dB).

    Args:
        model: on any device; it is in evaluation mode afterwards.
        photos: uint8 (3, H, W) each, cropped in the middle to multiples of `model.downscale`.
        levels: real numbers from 1 to 6.

    Raises:
        UsageError: a photo is smaller than `model.downscale`.
    """
    model.eval()
    rows: dict[str, list[tuple[float, float, float]]] = {f"q{level:g}": [] for level in levels}
    for photo in photos:
        x = cropped(photo, model.downscale)
        for level, row in zip(levels, rows.values(), strict=True):
            row.append(_measure(model, x, level))
    return {name: _means(row) for name, row in rows.items()}


def cropped(photo: Tensor, stride: int) -> Tensor:
    """uint8 (3, H, W) -> (3, H', W') from its middle, both multiples of `stride`."""
    _, height, width = photo.shape
    rows, columns = height // stride * stride, width // stride * stride
    if not rows or not columns:
        raise UsageError(f"a photo of {width}x{height} is too small to validate with: {stride} at least")
    top, left = (height - rows) // 2, (width - columns) // 2
    return photo[:, top : top + rows, left : left + columns]


@torch.inference_mode()
def _measure(model: CodecModel, photo: Tensor, level: float) -> tuple[float, float, float]:
    """Loss, bits per pixel and PSNR of the picture in 8 bits."""
    device = next(model.parameters()).device
    x = photo[None].to(device).float() / 255
    levels = torch.tensor([level], device=device)
    out = model(x, levels)
    out["x_hat"] = out["x_hat"].clamp(0, 1).mul(255).round().div(255)
    loss, bpp, mse = (float(value) for value in rate_distortion(x, out, levels))
    return loss, bpp, psnr_from_mse(mse)


def _means(rows: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    columns = zip(*rows, strict=True)
    return {name: fmean(column) for name, column in zip(("loss", "bpp", "psnr"), columns, strict=True)}
