"""Fixed masks, so that results compare, and PSNR inside and outside of a mask."""

from __future__ import annotations

import numpy as np

Mask = np.ndarray
"""(H, W) bool, True inside."""


def fixed_masks(height: int, width: int) -> dict[str, Mask]:
    """A: centred ellipse with semi-axes W/4 and H/4. B: left half. C: centred rectangle, W/3 x H/3. D: all but A."""
    rows, columns = _centred(height)[:, None], _centred(width)[None]
    ellipse = (4 * rows) ** 2 + (4 * columns) ** 2 <= 1
    left = np.broadcast_to(columns < 0, (height, width))
    rectangle = (np.abs(rows) <= 1 / 6) & (np.abs(columns) <= 1 / 6)
    return {"A": ellipse, "B": left, "C": rectangle, "D": ~ellipse}


def _centred(length: int) -> np.ndarray:
    """Centres of the pixels of a dimension, from -1/2 to 1/2."""
    return (np.arange(length) + 0.5) / length - 0.5


def halves(height: int, width: int) -> dict[str, tuple[Mask, Mask]]:
    """Pairs of masks that divide a picture: left and right, top and bottom."""
    left, top = np.zeros((2, height, width), bool)
    left[:, : width // 2] = True
    top[: height // 2] = True
    return {"left, right": (left, ~left), "top, bottom": (top, ~top)}


def region_psnr(original: np.ndarray, decoded: np.ndarray, mask: Mask) -> float | None:
    """PSNR in dB over the pixels of a mask and three channels of uint8 (H, W, 3); None for an empty mask."""
    if not mask.any():
        return None
    error = np.square(original[mask].astype(np.float64) - decoded[mask]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))
