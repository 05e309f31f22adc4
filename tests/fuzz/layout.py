"""A .zoo file field by field, written from docs/format.md alone: what mutations change, sealed again or not."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

LAST = 0x40


@dataclass
class Block:
    """A section. `kind` is without the bit of the last section; `length` is the field as it stands there."""

    kind: int
    length: bytes
    payload: bytes
    seal: bytes = b""


@dataclass
class Layout:
    """All fields of a file; `tail` follows its end.

    The last section of `blocks` gets the bit that says so.
    """

    fields: dict[str, bytes]
    seal: bytes
    blocks: list[Block] = field(default_factory=list)
    tail: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> Layout:
        """The fields of a file; IndexError or ValueError if it is cut in an odd place."""
        fixed = {"magic": 4, "version": 1, "flags": 1, "quality": 2, "digest": 8}
        fields, place = {}, 0
        for name, size in fixed.items():
            fields[name], place = data[place : place + size], place + size
        for name in ("width", "height", "tile"):
            _, end = read_varint(data, place)
            fields[name], place = data[place:end], end
        end = place + 1 + data[place]
        fields["name"], place = data[place:end], end
        layout = cls(fields, data[place : place + 4])
        layout.tail = layout._read_blocks(data, place + 4)
        return layout

    def _read_blocks(self, data: bytes, place: int) -> bytes:
        last = False
        while not last:
            first = data[place]
            last = bool(first & LAST)
            length, start = read_varint(data, place + 1)
            stop = start + length
            self.blocks.append(
                Block(first & ~LAST, data[place + 1 : start], data[start:stop], data[stop : stop + 4])
            )
            place = stop + 4
        return data[place:]

    def copy(self) -> Layout:
        """Another layout of the same file."""
        blocks = [Block(b.kind, b.length, b.payload, b.seal) for b in self.blocks]
        return Layout(dict(self.fields), self.seal, blocks, self.tail)

    def build(self, sealed: bool = True) -> bytes:
        """The bytes; with the seals that belong to them, or with those that were read."""
        header = b"".join(self.fields.values())
        crc = zlib.crc32(header)
        out = [header, _seal(crc) if sealed else self.seal]
        for block in self.blocks:
            kind = block.kind | (LAST if block is self.blocks[-1] else 0)
            body = bytes([kind]) + block.length + block.payload
            crc = zlib.crc32(body, crc)
            out += [body, _seal(crc) if sealed else block.seal]
        return b"".join([*out, self.tail])


def block(kind: int, payload: bytes) -> Block:
    """A section with the length of its payload."""
    return Block(kind, varint(len(payload)), payload, bytes(4))


def varint(value: int) -> bytes:
    """LEB128."""
    out = b""
    while value >= 0x80:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Value and end."""
    value, shift = 0, 0
    while True:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 0x80:
            return value, place


def _seal(crc: int) -> bytes:
    return crc.to_bytes(4, "little")
