"""The drivers that write and read real symbols: one rANS stream per picture, built in bulk.

Payload (docs/format.md, "Symbols payload"): CRC-32 of all symbols, length of the escapes, escapes, rANS words.

Networks run in float64 here. The choice of a table is the only thing that must agree between machines;
the encoder lists every choice that lies within `MARGIN` of a border (the calibration section), and the
decoder takes the listed side or refuses.
"""

from __future__ import annotations

import struct
import zlib

import constriction
import numpy as np
import torch
from torch import Tensor

from zoo_core.entropy.coder import Coder
from zoo_core.entropy.tables import LOG_STEP, SKIP_SCALE, TABLES, Table, gaussian_tables
from zoo_core.errors import CorruptFileError, MismatchError, TruncatedFileError
from zoo_core.layers.rate import Gain
from zoo_core.timing import stage

MARGIN = 1e-11
"""Largest distance of a log-scale from a border at which the encoder lists its choice."""
MAX_SYMBOL = 1 << 20
"""Symbols are clipped to this magnitude."""

_MISMATCH = (
    "the decoded symbols are not the encoded ones: the file is damaged, or this machine computes differently "
    "(another torch build or device); nothing was shown"
)


class Encoder(Coder):
    """Collects the symbols of one picture; `payload` and `calibration` are the result."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, Table]] = []  # (indices into the table, table), in decoding order
        self._escapes = bytearray()
        self._crc = 0
        self._choices: list[tuple[int, int]] = []
        self._decisions = 0

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        centred = latent.double() - prior.medians.double()
        symbols = _round(centred if gain is None else centred * gain.scale)
        with stage("coder"):
            values = _rows(symbols)  # (C, H*W)
            self._checksum(values)
            for row, table in zip(values, prior.tables(level), strict=True):
                self._put(row, table)
        return symbols * _step(gain) + prior.medians.double()

    def gaussian(self, name, latent, mean, scale, gain=None):
        residual, deviation = latent.double() - mean, scale
        if gain is not None:
            residual, deviation = residual * gain.scale, deviation * gain.scale
        symbols = _round(residual)
        with stage("coder"):
            index, near = table_index(deviation)
            self._choices += [(self._decisions + i, int(index[i])) for i in near.tolist()]
            self._decisions += len(index)
            values = symbols.reshape(-1).numpy().astype(np.int32)
            values[index == 0] = 0
            self._checksum(values)
            order, bounds = _groups(index)
            ordered = values[order]
            for i in range(1, TABLES):
                if bounds[i] < bounds[i + 1]:
                    self._put(ordered[bounds[i] : bounds[i + 1]], gaussian_tables()[i])
        return mean + torch.from_numpy(values).double().view_as(mean) * _step(gain)

    def _checksum(self, values: np.ndarray) -> None:
        self._crc = zlib.crc32(np.ascontiguousarray(values, dtype="<i4").tobytes(), self._crc)

    def _put(self, values: np.ndarray, table: Table) -> None:
        index = values - table.first
        outside = (index < 0) | (index >= table.escape)
        if outside.any():
            for value in values[outside].tolist():
                self._escapes += _varint(2 * value if value >= 0 else -2 * value - 1)
            index = np.where(outside, table.escape, index)
        self._parts.append((index.astype(np.int32), table))

    def payload(self) -> bytes:
        """The bytes of the symbols section."""
        with stage("coder"):
            ans = constriction.stream.stack.AnsCoder()
            for index, table in reversed(self._parts):  # a stack: last in, first out
                ans.encode_reverse(index, table.model)
            words = ans.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
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


class Decoder(Coder):
    """Reads the symbols of one picture; call `finish` after the walk."""

    def __init__(self, payload: bytes, calibration: bytes = b""):
        if len(payload) < 5:
            raise TruncatedFileError("the symbols section is too short: the file is damaged")
        (self._expected,) = struct.unpack_from("<I", payload)
        length, start = _read_varint(payload, 4)
        if start + length > len(payload):
            raise TruncatedFileError("the escapes reach beyond the symbols section: the file is damaged")
        self._escapes, self._escape = payload[start : start + length], 0
        words = payload[start + length :]
        self._ans = _ans(words + b"\0" * (-len(words) % 4))
        self._crc = 0
        self._choices = _read_choices(calibration)
        self._decisions = 0

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        channels, height, width = shape
        with stage("coder"):
            rows = [self._get(height * width, table) for table in prior.tables(level)]
            values = np.stack(rows)
            self._checksum(values)
        symbols = torch.from_numpy(values).double().view(1, channels, height, width)
        return symbols * _step(gain) + prior.medians.double()

    def gaussian(self, name, latent, mean, scale, gain=None):
        deviation = scale if gain is None else scale * gain.scale
        with stage("coder"):
            index, near = table_index(deviation, MARGIN / 2)
            self._calibrate(index, near)
            order, bounds = _groups(index)
            values = np.zeros(len(index), np.int32)
            for i in range(1, TABLES):
                if bounds[i] < bounds[i + 1]:
                    count = int(bounds[i + 1] - bounds[i])
                    values[order[bounds[i] : bounds[i + 1]]] = self._get(count, gaussian_tables()[i])
            self._checksum(values)
        return mean + torch.from_numpy(values).double().view_as(mean) * _step(gain)

    def finish(self) -> None:
        """Compare the checksum and demand that nothing is left over; MismatchError if not."""
        left = not self._ans.is_empty() or self._escape != len(self._escapes) or self._choices
        if left or self._crc != self._expected:
            raise MismatchError(_MISMATCH)

    _checksum = Encoder._checksum

    def _calibrate(self, index: np.ndarray, near: np.ndarray) -> None:
        """Take the listed side of every choice of this step; refuse a close one that is not listed."""
        end = self._decisions + len(index)
        listed = [p for p in self._choices if p < end]
        for position in listed:
            index[position - self._decisions] = self._choices.pop(position)
        if {self._decisions + i for i in near.tolist()} - set(listed):
            raise MismatchError(_MISMATCH)
        self._decisions = end

    def _get(self, count: int, table: Table) -> np.ndarray:
        if count == 0:
            return np.zeros(0, np.int32)
        index = self._ans.decode(table.model, count)
        values = index + np.int32(table.first)
        escaped = np.flatnonzero(index == table.escape)
        if len(escaped) > len(self._escapes) - self._escape:  # each escape takes a byte at least
            raise MismatchError(_MISMATCH)
        for i in escaped.tolist():
            code, self._escape = _read_varint(self._escapes, self._escape)
            value = code >> 1 if code % 2 == 0 else -((code + 1) >> 1)
            if abs(value) > MAX_SYMBOL or table.first <= value < table.first + table.escape:
                raise MismatchError(_MISMATCH)
            values[i] = value
        return values


def table_index(scale: Tensor, margin: float = MARGIN) -> tuple[np.ndarray, np.ndarray]:
    """Table of every scale (uint8, flat), and the positions that lie within `margin` of a border.

    Raises:
        MismatchError: a scale is not a number.
    """
    position = (scale.reshape(-1).clamp_min(1e-3) / SKIP_SCALE).log_().div_(LOG_STEP)
    if not bool(torch.isfinite(position).all()):
        raise MismatchError("the entropy parameters are not finite: the weights do not fit this picture")
    nearest = position.round()
    close = ((position - nearest).abs() < margin / LOG_STEP) & (nearest >= 0) & (nearest < TABLES - 1)
    index = position.ceil().clamp_(0, TABLES - 1).to(torch.uint8).numpy()
    return index, close.nonzero()[:, 0].numpy()


def _groups(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions ordered by table, stable, and where each table begins."""
    order = np.argsort(index, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(index, minlength=TABLES))])


