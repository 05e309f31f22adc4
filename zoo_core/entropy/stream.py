"""The drivers that write and read real symbols: one rANS stream per picture, built in bulk.

Payload (docs/format.md, "Symbols payload"): CRC-32 of all symbols, length of the escapes, escapes, rANS words.

Networks run in float64 here. The choice of a table is the only thing that must agree between machines;
the encoder lists every choice that lies close to a border (the calibration section), and the decoder takes
the listed side. It refuses what is closer than `REFUSED` and not listed.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator, Sequence

import constriction
import numpy as np
import torch
from torch import Tensor

from zoo_core.entropy.coder import Coder
from zoo_core.entropy.integer_mixture import PRECISION, IntegerMixture, Window, floors, rounded
from zoo_core.entropy.mixture import MixtureParameters
from zoo_core.entropy.tables import LOG_STEP, SKIP_SCALE, TABLES, Table, gaussian_tables
from zoo_core.errors import CorruptFileError, MismatchError, TruncatedFileError
from zoo_core.layers.rate import Gain
from zoo_core.timing import count, stage

MARGIN = 1e-9
"""Largest distance of a log-scale from a border at which the encoder lists its choice: what machines may differ by.

docs/determinism.md has the differences that were seen. A wider one would cost bytes.
"""
MIXTURE_MARGIN = 1e-10
"""The same for positions of a mixture's parameters, relative to 1 + their size."""
REFUSED = 5e-12
"""A decoder refuses what is this close to a border and not listed."""
MAX_SYMBOL = 1 << 20
"""Symbols are clipped to this magnitude."""

_MISMATCH = (
    "the decoded symbols are not the encoded ones: the file is damaged, or this machine computes differently "
    "(another torch build or device); nothing was shown"
)


class _Checksummed(Coder):
    """What writing and reading share: the CRC-32 of all symbols in coding order."""

    def __init__(self) -> None:
        self._crc = 0

    def _checksum(self, values: np.ndarray) -> None:
        self._crc = zlib.crc32(np.ascontiguousarray(values, dtype="<i4").tobytes(), self._crc)


class Encoder(_Checksummed):
    """Collects the symbols of one picture; `payload` and `calibration` are the result."""

    def __init__(self) -> None:
        super().__init__()
        # (indices, model, its frequencies if each index has its own), in decoding order
        self._parts: list[tuple] = []
        self._escapes = bytearray()
        self._choices: list[tuple[int, int]] = []
        self._decisions = 0

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        centred = latent.double() - prior.medians.double()
        symbols = _round(centred if gain is None else centred * gain.scale)
        with stage("coder"):
            values = _rows(symbols)  # (C, H*W)
            self._checksum(values)
            self._put(values.reshape(-1), _even(*values.shape), prior.tables(level))
        return symbols * _step(gain) + prior.medians.double()

    def gaussian(self, name, latent, mean, scale, gain=None):
        residual, deviation = latent.double() - mean, scale
        if gain is not None:
            residual, deviation = residual * gain.scale, deviation * gain.scale
        symbols = _round(residual)
        with stage("coder"):
            where, table, near = choices(deviation)
            self._choices += [(self._decisions + int(where[i]), int(table[i])) for i in near]
            self._decisions += deviation.numel()
            order, bounds = _groups(where, table)
            ordered = symbols.reshape(-1).numpy()[order].astype(np.int32)
            values = np.zeros(deviation.numel(), np.int32)
            values[order] = ordered
            self._checksum(values)
            self._put(ordered, bounds, _coded_tables())
        return mean + torch.from_numpy(values).double().view_as(mean) * _step(gain)

    def mixture(self, name, latent, parameters, gain=None):
        if gain is not None:
            latent, parameters = latent * gain.scale, parameters.scaled(gain.scale)
        symbols = _round(latent.double())
        with stage("coder"):
            values = symbols.reshape(-1).to(torch.int32)
            coded = torch.zeros_like(values)
            windows = self._integers(parameters).windows()
            for window in windows:
                coded[window.where] = values[window.where]
            self._checksum(coded.numpy())
            for window in windows:
                self._put_window(coded[window.where], window)
        return coded.double().view_as(symbols) * _step(gain)

    def channels(self, name, latent, count, gain=None):
        symbols = _round(latent if gain is None else latent * gain.scale)
        used = (symbols[0] != 0).flatten(1).any(1)
        with stage("coder"):
            bits = used.numpy().astype(np.int32)
            self._checksum(bits)
            self._parts.append((bits, _bit()))
        return used

    def _integers(self, parameters: MixtureParameters) -> IntegerMixture:
        """The mixture on its grid, with the roundings that were close listed."""
        integers, close, above = rounded(parameters, MIXTURE_MARGIN)
        places = (self._decisions + i for i in close.tolist())
        self._choices += zip(places, above.tolist(), strict=True)
        self._decisions += integers.numel()
        return IntegerMixture.of(parameters.families, integers)

    def _put_window(self, values: Tensor, window: Window) -> None:
        if not len(values):
            return
        slot = values - window.first
        outside = (slot < 0) | (slot >= window.escape)
        self._put_escapes(values[outside].tolist())
        start, end = window.interval(slot.masked_fill_(outside, window.escape))
        self._parts.append(_as_three_slots(start, end))

    def _put_escapes(self, values: list[int]) -> None:
        for value in values:
            self._escapes += _varint(2 * value if value >= 0 else -2 * value - 1)

    def _checksum(self, values: np.ndarray) -> None:
        count("latent", values.size)
        super()._checksum(values)

    def _put(self, values: np.ndarray, bounds: np.ndarray, tables: Sequence[Table]) -> None:
        """Code values (N,), of which bounds[i] to bounds[i + 1] have the table i."""
        first, escape = _ends(bounds, tables)
        index = values - first
        outside = (index < 0) | (index >= escape)
        if outside.any():
            self._put_escapes(values[outside].tolist())
            index = np.where(outside, escape, index)
        self._parts += [(index[start:stop], table.model) for start, stop, table in _runs(bounds, tables)]

    def payload(self) -> bytes:
        """The bytes of the symbols section."""
        with stage("coder"):
            ans = constriction.stream.stack.AnsCoder()
            for index, *model in reversed(self._parts):  # a stack: last in, first out
                ans.encode_reverse(index, *model)
            words = ans.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
        count("walk")
        count("symbol", sum(len(index) for index, *_ in self._parts))
        head = struct.pack("<I", self._crc) + _varint(len(self._escapes))
        return head + bytes(self._escapes) + words

    def calibration(self) -> bytes:
        """The bytes of the calibration section; empty if no choice was close to a border."""
        out = bytearray()
        last = 0
        for position, index in self._choices:
            out += _varint(position - last) + bytes([index])
            last = position
        return bytes(out)


