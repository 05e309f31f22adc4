"""Ways to damage a .zoo file: blindly, and field by field with the seals left wrong or made right again."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz.layout import Block, Layout, block, varint

_NUMBERS = (0, 1, 2, 15, 63, 64, 65, 127, 128, 255, 256, 2**14 - 1, 2**14, 2**20 - 1, 2**20, 2**28, 2**32 - 1)
_BROKEN_VARINTS = (b"", b"\x80\x00", b"\xff\x80\x00", b"\xff" * 5, b"\xff" * 9, b"\x80\x80\x80\x80\x10")
_EDGES = {
    "magic": (b"", b"\x89PNG", b"ZOO\x89", b"\x00\x00\x00\x00", b"\xff\xd8\xff\xe0"),
    "version": (b"", b"\x00", b"\x02", b"\xff"),
    "flags": (b"", b"\x00", b"\x01", b"\x02", b"\x03", b"\x80", b"\xff"),
    "quality": tuple(
        v.to_bytes(2, "little") for v in (0, 1, 255, 256, 257, 640, 896, 1152, 1535, 1536, 1537, 65535)
    ),
    "digest": (b"", bytes(8), b"\xff" * 8, bytes(7), bytes(9)),
    "width": tuple(map(varint, _NUMBERS)) + _BROKEN_VARINTS,
    "height": tuple(map(varint, _NUMBERS)) + _BROKEN_VARINTS,
    "tile": tuple(map(varint, _NUMBERS)) + _BROKEN_VARINTS,
    "name": tuple(bytes([len(n)]) + n for n in (b"", b"a", b"a/b", b"feds/base", b"octave/paper", b"../x"))
    + (b"\x09feds", b"\x04FEDS", b"\xff" + b"a" * 255, b"\x0eoctave-with-we", b"\x05a\n\x00\xc3\xa4"),
}
_LENGTHS = (0, 1, 4, 127, 128, 2**14, 2**21, 2**28 - 1, 2**28, 2**32 - 1)
_KINDS = (0x00, 0x01, 0x04, 0x05, 0x06, 0x07, 0x3F, 0x80, 0x81, 0x82, 0x83, 0x84, 0x87, 0xBF)
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)


def mutate(random: Random, data: bytes, donor: bytes) -> tuple[str, bytes]:
    """Name of the mutation, and the file that it makes of `data`; `donor` is another valid file."""
    if random.random() < 0.3:
        blind = random.choice(_BLIND)
        return blind.__name__, blind(random, data, donor)
    layout, other = Layout.of(data), Layout.of(donor)
    change = random.choice(_BY_FIELD)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        change(random, layout, other)
    sealed = random.random() < 0.85
    return f"{change.__name__}, {'sealed' if sealed else 'old seals'}", layout.build(sealed)


# --- blind ------------------------------------------------------------------------------------------


def flip_bits(random: Random, data: bytes, _: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def set_bytes(random: Random, data: bytes, _: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        out[random.randrange(len(out))] = random.choice((*_BYTES, random.randrange(256)))
    return bytes(out)


def truncate(random: Random, data: bytes, _: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def extend(random: Random, data: bytes, donor: bytes) -> bytes:
    return data + random.choice((b"\0", b"\xff", donor, random.randbytes(9)))


def cut_out(random: Random, data: bytes, _: bytes) -> bytes:
    start, stop = sorted(random.choices(range(len(data) + 1), k=2))
    return data[:start] + data[stop:]


def repeat(random: Random, data: bytes, _: bytes) -> bytes:
    start, stop = sorted(random.choices(range(len(data) + 1), k=2))
    return data[:stop] + data[start:]


def splice(random: Random, data: bytes, donor: bytes) -> bytes:
    return data[: random.randrange(len(data))] + donor[random.randrange(len(donor)) :]


_BLIND: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    flip_bits,
    set_bytes,
    truncate,
    extend,
    cut_out,
    repeat,
    splice,
)


# --- field by field -----------------------------------------------------------------------------------


def edge_of_header(random: Random, layout: Layout, _: Layout) -> None:
    name = random.choice(tuple(_EDGES))
    layout.fields[name] = random.choice(_EDGES[name])


def flipped_header(random: Random, layout: Layout, _: Layout) -> None:
    name = random.choice(tuple(layout.fields))
    if layout.fields[name]:
        layout.fields[name] = _damaged(random, layout.fields[name])


def field_of_another(random: Random, layout: Layout, other: Layout) -> None:
    name = random.choice(tuple(layout.fields))
    layout.fields[name] = other.fields[name]


def header_of_another(_: Random, layout: Layout, other: Layout) -> None:
    layout.fields, layout.seal = dict(other.fields), other.seal


def damaged_payload(random: Random, layout: Layout, _: Layout) -> None:
    one = _any(random, layout)
    if one is not None and one.payload:
        _replace(one, _damaged(random, one.payload))


def shorter_payload(random: Random, layout: Layout, _: Layout) -> None:
    one = _any(random, layout)
    if one is not None and one.payload:
        _replace(one, one.payload[: random.randrange(len(one.payload))])


def longer_payload(random: Random, layout: Layout, _: Layout) -> None:
    one = _any(random, layout)
    if one is not None:
        place = random.choice((0, len(one.payload), random.randint(0, len(one.payload))))
        more = random.choice((b"\0", b"\0" * 4, b"\xff" * 4, random.randbytes(5)))
        _replace(one, one.payload[:place] + more + one.payload[place:])


def payload_of_another(random: Random, layout: Layout, other: Layout) -> None:
    one = _any(random, layout)
    if one is not None:
        same = [b for b in other.blocks if b.kind == one.kind]
        _replace(one, random.choice(same or other.blocks).payload)


def edge_of_length(random: Random, layout: Layout, _: Layout) -> None:
    one = _any(random, layout)
    if one is not None:
        near = len(one.payload) + random.choice((-1, 1))
        value = random.choice((*_LENGTHS, max(near, 0)))
        one.length = random.choice((varint(value), varint(value), *_BROKEN_VARINTS))


def other_kind(random: Random, layout: Layout, _: Layout) -> None:
    one = _any(random, layout)
    if one is not None:
        one.kind = random.choice(_KINDS)


def swap_sections(random: Random, layout: Layout, _: Layout) -> None:
    random.shuffle(layout.blocks)


def double_section(random: Random, layout: Layout, _: Layout) -> None:
    one = _any(random, layout)
    if one is not None:
        copy = Block(one.kind, one.length, one.payload, one.seal)
        layout.blocks.insert(random.randint(0, len(layout.blocks)), copy)


def drop_section(random: Random, layout: Layout, _: Layout) -> None:
    if layout.blocks:
        del layout.blocks[random.randrange(len(layout.blocks))]


def section_of_another(random: Random, layout: Layout, other: Layout) -> None:
    one = random.choice(other.blocks)
    mine = {b.kind: i for i, b in enumerate(layout.blocks)}
    copy = Block(one.kind, one.length, one.payload, one.seal)
    if one.kind in mine:
        layout.blocks[mine[one.kind]] = copy
    else:
        layout.blocks = sorted([*layout.blocks, copy], key=lambda b: b.kind & 0x3F)


def unknown_section(random: Random, layout: Layout, _: Layout) -> None:
    kind = random.choice((0x07, 0x20, 0x3F, 0x87, 0xBF))
    place = random.choice((len(layout.blocks), random.randint(0, len(layout.blocks))))
    layout.blocks.insert(place, block(kind, random.randbytes(random.randrange(20))))


def tail(random: Random, layout: Layout, other: Layout) -> None:
    layout.tail = random.choice((b"\0", random.randbytes(7), other.build()))


_BY_FIELD: tuple[Callable[[Random, Layout, Layout], None], ...] = (
    edge_of_header,
    edge_of_header,
    flipped_header,
    field_of_another,
    header_of_another,
    damaged_payload,
    damaged_payload,
    damaged_payload,
    shorter_payload,
    longer_payload,
    payload_of_another,
    edge_of_length,
    other_kind,
    swap_sections,
    double_section,
    drop_section,
    section_of_another,
    unknown_section,
    tail,
)


def _any(random: Random, layout: Layout) -> Block | None:
    return random.choice(layout.blocks) if layout.blocks else None


def _replace(one: Block, payload: bytes) -> None:
    one.payload, one.length = payload, varint(len(payload))


def _damaged(random: Random, data: bytes) -> bytes:
    """Some bits or bytes changed, half of the time near the front, where lengths and checksums are."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(min(len(out), random.choice((8, len(out)))))
        out[place] = random.choice((out[place] ^ 1 << random.randrange(8), *_BYTES))
    return bytes(out)
