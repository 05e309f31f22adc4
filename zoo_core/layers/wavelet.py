"""Wavelet transforms by lifting along any axis, exactly invertible for every size.

One level splits an even number of samples into a low band `lo` and a high band `hi`, both scaled so
that a constant has gain sqrt(2) in `lo` and 0 in `hi`. Odd sizes are made even by repeating the last
sample, and the inverse crops it away again.

| name | filter                                     | lifting steps                           |
|------|--------------------------------------------|-----------------------------------------|
| haar | mean and difference of two samples         | none (one rotation)                     |
| 5/3  | LeGall, JPEG 2000 reversible without round | predict, update                         |
| 9/7  | Cohen-Daubechies-Feauveau, JPEG 2000 lossy | predict, update, predict, update        |
| poly | no filter: even and odd samples            | control that isolates the wavelet       |

Source: WeConvene (arXiv 2407.09983) uses Haar; the other filters are standard JPEG 2000 lifting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_ROOT2 = math.sqrt(2.0)
_K97 = 1.149604398860241

# name -> (lifting coefficients, in the order predict, update, predict, ...; gain of lo, gain of hi)
_LIFTING: dict[str, tuple[tuple[float, ...], float, float]] = {
    "5/3": ((-0.5, 0.25), _ROOT2, 1 / _ROOT2),
    "9/7": ((-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971), _K97, 1 / _K97),
    "poly": ((), 1.0, 1.0),
}

WAVELETS = ("haar", *_LIFTING)


def dwt(x: Tensor, dim: int, wavelet: str = "haar") -> tuple[Tensor, Tensor]:
    """Split an even axis of 2n samples into (lo, hi) of n samples each."""
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1 if dim >= 0 else dim)
    if wavelet == "haar":
        return (even + odd) * (1 / _ROOT2), (even - odd) * (1 / _ROOT2)
    steps, gain_lo, gain_hi = _LIFTING[wavelet]
    for i, weight in enumerate(steps):
        if i % 2 == 0:
            odd = odd + weight * (even + _next(even, dim))
        else:
            even = even + weight * (odd + _previous(odd, dim))
    return even * gain_lo, odd * gain_hi


def idwt(lo: Tensor, hi: Tensor, dim: int, wavelet: str = "haar") -> Tensor:
    """Inverse of `dwt`: two bands of n samples back to 2n samples."""
    if wavelet == "haar":
        even, odd = (lo + hi) * (1 / _ROOT2), (lo - hi) * (1 / _ROOT2)
    else:
        steps, gain_lo, gain_hi = _LIFTING[wavelet]
        even, odd = lo / gain_lo, hi / gain_hi
        for i, weight in reversed(list(enumerate(steps))):
            if i % 2 == 0:
                odd = odd - weight * (even + _next(even, dim))
            else:
                even = even - weight * (odd + _previous(odd, dim))
    axis = dim if dim >= 0 else dim + lo.dim()
    return torch.stack((even, odd), axis + 1).flatten(axis, axis + 1)


def _next(x: Tensor, dim: int) -> Tensor:
    """x[k + 1], with the last sample repeated (whole-sample symmetric extension)."""
    n = x.shape[dim]
    return torch.cat((x.narrow(dim, 1, n - 1), x.narrow(dim, n - 1, 1)), dim)


def _previous(x: Tensor, dim: int) -> Tensor:
    """x[k - 1], with the first sample repeated."""
    n = x.shape[dim]
    return torch.cat((x.narrow(dim, 0, 1), x.narrow(dim, 0, n - 1)), dim)


def dwt2(x: Tensor, wavelet: str = "haar") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level in two dimensions: (B, C, H, W) -> LL, LH, HL, HH of (B, C, ceil(H/2), ceil(W/2)).

    The first letter of a band is the direction along the width, the second along the height: LH is low
    along the width and high along the height.
    """
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    low, high = dwt(x, -1, wavelet)
    ll, lh = dwt(low, -2, wavelet)
    hl, hh = dwt(high, -2, wavelet)
    return ll, lh, hl, hh


def idwt2(
    ll: Tensor, lh: Tensor, hl: Tensor, hh: Tensor, size: Sequence[int], wavelet: str = "haar"
) -> Tensor:
    """Inverse of `dwt2` for a picture of `size` = (H, W)."""
    x = idwt(idwt(ll, lh, -2, wavelet), idwt(hl, hh, -2, wavelet), -1, wavelet)
    return x[..., : size[0], : size[1]]
