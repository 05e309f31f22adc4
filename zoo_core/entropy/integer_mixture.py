"""Mixtures in integers: equal on every machine once their parameters are rounded to a grid.

Weights count 4096ths, means 64ths, and scales are one of 128 spaced logarithmically. One table for each
family holds the cumulative function of its standard form, and everything after the rounding is integer
arithmetic below 2^31. Only the rounding sees floating-point numbers; the coder lists every value that lies
too close to a border of the grid (the calibration section).

The tables ship as integers in `mixture_tables.npz`, because exp and erfc differ in their last bits between
libraries. `python -m zoo_core.entropy.integer_mixture FILE` writes that file anew.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo_core.entropy.mixture import FAMILIES, SCALE_BOUND, MixtureParameters
from zoo_core.errors import MismatchError

WEIGHT_TOTAL = 1 << 12
MEAN_STEPS = 64
MAX_MEAN = 256
SCALES = 128
MAX_SCALE = 256.0
LOG_STEP = math.log(MAX_SCALE / SCALE_BOUND) / (SCALES - 1)

_TOP = (1 << 18) - 8
"""Last value of a cumulative table. The 8 leave room for one unit of 2^-24 for each slot of a window."""
_RESOLUTION = 512
"""Entries of a cumulative table per unit of scale."""
_REACH = 14 * _RESOLUTION
"""Tables end at 14 scales from the mean, where all are within half a unit of their limit."""
_INVERSE_BITS = 9
_MIDDLE = (_REACH << _INVERSE_BITS) + (1 << (_INVERSE_BITS - 1))
"""Middle of a table and half an entry, in 512ths of an entry."""
MASS = _TOP * WEIGHT_TOTAL
"""The whole mass of a mixture, just below 2^30."""

PRECISION = 24
HALF_WIDTHS = (1, 3, 7, 15, 31, 63, 127, 255)
"""Windows hold the symbols centre - h, ..., centre + h; with the escape they have a power of two of slots."""
_SIZES = (0, *HALF_WIDTHS)
"""With the window of symbols that are 0 beyond doubt."""
OUTSIDE = MASS >> 15
"""A window leaves at most this mass to the escape, unless it is the widest."""
_WEIGHT_BITS = 5
_WEIGHT_CLASSES = (WEIGHT_TOTAL >> _WEIGHT_BITS) + 1
"""Weights are told apart by 32, when all that is needed is a bound: the table then fits the nearest cache."""
_CLOSE = 1e-5
"""More than any margin: a cheap first look."""
_CELLS = 1 << 18
"""Frequencies that a decoder builds at once. Larger arrays leave the cache: with 2^20, up to 2.5 times the time."""
_BLOCK = 1 << 15
"""Symbols whose parameters are rounded at once, for the same reason: all at once takes twice the time."""

_FILE = Path(__file__).with_name("mixture_tables.npz")


@functools.cache
def cumulative_tables() -> dict[str, Tensor]:
    """Cumulative function of each family at -14, ..., 14 scales, int32 (14337,) from 0 to 2^18 - 8."""
    with np.load(_FILE) as data:
        steps = data["steps"].astype(np.int32)  # (3, 7168)
    middle = np.full((len(FAMILIES), 1), _TOP // 2, np.int32)
    upper = middle + np.cumsum(steps, 1, dtype=np.int32)
    tables = np.concatenate([(_TOP - upper)[:, ::-1], middle, upper], 1)
    return {family: torch.from_numpy(table) for family, table in zip(FAMILIES, tables, strict=True)}


@functools.cache
def inverse_scales() -> Tensor:
    """Table entries per 64th of a symbol for each scale, times 2^9; int32 (128,)."""
    with np.load(_FILE) as data:
        return torch.from_numpy(data["inverses"].astype(np.int32))


@functools.cache
def least_windows() -> dict[str, Tensor]:
    """The smallest window that one component of a mixture allows, whatever the others are.

    A component leaves least outside of a window when its mean is in the middle. What it leaves then, times its
    weight, is a bound for the whole mixture.

    Returns:
        For each family the index in `_SIZES`, uint8 (128 * 129,), by scale and by weight / 32, rounded down.
    """
    sizes, inverse = torch.tensor(_SIZES), inverse_scales().long()[:, None]
    # Half of a window in entries of the table, with one more for the rounding of both ends.
    reach = ((2 * sizes + 1) * (MEAN_STEPS // 2) * inverse >> _INVERSE_BITS) + 2  # (128, 9)
    weight = torch.arange(_WEIGHT_CLASSES) << _WEIGHT_BITS
    found = {}
    for family, table in cumulative_tables().items():
        inside = 2 * table[(_REACH + reach).clamp_(max=2 * _REACH)].long() - _TOP
        # Rounding its entries makes a table steeper somewhere by 2 at most, in the place of its middle: 4 are enough.
        outside = (_TOP - inside - 4).clamp_(min=0)  # (128, 9)
        too_small = outside[:, None] * weight[:, None] > OUTSIDE  # (128, 129, 9), true up to some size
        found[family] = too_small[..., :-1].sum(2).to(torch.uint8).view(-1)  # the last size is always enough
    return found


def grid_positions(parameters: MixtureParameters) -> Tensor:
    """Weights, means and scales in units of their grids, float64 (3K, N), to be rounded to the nearest.

    Raises:
        MismatchError: a parameter is not a number.
    """
    weight, mean, scale = (
        x.movedim(1, 0).flatten(1) for x in (parameters.weight, parameters.mean, parameters.scale)
    )
    position = weight.new_empty(3 * len(weight), weight.shape[1])
    weights, means, scales = position.chunk(3)
    torch.mul(weight, WEIGHT_TOTAL, out=weights).clamp_(0, WEIGHT_TOTAL)
    torch.mul(mean, MEAN_STEPS, out=means).clamp_(-MAX_MEAN * MEAN_STEPS, MAX_MEAN * MEAN_STEPS)
    torch.clamp(scale, SCALE_BOUND, MAX_SCALE, out=scales).div_(SCALE_BOUND).log_().div_(LOG_STEP)
    # One sum tells whether any value is NaN: infinite ones were clamped.
    if not bool(position.sum().isfinite()):
        raise MismatchError("the entropy parameters are not finite: the weights do not fit this picture")
    return position


def rounding(position: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest integers, int32; which choices were close, flat indices; and whether those went up, uint8.

    Close are positions that lie within margin * (1 + their size) of the border between two integers.
    """
    position = position.reshape(-1)
    nearest = (position + 0.5).floor_()
    close = ((position - nearest).abs_() > 0.5 - _CLOSE).nonzero()[:, 0]
    excess = position[close] - nearest[close]
    close = close[(excess.abs() - 0.5).abs() < margin * (1 + position[close].abs())]
    return nearest.to(torch.int32), close, (nearest[close] > position[close]).to(torch.uint8)