class Decoder(_Checksummed):
    """Reads the symbols of one picture; call `finish` after the walk."""

    def __init__(self, payload: bytes, calibration: bytes = b""):
        super().__init__()
        if len(payload) < 5:
            raise TruncatedFileError("the symbols section is too short: the file is damaged")
        (self._expected,) = struct.unpack_from("<I", payload)
        length, start = _read_varint(payload, 4)
        if start + length > len(payload):
            raise TruncatedFileError("the escapes reach beyond the symbols section: the file is damaged")
        self._escapes, self._escape = payload[start : start + length], 0
        self._ans = _ans(payload[start + length :])
        self._choices = _read_choices(calibration)
        self._decisions = 0

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        channels, height, width = shape
        with stage("coder"):
            values = self._get(_even(channels, height * width), prior.tables(level))
            self._checksum(values)
        symbols = torch.from_numpy(values).double().view(1, channels, height, width)
        return symbols * _step(gain) + prior.medians.double()

    def gaussian(self, name, latent, mean, scale, gain=None):
        deviation = scale if gain is None else scale * gain.scale
        with stage("coder"):
            where, table, near = choices(deviation, REFUSED)
            for place, choice in self._listed(deviation.numel(), where[near]).items():
                i = int(np.searchsorted(where, place))
                if i == len(where) or where[i] != place:  # nowhere near a border
                    raise MismatchError(_MISMATCH)
                table[i] = choice
            order, bounds = _groups(where, table)
            values = np.zeros(deviation.numel(), np.int32)
            values[order] = self._get(bounds, _coded_tables())
            self._checksum(values)
        return mean + torch.from_numpy(values).double().view_as(mean) * _step(gain)

    def mixture(self, name, latent, parameters, gain=None):
        if gain is not None:
            parameters = parameters.scaled(gain.scale)
        with stage("coder"):
            values = torch.zeros(parameters.mean[:, 0].numel(), dtype=torch.int32)
            for window in self._integers(parameters).windows():
                values[window.where] = torch.from_numpy(self._get_window(window))
            self._checksum(values.numpy())
        return values.double().view_as(parameters.mean[:, 0]) * _step(gain)

    def channels(self, name, latent, count, gain=None):
        with stage("coder"):
            bits = self._ans.decode(_bit(), count)
            self._checksum(bits)
        return torch.from_numpy(bits != 0)

    def _integers(self, parameters: MixtureParameters) -> IntegerMixture:
        """The mixture on its grid, with the listed side of every rounding that was close."""
        integers, close, _ = rounded(parameters, REFUSED)
        listed = self._listed(integers.numel(), close.numpy())
        if max(listed.values(), default=0) > 1:  # a list made for the steps of another kind
            raise MismatchError(_MISMATCH)
        if listed:
            where, side = (torch.tensor(list(x)) for x in (listed.keys(), listed.values()))
            integers.view(-1)[where] = floors(parameters, where) + side.to(torch.int32)
        return IntegerMixture.of(parameters.families, integers)

    def _get_window(self, window: Window) -> np.ndarray:
        slots = [
            self._ans.decode(_frequencies_model(), window.rows(*chunk).numpy()) for chunk in window.chunks()
        ]
        slot = np.concatenate([np.zeros(0, np.int32), *slots])
        first = window.first.numpy()
        values = slot + first
        escaped = np.flatnonzero(slot == window.escape)
        values[escaped] = self._escaped(first[escaped], slot[escaped])
        return values

    def finish(self) -> None:
        """Compare the checksum and demand that nothing is left over; MismatchError if not."""
        left = not self._ans.is_empty() or self._escape != len(self._escapes) or self._choices
        if left or self._crc != self._expected:
            raise MismatchError(_MISMATCH)

    def _listed(self, decisions: int, near: np.ndarray) -> dict[int, int]:
        """The listed choices of a step with so many, by position; a close one that is not listed is refused."""
        end = self._decisions + decisions
        places = [p for p in self._choices if p < end]
        listed = {p - self._decisions: self._choices.pop(p) for p in places}
        if set(near.tolist()) - listed.keys():
            raise MismatchError(_MISMATCH)
        self._decisions = end
        return listed

    def _get(self, bounds: np.ndarray, tables: Sequence[Table]) -> np.ndarray:
        """Values int32 (N,), of which bounds[i] to bounds[i + 1] have the table i."""
        first, escape = _ends(bounds, tables)
        index = np.empty(len(first), np.int32)
        for start, stop, table in _runs(bounds, tables):
            index[start:stop] = self._ans.decode(table.model, stop - start)
        escaped = np.flatnonzero(index == escape)
        values = index + first
        values[escaped] = self._escaped(first[escaped], escape[escaped])
        return values

    def _escaped(self, first: np.ndarray, count: np.ndarray) -> list[int]:
        """The next escaped values, each of which lies outside of its first, ..., first + count - 1."""
        if len(first) > len(self._escapes) - self._escape:  # each escape takes a byte at least
            raise MismatchError(_MISMATCH)
        values = []
        for lowest, size in zip(first.tolist(), count.tolist(), strict=True):
            code, self._escape = _read_varint(self._escapes, self._escape)
            value = code >> 1 if code % 2 == 0 else -((code + 1) >> 1)
            if abs(value) > MAX_SYMBOL or lowest <= value < lowest + size:
                raise MismatchError(_MISMATCH)
            values.append(value)
        return values


