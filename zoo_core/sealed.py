"""Bytes that carry checksums on themselves: the fields of which the .zoo container is made.

A seal is the CRC-32 of all bytes before it, other seals left out: a CRC that ran over its own value would
reach the same constant after every seal and tie nothing together. Numbers are unsigned and little-endian,
or LEB128 varints: seven bits a byte, lowest first, the high bit set on all but the last.
"""

from __future__ import annotations

import zlib

from zoo_core.errors import CorruptFileError, TruncatedFileError

_SEAL_SIZE = 4
_MAX_VARINT_SIZE = 5
_VARINT_END = 2**32


class SealedWriter:
    """Collects fields in `data`."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._crc = 0

    def put(self, piece: bytes) -> None:
        """Append bytes as they are."""
        self.data += piece
        self._crc = zlib.crc32(piece, self._crc)

    def put_byte(self, value: int) -> None:
        """Append a number below 256."""
        self.put(bytes((value,)))

    def put_varint(self, value: int) -> None:
        """Append a number below 2^32 in as few bytes as it needs."""
        while value > 0x7F:
            self.put_byte(value & 0x7F | 0x80)
            value >>= 7
        self.put_byte(value)

    def seal(self) -> None:
        """Append the checksum of everything so far."""
        self.data += self._crc.to_bytes(_SEAL_SIZE, "little")


class SealedReader:
    """Hands out fields from the front of the data as views of it, never beyond its end.

    `place` is what messages call the part of the file that is being read. Every method that takes bytes
    raises TruncatedFileError when there are too few.
    """

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._position = 0
        self._crc = 0

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self.data) - self._position

    def take(self, count: int, place: str) -> memoryview:
        """The next `count` bytes."""
        piece = self._next(count, place)
        self._crc = zlib.crc32(piece, self._crc)
        return piece

    def byte(self, place: str) -> int:
        """The next byte as a number."""
        return self.take(1, place)[0]

    def varint(self, place: str) -> int:
        """The next varint; CorruptFileError if it is not below 2^32 or not in its shortest form."""
        value = 0
        for index in range(_MAX_VARINT_SIZE):
            byte = self.byte(place)
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if value < _VARINT_END and (byte or not index):
                    return value
                break
        raise CorruptFileError(f"the {place} holds a malformed number: get the file again")

    def check_seal(self, place: str) -> None:
        """Take a checksum; CorruptFileError if it is not that of everything taken so far."""
        stored = int.from_bytes(self._next(_SEAL_SIZE, place), "little")
        if stored != self._crc:
            raise CorruptFileError(f"the checksum of the {place} is wrong: the file is damaged, get it again")

    def _next(self, count: int, place: str) -> memoryview:
        if count > self.left:
            raise TruncatedFileError(
                f"the file ends after {len(self.data):,} bytes, in the middle of the {place}: get it again"
            )
        piece = self.data[self._position : self._position + count]
        self._position += count
        return piece
