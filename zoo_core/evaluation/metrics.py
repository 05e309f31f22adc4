"""Distances between two pictures as the compression literature measures them.

Both metrics work on 8-bit pictures, on the scale 0..255, because that is what a decoder hands out:
reconstructions are rounded before they are compared. They never convert to another colour space.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core.errors import UsageError

PEAK = 255
WINDOW = 11
SIGMA = 1.5
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang, Simoncelli, Bovik 2003)."""

_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all channels together; infinite for identical pictures.

    Args:
        a, b: (H, W, 3) RGB or (H, W) grey, uint8, of the same shape.

    Raises:
        UsageError: shapes differ, or the pictures are not 8 bit.
    """
    _check(a, b)
    difference = a.astype(np.int32) - b
    error = float(np.mean(np.square(difference), dtype=np.float64))
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Multi-scale structural similarity, linear (1 is identical), averaged over the channels.

    Five scales, a Gaussian window of 11x11 with sigma 1.5, no padding. The coarsest of the five needs a
    short side of at least 161 pixels. A smaller picture is measured on the scales that it has (4 from 81
    pixels on, 3 from 41, 2 from 21, else 1), with their exponents renormalised to the same sum; below 11
    pixels the window shrinks to the largest odd size that fits. Such figures are well defined, but
    comparable only with those of pictures with as many scales.

    Args:
        a, b: (H, W, 3) RGB or (H, W) grey, uint8, of the same shape.

    Raises:
        UsageError: shapes differ, or the pictures are not 8 bit.
    """
    _check(a, b)
    with torch.inference_mode():
        return _ms_ssim(_planes(a), _planes(b))


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise UsageError(f"cannot compare pictures of shapes {a.shape} and {b.shape}; they must be equal")
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise UsageError(f"cannot compare pictures of {a.dtype} and {b.dtype}; both must be uint8")


def _planes(picture: np.ndarray) -> Tensor:
    """(H, W, 3) or (H, W) uint8 -> (C, H, W) float32."""
    planes = picture[..., None] if picture.ndim == 2 else picture
    return torch.tensor(planes).permute(2, 0, 1).float().contiguous()


def _ms_ssim(a: Tensor, b: Tensor) -> float:
    """MS-SSIM of two pictures (C, H, W), averaged over the channels."""
    short_side = min(a.shape[-2:])
    weights = _weights(short_side)
    window = _window(min(WINDOW, short_side - 1 + short_side % 2))
    product = a.new_ones(a.shape[0])
    for weight in weights[:-1]:
        _, contrast = _ssim(a, b, window)
        product *= contrast.relu() ** weight
        a, b = _half(a), _half(b)
    similarity, _ = _ssim(a, b, window)
    product *= similarity.relu() ** weights[-1]
    return float(product.mean())


def _weights(short_side: int) -> list[float]:
    """Exponents of the scales that fit: the coarsest must still be as large as the window.

    The five published exponents sum to 1.0001; fewer are scaled up to the same sum.
    """
    fitting = sum(short_side > (WINDOW - 1) * 2**scale for scale in range(len(SCALE_WEIGHTS)))
    weights = SCALE_WEIGHTS[: max(fitting, 1)]
    return [weight * sum(SCALE_WEIGHTS) / sum(weights) for weight in weights]


def _window(size: int) -> list[float]:
    """One axis of the separable Gaussian, `size` weights that sum to one."""
    weights = [math.exp(-((k - size // 2) ** 2) / (2 * SIGMA**2)) for k in range(size)]
    return [weight / sum(weights) for weight in weights]


def _ssim(a: Tensor, b: Tensor, window: list[float]) -> tuple[Tensor, Tensor]:
    """Mean structural similarity and mean contrast-structure term of each plane, (C,) each."""
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    variances = _blur(a * a, window) - mean_a**2 + _blur(b * b, window) - mean_b**2
    covariance = _blur(a * b, window) - mean_a * mean_b
    contrast = (2 * covariance + _C2) / (variances + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (luminance * contrast).mean((1, 2)), contrast.mean((1, 2))


def _blur(planes: Tensor, window: list[float]) -> Tensor:
    """Weighted local means wherever the window fits: (C, H, W) -> (C, H-10, W-10).

    Sums of shifted copies are several times faster than a convolution with so few channels.
    """
    for axis in (1, 2):
        size = planes.shape[axis] - len(window) + 1
        blurred = planes.narrow(axis, 0, size) * window[0]
        for shift, weight in enumerate(window[1:], start=1):
            blurred.add_(planes.narrow(axis, shift, size), alpha=weight)
        planes = blurred
    return planes


def _half(planes: Tensor) -> Tensor:
    """The next coarser scale; odd sizes are padded with zeros on both sides, as the reference code does."""
    padding = (planes.shape[-2] % 2, planes.shape[-1] % 2)
    return F.avg_pool2d(planes, 2, padding=padding)