@functools.cache
def _bit():
    """Two equally likely symbols, 0 and 1."""
    return constriction.stream.model.Categorical(np.array([0.5, 0.5]), perfect=True)


@functools.cache
def _frequencies_model():
    """A distribution of its own for every symbol: rows of integer frequencies, each less 1, as float32.

    constriction adds the 1 again, and what it multiplies by is 2^24 - n over the sum of the n numbers, which
    is exactly 1. All partial sums are below 2^24, where float32 is exact.
    """
    return constriction.stream.model.Categorical(perfect=False)


def _as_three_slots(start: Tensor, end: Tensor) -> tuple[np.ndarray, object, np.ndarray]:
    """What encodes intervals (start, end) of 2^24: before, the symbol, after. At the ends two are on one side."""
    before, size, after = start.clone(), end - start, (1 << PRECISION) - end
    index = torch.ones_like(start)
    first, last = start == 0, after == 0
    index[first], index[last] = 0, 2
    rows = torch.stack([before, size, after], 1)
    rows[first] = torch.stack([size[first], torch.ones_like(size[first]), after[first] - 1], 1)
    rows[last] = torch.stack([before[last] - 1, torch.ones_like(size[last]), size[last]], 1)
    return index.numpy(), _frequencies_model(), rows.sub_(1).float().numpy()