def rounded(parameters: MixtureParameters, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """`rounding` of the `grid_positions`: int32 (3K, N), flat indices in rising order, and their sides."""
    weight, mean, scale = (
        x.movedim(1, 0).flatten(1) for x in (parameters.weight, parameters.mean, parameters.scale)
    )
    rows, count = 3 * len(weight), weight.shape[1]
    nearest = weight.new_empty(rows, count, dtype=torch.int32)
    places, sides = [nearest.new_zeros(0, dtype=torch.int64)], [nearest.new_zeros(0, dtype=torch.uint8)]
    for start in range(0, count, _BLOCK):
        part = slice(start, min(start + _BLOCK, count))
        block = (x[None, :, part] for x in (weight, mean, scale))
        integers, close, above = rounding(
            grid_positions(MixtureParameters(parameters.families, *block)), margin
        )
        nearest[:, part] = integers.view(rows, -1)
        size = part.stop - start
        places.append(close // size * count + close % size + start)
        sides.append(above)
    where, order = torch.cat(places).sort()
    return nearest, where, torch.cat(sides)[order]


def floors(parameters: MixtureParameters, where: Tensor) -> Tensor:
    """Integers below some of the `grid_positions`, by flat index; int32."""
    count = parameters.mean[:, 0].numel()
    column = where % count
    some = (
        x.movedim(1, 0).flatten(1)[None, :, column]
        for x in (parameters.weight, parameters.mean, parameters.scale)
    )
    position = grid_positions(MixtureParameters(parameters.families, *some))  # (3K, len(where))
    return position.gather(0, (where // count)[None])[0].floor().to(torch.int32)


@dataclass(frozen=True)
class IntegerMixture:
    """Mixtures of N symbols.

    Attributes:
        families: of the K components.
        weight: int32 (K, N), sums to 4096. mean: (K, N) in 64ths. scale: (K, N), on the logarithmic grid.
    """

    families: tuple[str, ...]
    weight: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, families: tuple[str, ...], rounded: Tensor) -> IntegerMixture:
        """From the integers nearest to `grid_positions`, int32 (3K, N)."""
        weight, mean, scale = rounded.chunk(3)
        return cls(families, _completed(weight), mean, scale)

    @classmethod
    def nearest(cls, parameters: MixtureParameters) -> IntegerMixture:
        """The mixture as an encoder rounds it, for estimates; on the CPU."""
        integers, _, _ = rounded(parameters.to(torch.float64), 0.0)
        return cls.of(parameters.families, integers.cpu())

    def take(self, where: Tensor) -> IntegerMixture:
        """The mixtures of some symbols, by index."""
        # index_select along the second dimension takes six times as long.
        return self._each(lambda x: x.gather(1, where.expand(len(x), -1)))

    def cut(self, start: int, stop: int) -> IntegerMixture:
        """The mixtures of the symbols start, ..., stop - 1."""
        return self._each(lambda x: x[:, start:stop])

    def _each(self, choose: Callable[[Tensor], Tensor]) -> IntegerMixture:
        return IntegerMixture(self.families, choose(self.weight), choose(self.mean), choose(self.scale))

    @functools.cached_property
    def inverse(self) -> Tensor:
        """(K, N), see `inverse_scales`."""
        return inverse_scales().index_select(0, self.scale.reshape(-1)).view_as(self.scale)

    def mass_below(self, symbol: Tensor) -> Tensor:
        """Mass below symbol - 1/2, int32 from 0 to MASS, for symbols (N,), (S, N) or (S, 1) within +-512."""
        edge = symbol * MEAN_STEPS - MEAN_STEPS // 2
        total = self._below(0, edge).mul_(self.weight[0])
        for k in range(1, len(self.families)):
            total.addcmul_(self._below(k, edge), self.weight[k])
        return total

    def _below(self, k: int, edge: Tensor) -> Tensor:
        """Cumulative function of component k at an edge in 64ths of a symbol."""
        mean, inverse = self.mean[k], self.inverse[k]
        # (edge - mean) * inverse is the offset from the mean in 512ths of an entry, below 2^31 like both of its
        # terms. Half an entry rounds it, and the middle of the table is added while it is still one number.
        middle = torch.addcmul(torch.full_like(mean, _MIDDLE), mean, inverse, value=-1)
        entry = torch.addcmul(middle, edge, inverse).bitwise_right_shift_(_INVERSE_BITS)
        entry.clamp_(0, 2 * _REACH)
        return cumulative_tables()[self.families[k]].index_select(0, entry.view(-1)).view_as(entry)

    @property
    def centre(self) -> Tensor:
        """Nearest symbol to the mean of each mixture, int32 (N,)."""
        total = (self.weight * self.mean).sum(0, dtype=torch.int32)  # in units of 2^-18
        return total.add_(1 << 17).bitwise_right_shift_(18)

    def certain(self) -> Tensor:
        """Where the symbol is 0 beyond doubt, so that nothing is coded; bool (N,)."""
        centre = self.centre
        return (centre == 0) & self._fits(centre, 0)

    def _fits(self, centre: Tensor, half: Tensor | int) -> Tensor:
        """Where little mass lies outside of centre - half, ..., centre + half."""
        outside = self.mass_below(centre - half).sub_(self.mass_below(centre + half + 1)).add_(MASS)
        return outside <= OUTSIDE

    def windows(self) -> list[Window]:
        """All symbols that are coded, sorted by the size of their window, the narrow ones first.

        The window of a symbol lies around the mean of its mixture, and is the narrowest that leaves little
        mass outside. Symbols that are certain have none.
        """
        centre = self.centre
        size = self._sizes(centre)
        order = torch.from_numpy(np.argsort(size.numpy(), kind="stable"))
        bounds = np.cumsum(np.bincount(size.numpy(), minlength=len(_SIZES))).tolist()
        order = order[bounds[0] :]
        mixture, centre = self.take(order), centre.index_select(0, order)
        found = []
        for half, first, last in zip(HALF_WIDTHS, bounds, bounds[1:], strict=False):
            part = slice(first - bounds[0], last - bounds[0])
            found.append(Window(half, order[part], centre[part] - half, mixture.cut(part.start, part.stop)))
        return found

    def _sizes(self, centre: Tensor) -> Tensor:
        """Index in `_SIZES` of each symbol's window, uint8 (N,)."""
        halves = torch.tensor(_SIZES, dtype=torch.int32)
        size = torch.maximum(self._least(), (centre != 0).to(torch.uint8))
        rest, mixture, middle = torch.arange(len(size)), self, centre
        while len(rest):
            now = size.index_select(0, rest).int()
            fits = mixture._fits(middle, halves.index_select(0, now)) | (now == len(_SIZES) - 1)
            rest = rest[~fits]
            size[rest] += 1
            mixture, middle = self.take(rest), centre.index_select(0, rest)
        return size

    def _least(self) -> Tensor:
        """Index in `_SIZES` below which no window leaves little enough outside, uint8 (N,)."""
        parts = [
            least_windows()[family].index_select(0, scale * _WEIGHT_CLASSES + (weight >> _WEIGHT_BITS))
            for family, scale, weight in zip(self.families, self.scale, self.weight, strict=True)
        ]
        return functools.reduce(torch.maximum, parts)


def _completed(weight: Tensor) -> Tensor:
    """Weights (K, N) that sum to 4096: what rounding left over goes to the first of the largest."""
    top, largest = weight[0], torch.zeros_like(weight[0])
    for k in range(1, len(weight)):
        largest.masked_fill_(weight[k] > top, k)
        top = torch.maximum(top, weight[k])
    rest = WEIGHT_TOTAL - weight.sum(0, keepdim=True, dtype=torch.int32)
    return weight.scatter_add(0, largest[None].long(), rest)


@dataclass
class Window:
    """The symbols that share a size of window.

    Attributes:
        half: the window holds 2 half + 1 symbols.
        where: their indices. first: first symbol of each window, int32. mixture: of these symbols.
    """

    half: int
    where: Tensor
    first: Tensor
    mixture: IntegerMixture

    @property
    def escape(self) -> int:
        """Slot of the escape, the last one."""
        return 2 * self.half + 1

    def interval(self, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end of a slot of each symbol, on the scale of 2^24."""
        base = self.mixture.mass_below(self.first)
        start, end = (
            (self.mixture.mass_below(self.first + s) - base).bitwise_right_shift_(6).add_(s)
            for s in (slot, slot + 1)
        )
        return start, end.masked_fill_(slot == self.escape, 1 << PRECISION)

    def rows(self, start: int, stop: int) -> Tensor:
        """Frequencies of all slots of symbols start to stop, each less 1: float32 (n, 2 half + 2)."""
        mixture = self.mixture.cut(start, stop)
        # Slots come first until the end: rows as short as most windows make slow operations.
        slots = torch.arange(self.escape + 1, dtype=torch.int32)[:, None]
        mass = mixture.mass_below(self.first[start:stop] + slots)  # (2 half + 2, n)
        mass.sub_(mass[0].clone()).bitwise_right_shift_(6)
        # A slot starts at its number above this; that the next one has a higher number is the 1.
        rows = torch.empty(mass.shape, dtype=torch.float32)
        torch.sub(mass[1:], mass[:-1], out=rows[:-1])
        torch.sub((1 << PRECISION) - len(mass), mass[-1], out=rows[-1])
        return rows.t().contiguous()

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of symbols whose frequencies fit into a limited memory."""
        size = _CELLS // (self.escape + 1)
        return [(i, min(i + size, len(self.where))) for i in range(0, len(self.where), size)]


def build_tables() -> tuple[np.ndarray, np.ndarray]:
    """Steps of the upper halves of the cumulative tables, (3, 7168), and the inverse scales, (128,)."""
    halves = {
        "normal": lambda u: 0.5 * math.erf(u * math.sqrt(0.5)),
        "laplace": lambda u: -0.5 * math.expm1(-u),
        "logistic": lambda u: 0.5 * math.tanh(u / 2),
    }
    rows = [[round(_TOP * halves[f](i / _RESOLUTION)) for i in range(_REACH + 1)] for f in FAMILIES]
    per_symbol = _RESOLUTION / MEAN_STEPS * (1 << _INVERSE_BITS)
    inverses = [round(per_symbol / (SCALE_BOUND * math.exp(i * LOG_STEP))) for i in range(SCALES)]
    return np.diff(np.array(rows)).astype(np.uint16), np.array(inverses).astype(np.uint16)


if __name__ == "__main__":
    built_steps, built_inverses = build_tables()
    np.savez_compressed(sys.argv[1], steps=built_steps, inverses=built_inverses)