def _round(x: Tensor) -> Tensor:
    return x.round().clamp_(-MAX_SYMBOL, MAX_SYMBOL)


def _rows(symbols: Tensor) -> np.ndarray:
    """(1, C, H, W) -> int32 (C, H*W)."""
    return symbols.flatten(2)[0].numpy().astype(np.int32)


def _step(gain: Gain | None) -> Tensor | float:
    return 1.0 if gain is None else gain.step


def _ans(words: bytes):
    """constriction's coder over the words; it refuses data that ends in a zero word."""
    try:
        return constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
    except ValueError:
        raise CorruptFileError("the symbols section ends in a zero word: the file is damaged") from None


def _varint(value: int) -> bytes:
    """LEB128, shortest form."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Value and end of a LEB128 number of at most 5 bytes."""
    value = 0
    for i in range(5):
        if start + i >= len(data):
            raise TruncatedFileError("a number is cut off: the file is damaged")
        byte = data[start + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, start + i + 1
    raise CorruptFileError("a number is too long: the file is damaged")


def _read_choices(calibration: bytes) -> dict[int, int]:
    choices: dict[int, int] = {}
    position, start = 0, 0
    while start < len(calibration):
        delta, start = _read_varint(calibration, start)
        if start >= len(calibration) or calibration[start] >= TABLES:
            raise CorruptFileError("the calibration section is wrong: the file is damaged")
        position += delta
        choices[position] = calibration[start]
        start += 1
    return choices
