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

import functools
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
    axis = dim if dim >= 0 else dim + x.dim()
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
    if wavelet == "haar":
        return (even + odd).mul_(1 / _ROOT2), (even - odd).mul_(1 / _ROOT2)
    steps, gain_lo, gain_hi = _LIFTING[wavelet]
    for i, weight in enumerate(steps):
        if i % 2 == 0:
            odd = _lifted(odd, even, weight, axis, ahead=True)
        else:
            even = _lifted(even, odd, weight, axis, ahead=False)
    return even * gain_lo, odd * gain_hi


def idwt(lo: Tensor, hi: Tensor, dim: int, wavelet: str = "haar") -> Tensor:
    """Inverse of `dwt`: two bands of n samples back to 2n samples."""
    axis = dim if dim >= 0 else dim + lo.dim()
    if wavelet == "haar":
        return _interleaved((lo + hi).mul_(1 / _ROOT2), (lo - hi).mul_(1 / _ROOT2), axis)
    steps, gain_lo, gain_hi = _LIFTING[wavelet]
    even, odd = lo / gain_lo, hi / gain_hi
    for i, weight in reversed(list(enumerate(steps))):
        if i % 2 == 0:
            odd = _lifted(odd, even, -weight, axis, ahead=True)
        else:
            even = _lifted(even, odd, -weight, axis, ahead=False)
    return _interleaved(even, odd, axis)


def _lifted(x: Tensor, other: Tensor, weight: float, axis: int, ahead: bool) -> Tensor:
    """x[k] + weight (other[k] + other[k + 1]), or other[k - 1] if not `ahead`.

    The sample beyond the end is the last one once more (whole-sample symmetric extension). Sums in place: copies
    shifted by one sample, as a formula needs them, take longer than the sums.
    """
    n = x.shape[axis]
    out = torch.add(x, other, alpha=weight)
    here, there, edge = (0, 1, n - 1) if ahead else (1, 0, 0)
    out.narrow(axis, here, n - 1).add_(other.narrow(axis, there, n - 1), alpha=weight)
    out.narrow(axis, edge, 1).add_(other.narrow(axis, edge, 1), alpha=weight)
    return out


def _interleaved(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """even[0], odd[0], even[1], ... along `axis`, in channels_last if both are."""
    last = torch.channels_last
    if even.dim() != 4 or not (
        even.is_contiguous(memory_format=last) and odd.is_contiguous(memory_format=last)
    ):
        return torch.stack((even, odd), axis + 1).flatten(axis, axis + 1)
    even, odd = even.permute(0, 2, 3, 1), odd.permute(0, 2, 3, 1)
    axis = (0, 3, 1, 2)[axis]
    return torch.stack((even, odd), axis + 1).flatten(axis, axis + 1).permute(0, 3, 1, 2)


def dwt_channels(x: Tensor, wavelet: str = "haar") -> tuple[Tensor, Tensor]:
    """`dwt` along the channels: (B, 2C, H, W) -> (lo, hi) of (B, C, H, W) each.

    As 1x1 convolutions with the matrix of the lifting steps: in channels_last, where the channels lie side by
    side, that is many times as fast as steps over every other value.
    """
    analysis, _ = _matrices(x.shape[1], wavelet, x.dtype, x.device)
    lo, hi = (F.conv2d(x, half) for half in analysis.chunk(2))
    return lo, hi


def idwt_channels(lo: Tensor, hi: Tensor, wavelet: str = "haar") -> Tensor:
    """Inverse of `dwt_channels`, up to rounding."""
    x = torch.cat((lo, hi), 1)
    _, synthesis = _matrices(x.shape[1], wavelet, x.dtype, x.device)
    return F.conv2d(x, synthesis)


@functools.lru_cache(maxsize=256)
def _matrices(n: int, wavelet: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """`dwt` of n samples and its inverse, as kernels (n, n, 1, 1); the low band comes first."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        unit = torch.eye(n, dtype=torch.float64)  # a column each
        analysis = torch.cat(dwt(unit, 0, wavelet))
        synthesis = idwt(unit[: n // 2], unit[n // 2 :], 0, wavelet)
        kernels = (m[..., None, None].to(device, dtype, copy=True) for m in (analysis, synthesis))
        return next(kernels), next(kernels)


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
