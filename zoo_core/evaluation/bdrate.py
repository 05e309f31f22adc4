"""Bjøntegaard delta rate: how many percent more rate one curve needs than another at equal quality.

The logarithm of the rate is interpolated over the quality, piecewise cubic, and the difference of the two
interpolations is averaged over the range of qualities that both curves cover. The interpolation is written
here in numpy: scipy, which has the same two, is no dependency of the core and takes most of a second to load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zoo_core.errors import UsageError
from zoo_core.evaluation.curves import Curve, Metric

Method = Literal["pchip", "akima"]

ENOUGH_OVERLAP = 0.75
"""A figure that speaks for less than this share of the curve's own range carries a warning."""


@dataclass(frozen=True)
class BDRate:
    """The outcome of one comparison.

    Attributes:
        value: percent of rate against the anchor, negative is better; NaN where nothing can be compared.
        overlap: the share, 0..1, of the curve's quality range that the anchor covers as well.
        warning: why the figure should not be trusted, or None.
    """

    value: float
    overlap: float
    warning: str | None = None


def bd_rate(curve: Curve, anchor: Curve, metric: Metric = "psnr", method: Method = "pchip") -> BDRate:
    """Average rate difference of `curve` against `anchor`, in percent, at equal quality.

    MS-SSIM is compared in dB. A point that costs more than another one without being better is left out:
    the interpolation needs a rate for every quality, and only one.

    Raises:
        UsageError: unknown metric or method, or a curve that was never measured in this metric.
    """
    if method not in _SLOPES:
        raise UsageError(f"unknown interpolation {method!r}; choose one of: {', '.join(_SLOPES)}")
    quality, log_rate = _points(curve, metric)
    anchor_quality, anchor_log_rate = _points(anchor, metric)
    if min(len(quality), len(anchor_quality)) < 2:
        return BDRate(math.nan, 0.0, "a curve needs at least two points")
    low, high = max(quality[0], anchor_quality[0]), min(quality[-1], anchor_quality[-1])
    if low >= high:
        return BDRate(math.nan, 0.0, "the curves have no quality in common")
    ours = _mean(quality, log_rate, low, high, method)
    theirs = _mean(anchor_quality, anchor_log_rate, low, high, method)
    overlap = (high - low) / (quality[-1] - quality[0])
    warning = None
    if overlap < ENOUGH_OVERLAP:
        warning = f"speaks for only {overlap:.0%} of the curve's quality range"
    return BDRate(100 * math.expm1(ours - theirs), float(overlap), warning)


def _points(curve: Curve, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Quality in dB and natural logarithm of the rate, both strictly rising in quality, (N,) each."""
    rate, quality = np.asarray(curve.bpp, float), np.asarray(curve.quality(metric), float)
    order = np.lexsort((-quality, rate))
    rate, quality = rate[order], quality[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(quality)[:-1]])
    keep = (quality > best_before) & np.isfinite(quality)
    return quality[keep], np.log(rate[keep])


def _mean(x: np.ndarray, y: np.ndarray, low: float, high: float, method: Method) -> float:
    """Mean of the interpolation of y over x, between low and high.

    Two Gauss-Legendre nodes integrate each piece exactly, because each piece is a cubic.
    """
    slopes = _SLOPES[method](x, y) if len(x) > 2 else np.full(2, (y[1] - y[0]) / (x[1] - x[0]))
    knots = np.concatenate([[low], x[(x > low) & (x < high)], [high]])
    middle, half = (knots[1:] + knots[:-1]) / 2, np.diff(knots) / 2
    nodes = np.stack([middle - half / math.sqrt(3), middle + half / math.sqrt(3)])
    return float((_hermite(x, y, slopes, nodes) * half).sum() / (high - low))


def _hermite(x: np.ndarray, y: np.ndarray, slopes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The piecewise cubic through (x, y) with the given slopes, evaluated at `at`."""
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    width = x[k + 1] - x[k]
    t = (at - x[k]) / width
    values = y[k] * (1 + 2 * t) * (1 - t) ** 2 + y[k + 1] * t**2 * (3 - 2 * t)
    return values + width * t * (1 - t) * (slopes[k] * (1 - t) - slopes[k + 1] * t)


def _pchip_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slopes that keep the curve monotone between the points (Fritsch and Butland 1984)."""
    width = np.diff(x)
    secant = np.diff(y) / width
    left, right = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    slopes = np.zeros_like(x)
    same_sign = secant[:-1] * secant[1:] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        harmonic = (left + right) / (left / secant[:-1] + right / secant[1:])
    slopes[1:-1] = np.where(same_sign, harmonic, 0)
    slopes[0] = _pchip_end(width[0], width[1], secant[0], secant[1])
    slopes[-1] = _pchip_end(width[-1], width[-2], secant[-1], secant[-2])
    return slopes


def _pchip_end(width: float, next_width: float, secant: float, next_secant: float) -> float:
    """One-sided three-point slope at an end, limited so that the end piece stays monotone."""
    slope = ((2 * width + next_width) * secant - width * next_secant) / (width + next_width)
    if slope * secant <= 0:
        return 0.0
    if secant * next_secant < 0 and abs(slope) > 3 * abs(secant):
        return 3 * secant
    return slope


def _akima_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Means of the neighbouring secants, each weighted by how straight the other side is (Akima 1970)."""
    secant = np.diff(y) / np.diff(x)
    before = 2 * secant[0] - secant[1]
    after = 2 * secant[-1] - secant[-2]
    secant = np.concatenate([[2 * before - secant[0], before], secant, [after, 2 * after - secant[-1]]])
    bend = np.abs(np.diff(secant))
    total = bend[2:] + bend[:-2]
    bent = total > 1e-9 * total.max(initial=0)
    weighted = bend[2:] * secant[1:-2] + bend[:-2] * secant[2:-1]
    return np.where(bent, weighted / np.where(bent, total, 1), (secant[1:-2] + secant[2:-1]) / 2)


_SLOPES = {"pchip": _pchip_slopes, "akima": _akima_slopes}