def choices(scale: Tensor, margin: float = MARGIN) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The table of each element that may be coded.

    Returns:
        Flat indices of those elements, rising (N,); all others have table 0. Their tables, uint8 (N,), some of
        them 0 too. Which of the N lie within `margin` of a border.

    Raises:
        MismatchError: a scale is not a number.
    """
    scale = scale.reshape(-1)
    # One sum tells whether any value is infinite or NaN.
    if not bool(scale.sum().isfinite()):
        raise MismatchError("the entropy parameters are not finite: the weights do not fit this picture")
    # Most scales lie well below the first border; what is not 0 or close to it needs the logarithm.
    where = (scale > SKIP_SCALE * (1 - 1e-6)).nonzero()[:, 0]
    position = (scale.index_select(0, where) / SKIP_SCALE).log_().div_(LOG_STEP)
    nearest = position.round()
    close = ((position - nearest).abs_() < margin / LOG_STEP).nonzero()[:, 0]
    close = close[(nearest[close] >= 0) & (nearest[close] < TABLES - 1)]
    table = position.ceil_().clamp_(0, TABLES - 1).to(torch.uint8)
    return where.numpy(), table.numpy(), close.numpy()


def table_index(scale: Tensor) -> np.ndarray:
    """Table of every scale, uint8, flat; 0 is the skip."""
    where, table, _ = choices(scale)
    index = np.zeros(scale.numel(), np.uint8)
    index[where] = table
    return index


def _groups(where: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elements with a table other than 0, ordered by table, stable; where each of those begins and the last ends."""
    coded = table != 0
    where, table = where[coded], table[coded]
    order = where[np.argsort(table, kind="stable")]
    return order, np.cumsum(np.bincount(table, minlength=TABLES))


@functools.cache
def _coded_tables() -> list[Table]:
    """The Gaussian tables from index 1."""
    return [table for _, table in sorted(gaussian_tables().items())]


def _even(count: int, size: int) -> np.ndarray:
    """Bounds of `count` groups of equal size."""
    return np.arange(count + 1) * size


def _ends(bounds: np.ndarray, tables: Sequence[Table]) -> tuple[np.ndarray, np.ndarray]:
    """First symbol and index of the escape of the table of each value, int32 (N,), grouped by `bounds`."""
    ends = np.array([(table.first, table.escape) for table in tables], np.int32)
    first, escape = ends.repeat(np.diff(bounds), 0).T
    return first, escape


def _runs(bounds: np.ndarray, tables: Sequence[Table]) -> Iterator[tuple[int, int, Table]]:
    """Where the values of each table begin and end; tables without any are left out."""
    ends = zip(bounds[:-1].tolist(), bounds[1:].tolist(), tables, strict=True)
    return ((start, stop, table) for start, stop, table in ends if start < stop)


def _round(x: Tensor) -> Tensor:
    return x.round().clamp_(-MAX_SYMBOL, MAX_SYMBOL)


def _rows(symbols: Tensor) -> np.ndarray:
    """(1, C, H, W) -> int32 (C, H*W)."""
    return symbols.flatten(2)[0].numpy().astype(np.int32)


def _step(gain: Gain | None) -> Tensor | float:
    return 1.0 if gain is None else gain.step


def _ans(words: bytes):
    """constriction's coder over the words, whose last zero bytes are cut off."""
    if words.endswith(b"\0"):
        raise CorruptFileError("the symbols section ends in a zero: the file is damaged")
    padded = words + b"\0" * (-len(words) % 4)
    return constriction.stream.stack.AnsCoder(np.frombuffer(padded, "<u4").astype(np.uint32))


def _varint(value: int) -> bytes:
    """LEB128, shortest form."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Value and end of a LEB128 number below 2^32; as in the container, the shortest form is the only one."""
    value = 0
    for i in range(5):
        if start + i >= len(data):
            raise TruncatedFileError("a number is cut off: the file is damaged")
        byte = data[start + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value >> 32 or (i and not byte):
                break
            return value, start + i + 1
    raise CorruptFileError("a number is too long: the file is damaged")


def _read_choices(calibration: bytes) -> dict[int, int]:
    choices: dict[int, int] = {}
    position, start = 0, 0
    while start < len(calibration):
        delta, start = _read_varint(calibration, start)
        if start >= len(calibration) or calibration[start] >= TABLES:
            raise CorruptFileError("the calibration section is wrong: the file is damaged")
        if choices and not delta:
            raise CorruptFileError("the calibration section lists a place twice: the file is damaged")
        position += delta
        choices[position] = calibration[start]
        start += 1
    return choices
