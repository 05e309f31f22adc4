"""The .zoo container: exact round trips, and nothing but errors of our tree for every other file.

The files are built here a second time, field by field (`Fields`), so that any field can be made absurd with
all checksums right.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_core import constants, container
from zoo_core.container import Header, Section
from zoo_core.errors import (
    CorruptFileError,
    FileError,
    LimitExceededError,
    NotAZooFileError,
    TruncatedFileError,
    UnsupportedFileError,
    UsageError,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "format.md"

HEADER = Header("weconvene", "base", bytes.fromhex("a1b2c3d4e5f60718"), 896, 768, 512)
SECTIONS = {
    Section.SYMBOLS: bytes.fromhex("0011223344556677"),
    Section.ALPHA: b"\xff",
    Section.USER: b"hello",
}
SMALL = container.write(HEADER, SECTIONS)


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


@dataclass(frozen=True)
class Fields:
    """The file SMALL, field by field; `sections` are kind with the last-bit, length field and payload."""

    magic: bytes = b"\x89ZOO"
    version: bytes = b"\x01"
    flags: bytes = b"\x00"
    quality: bytes = b"\x80\x03"
    digest: bytes = HEADER.digest
    width: bytes = varint(767)
    height: bytes = varint(511)
    tile: bytes = varint(0)
    name: bytes = b"\x09weconvene"
    sections: tuple[tuple[int, bytes, bytes], ...] = (
        (0x81, varint(8), SECTIONS[Section.SYMBOLS]),
        (0x83, varint(1), b"\xff"),
        (0x46, varint(5), b"hello"),
    )
    tail: bytes = b""

    def build(self) -> bytes:
        header = self.magic + self.version + self.flags + self.quality + self.digest
        header += self.width + self.height + self.tile + self.name
        covered, out = header, header + zlib.crc32(header).to_bytes(4, "little")
        for kind, length, payload in self.sections:
            body = bytes([kind]) + length + payload
            covered += body
            out += body + zlib.crc32(covered).to_bytes(4, "little")
        return out + self.tail


def with_sections(*sections: tuple[int, bytes]) -> bytes:
    """A file with the header of SMALL and these kinds and payloads."""
    return replace(Fields(), sections=tuple((k, varint(len(p)), p) for k, p in sections)).build()


# --- what is written is read ------------------------------------------------------------------------

names = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
headers = st.builds(
    Header,
    method=names,
    preset=st.one_of(st.just("base"), names),
    digest=st.binary(min_size=8, max_size=8),
    quality=st.integers(256, 1536),
    width=st.one_of(st.integers(1, 300), st.integers(1, 2**14)),
    height=st.integers(1, 2**14),
    tile=st.integers(0, container.MAX_TILE),
    grey=st.booleans(),
)
payloads = st.dictionaries(st.sampled_from(Section), st.binary(max_size=300)).map(
    lambda sections: {Section.SYMBOLS: b"", **sections}
)


@settings(deadline=None, max_examples=300)
@given(headers, payloads)
def test_round_trip(header: Header, sections: dict[Section, bytes]) -> None:
    data = container.write(header, sections)
    assert container.read(data) == (header, sections)
    assert container.write(header, dict(reversed(sections.items()))) == data, (
        "bytes depend on the order given"
    )


def test_the_second_writer_agrees() -> None:
    assert Fields().build() == SMALL


@pytest.mark.parametrize("side", [1, 2, 127, 128, 129, 2**14, 2**14 + 1, 2**20])
def test_every_length_of_a_side(side: int) -> None:
    for width, height in ((side, 1), (1, side)):
        header = replace(HEADER, width=width, height=height)
        assert container.read(container.write(header, SECTIONS))[0] == header


def test_bytearray_and_memoryview_are_read() -> None:
    assert container.read(bytearray(SMALL)) == container.read(memoryview(SMALL)) == (HEADER, SECTIONS)


@pytest.mark.parametrize(
    "size", [(768, 512), (6000, 4000), (2**14, 2**14), (2**14 + 1, 2**14 - 1), (2**20, 256)]
)
@pytest.mark.parametrize(("symbols", "limit"), [(1000, 58), (2**21 - 1, 58), (2**21, 59)])
def test_overhead_with_the_longest_name(size: tuple[int, int], symbols: int, limit: int) -> None:
    header = Header("deformable-checkerboard", "base", b"12345678", 768, *size, tile=container.MAX_TILE)
    info = container.inspect(container.write(header, {Section.SYMBOLS: bytes(symbols)}))
    unusual = max(size) > 2**14  # a side of three bytes
    assert info.overhead <= limit + unusual
    assert info.overhead == info.file_size - symbols


def test_no_length_takes_more_than_four_bytes() -> None:
    """So 60 bytes are enough for every file of symbols alone, however long they are."""
    assert len(varint(container.MAX_SECTION)) == 4


# --- what a file says about itself ------------------------------------------------------------------


def test_inspect() -> None:
    info = container.inspect(SMALL)
    assert (info.method, info.preset, info.digest) == ("weconvene", "base", HEADER.digest)
    assert (info.version, info.level, info.mode, info.tile) == (1, 3.5, "RGBA", 0)
    assert (info.width, info.height, info.file_size) == (768, 512, 67)
    assert info.bpp == 67 * 8 / (768 * 512)
    assert info.sections == {"symbols": 8, "alpha": 1, "user": 5}
    assert info.overhead == 67 - 14


def test_inspect_as_json() -> None:
    facts = json.loads(json.dumps(container.inspect(SMALL).to_dict()))
    assert facts["digest"] == "a1b2c3d4e5f60718"
    assert facts["sections"] == {"symbols": 8, "alpha": 1, "user": 5}
    assert facts["overhead"] == 53


@pytest.mark.parametrize(
    ("grey", "alpha", "mode"),
    [(True, False, "L"), (True, True, "LA"), (False, False, "RGB"), (False, True, "RGBA")],
)
def test_mode(grey: bool, alpha: bool, mode: str) -> None:
    sections = {Section.SYMBOLS: b""} | ({Section.ALPHA: b"\xff"} if alpha else {})
    assert container.inspect(container.write(replace(HEADER, grey=grey), sections)).mode == mode


def test_imports_nothing_heavy() -> None:
    code = "import sys, zoo_core.container; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the specification ------------------------------------------------------------------------------


def test_the_worked_example_of_the_specification() -> None:
    dump = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)$", DOCUMENT.read_text(), re.MULTILINE)
    data = bytes.fromhex("".join(dump))
    assert data == SMALL
    assert container.read(data) == (HEADER, SECTIONS)


def test_the_rows_of_the_worked_example_make_up_the_file() -> None:
    rows = re.findall(r"^\| ([0-9a-f]{2}) \| `([0-9a-f ]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    for offset, piece in rows:
        start, piece = int(offset, 16), bytes.fromhex(piece)
        assert SMALL[start : start + len(piece)] == piece, f"row {offset}"
    assert sum(len(bytes.fromhex(piece)) for _, piece in rows) == len(SMALL)


def test_the_specification_states_the_limits_and_kinds_of_the_code() -> None:
    text = DOCUMENT.read_text()
    for section in Section:
        assert f"| {section:#04x} | {section.name.lower()}" in text
    limits = (container.MAX_DIMENSION, container.MAX_TILE, container.MAX_SECTION, container.MAX_NAME)
    assert limits == (2**20, 16383, 2**28 - 1, 63)
    for stated in ("1 to 2^20", "| 16383 |", "2^28 - 1 bytes", "63 characters each"):
        assert stated in text


# --- damage -----------------------------------------------------------------------------------------


def test_truncation_at_every_byte() -> None:
    for length in range(1, len(SMALL)):
        with pytest.raises(TruncatedFileError, match=f"ends after {length} bytes"):
            container.read(SMALL[:length])


def test_every_flipped_bit_is_noticed() -> None:
    for position in range(len(SMALL) * 8):
        damaged = bytearray(SMALL)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FileError):
            container.read(damaged)


def test_every_value_of_every_byte_is_noticed() -> None:
    for position, original in enumerate(SMALL):
        for value in set(range(256)) - {original}:
            damaged = bytearray(SMALL)
            damaged[position] = value
            with pytest.raises(FileError):
                container.inspect(damaged)


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """Header and sections with their seals, cut at the places that `inspect` knows."""
    sizes = [1 + len(varint(n)) + n + 4 for n in container.inspect(data).sections.values()]
    start = len(data) - sum(sizes)
    header, cuts = data[:start], []
    for size in sizes:
        cuts.append(data[start : start + size])
        start += size
    return header, cuts


OTHER = container.write(replace(HEADER, width=640), {kind: data[::-1] for kind, data in SECTIONS.items()})
SIBLING = container.write(HEADER, {kind: bytes(len(data)) for kind, data in SECTIONS.items()})


@pytest.mark.parametrize("donor", [OTHER, SIBLING], ids=["another header", "the same header"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_section_of_another_file(donor: bytes, place: int) -> None:
    header, sections = pieces(SMALL)
    sections[place] = pieces(donor)[1][place]
    with pytest.raises(CorruptFileError, match="checksum"):
        container.read(header + b"".join(sections))


def test_the_header_of_another_file() -> None:
    with pytest.raises(CorruptFileError, match="checksum of the section symbols"):
        container.read(pieces(OTHER)[0] + b"".join(pieces(SMALL)[1]))


@pytest.mark.parametrize(
    "order", [(1, 0, 2), (0, 2, 1), (0, 0, 1, 2), (0, 1, 1, 2), (0, 1, 2, 2), (1, 2), (0, 2), (2,)]
)
def test_sections_swapped_doubled_and_dropped(order: Sequence[int]) -> None:
    header, sections = pieces(SMALL)
    with pytest.raises(CorruptFileError):
        container.read(header + b"".join(sections[index] for index in order))


@pytest.mark.parametrize("tail", [b"\0", SMALL, pieces(SMALL)[1][-1]])
def test_trailing_bytes(tail: bytes) -> None:
    with pytest.raises(CorruptFileError, match="follow the end"):
        container.read(SMALL + tail)


# --- well-sealed nonsense ---------------------------------------------------------------------------

ABSURD = {
    "version 0": ({"version": b"\0"}, UnsupportedFileError, "version 0"),
    "version 2": ({"version": b"\2"}, UnsupportedFileError, "version 2, but this zoo reads version 1"),
    "flags": ({"flags": b"\x03"}, UnsupportedFileError, "flags 0x03"),
    "quality 0": ({"quality": b"\0\0"}, CorruptFileError, "level 0 is outside 1 to 6"),
    "quality below": ({"quality": b"\xff\0"}, CorruptFileError, "outside 1 to 6"),
    "quality above": ({"quality": b"\x01\x06"}, CorruptFileError, "outside 1 to 6"),
    "2^31 x 2^31": (
        {"width": varint(2**31 - 1), "height": varint(2**31 - 1)},
        LimitExceededError,
        "2147483648 x 2147483648",
    ),
    "2^32 x 1": ({"width": varint(2**32 - 1), "height": varint(0)}, LimitExceededError, "4294967296 x 1"),
    "long side": ({"width": varint(2**20), "height": varint(0)}, LimitExceededError, "1048577 x 1"),
    "pixels": ({"width": varint(2**14), "height": varint(2**14 - 1)}, LimitExceededError, "16385 x 16384"),
    "padded varint": ({"width": b"\xff\x85\x00"}, CorruptFileError, "malformed number"),
    "padded zero": ({"tile": b"\x80\x00"}, CorruptFileError, "malformed number"),
    "varint of 2^32": ({"width": b"\x80\x80\x80\x80\x10"}, CorruptFileError, "malformed number"),
    "endless varint": ({"height": b"\xff" * 9}, CorruptFileError, "malformed number"),
    "tile": ({"tile": varint(2**14)}, CorruptFileError, "tiles of 16384"),
    "no name": ({"name": b"\0"}, CorruptFileError, "method ''"),
    "long name": ({"name": b"\x40" + b"a" * 64}, CorruptFileError, "1 to 63 characters"),
    "capitals": ({"name": b"\x03ABC"}, CorruptFileError, "method 'ABC'"),
    "path": ({"name": b"\x09../secret"}, CorruptFileError, "method '..'"),
    "not ASCII": ({"name": b"\x02\xc3\xa4"}, CorruptFileError, "is no name"),
    "newline": ({"name": b"\x04abc\n"}, CorruptFileError, r"'abc\\n'"),
    "two slashes": ({"name": b"\x05a/b/c"}, CorruptFileError, "preset 'b/c'"),
    "empty preset": ({"name": b"\x02a/"}, CorruptFileError, "preset ''"),
    "spelled preset": ({"name": b"\x06a/base"}, CorruptFileError, "implied preset"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_header(case: str) -> None:
    fields, error, message = ABSURD[case]
    with pytest.raises(error, match=message) as caught:
        container.read(replace(Fields(), **fields).build())
    assert "\n" not in str(caught.value)


def test_the_largest_header_within_the_limits_is_read() -> None:
    fields = replace(Fields(), width=varint(2**14 - 1), height=varint(2**14 - 1), quality=b"\0\x06")
    header, _ = container.read(fields.build())
    assert (header.width, header.height, header.quality) == (2**14, 2**14, 1536)


def test_the_limit_of_pixels_is_the_one_of_the_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "MAX_PIXELS", 768 * 512 - 1)
    with pytest.raises(LimitExceededError, match="ZOO_MAX_PIXELS"):
        container.read(SMALL)


def test_unknown_optional_sections_are_skipped() -> None:
    data = with_sections((0x81, b"abc"), (0x06, b"hello"), (0x3F | 0x40, b"from the future"))
    assert container.read(data)[1] == {Section.SYMBOLS: b"abc", Section.USER: b"hello"}
    assert container.inspect(data).sections == {"symbols": 3, "user": 5, "unknown-63": 15}


def test_an_unknown_optional_section_is_checked_all_the_same() -> None:
    data = bytearray(with_sections((0x81, b"abc"), (0x60, b"from the future")))
    data[-8] ^= 1
    with pytest.raises(CorruptFileError, match="unknown-32"):
        container.read(data)


@pytest.mark.parametrize("kind", [0x84, 0x87, 0xBF])
def test_unknown_required_sections_are_refused(kind: int) -> None:
    with pytest.raises(UnsupportedFileError, match=f"section number {kind & 0x3F}.*update zoo-core"):
        container.read(with_sections((0x81, b"abc"), (kind | 0x40, b"")))


@pytest.mark.parametrize(
    "kinds",
    [
        (0x81, 0x81 | 0x40),
        (0x81, 0x04, 0x04 | 0x40),
        (0x81, 0x04, 0x84 | 0x40),  # one number with and without the bit "required"
        (0x83, 0x81 | 0x40),
        (0x81, 0x06, 0x05 | 0x40),
        (0x81, 0x40),  # number 0
    ],
)
def test_sections_out_of_order_or_doubled(kinds: Sequence[int]) -> None:
    with pytest.raises(CorruptFileError, match="doubled or out of place"):
        container.read(with_sections(*((kind, b"") for kind in kinds)))


@pytest.mark.parametrize("kind", [0x82, 0x83, 0x06, 0x01])
def test_a_file_without_symbols(kind: int) -> None:
    with pytest.raises(CorruptFileError, match="no section symbols"):
        container.read(with_sections((kind | 0x40, b"abc")))


def test_a_file_without_sections() -> None:
    with pytest.raises(TruncatedFileError):
        container.read(replace(Fields(), sections=()).build())


@pytest.mark.parametrize(
    ("length", "error"),
    [
        (varint(container.MAX_SECTION), TruncatedFileError),
        (varint(container.MAX_SECTION + 1), LimitExceededError),
        (varint(2**32 - 1), LimitExceededError),
        (b"\x88\x00", CorruptFileError),
        (b"\xff" * 8, CorruptFileError),
    ],
)
def test_absurd_lengths_of_a_section(length: bytes, error: type[FileError]) -> None:
    data = replace(Fields(), sections=((0xC1, length, b"12345678"),)).build()
    tracemalloc.start()
    try:
        with pytest.raises(error):
            container.read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


# --- mutations --------------------------------------------------------------------------------------


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three random edits: bits, bytes, deletions, insertions, copies within the file."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start, count = rng.randrange(len(out)), rng.randint(1, 6)
        edits = (
            lambda s, c: out.__setitem__(s, out[s] ^ 1 << rng.randrange(8)),
            lambda s, c: out.__setitem__(slice(s, s + c), rng.randbytes(c)),
            lambda s, c: out.__delitem__(slice(s, min(s + c, len(out) - 1))),
            lambda s, c: out.__setitem__(slice(s, s), rng.randbytes(c)),
            lambda s, c: out.__setitem__(slice(s, s), out[:c]),
        )
        rng.choice(edits)(start, count)
    return bytes(out)


def test_random_mutations() -> None:
    rng = random.Random(1)
    for _ in range(6000):
        data = mutate(SMALL, rng)
        if data != SMALL:
            with pytest.raises(FileError):
                container.read(data)


def test_random_mutations_of_sealed_fields() -> None:
    """With right checksums a file may be valid; then its content is what was written, byte for byte."""
    rng = random.Random(2)
    fields = ("version", "flags", "quality", "digest", "width", "height", "tile", "name")
    accepted = 0
    for _ in range(4000):
        original = Fields()
        field = rng.choice(fields)
        data = replace(original, **{field: mutate(getattr(original, field), rng)}).build()
        try:
            header, sections = container.read(data)
        except FileError:
            continue
        assert container.write(header, sections) == data
        accepted += 1
    assert accepted > 500, "too few mutations pass the checks to say anything"


def test_memory_of_a_parse() -> None:
    """One copy of the payloads in `read`, none in `inspect`."""
    size = 4_000_000
    data = container.write(HEADER, {Section.SYMBOLS: bytes(size), Section.USER: bytes(size)})
    for parse, limit in ((container.read, 2 * size + 100_000), (container.inspect, 100_000)):
        tracemalloc.start()
        try:
            parse(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < limit


# --- other formats and wrong arguments --------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG"),
        (b"RIFF\x24\0\0\0WEBPVP8L", "a WebP"),
        (b"GIF89a\x01\0\x01\0", "a GIF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"<html>\n<title>404 Not Found</title>", "text"),
        ("ä".encode() * 40, "text"),
        (("a" + "ä" * 40).encode(), "text"),  # the part that is looked at ends within a character
        (b"\x89ZIP", "an unknown format"),
        (bytes(100), "an unknown format"),
        (b"\x09ZOO\x01\0", "an unknown format"),
    ],
)
def test_other_formats_are_named(data: bytes, what: str) -> None:
    with pytest.raises(NotAZooFileError, match=f"this is {what}, not a .zoo file"):
        container.read(data)


@pytest.mark.parametrize("wrong", ["photo.zoo", Path("photo.zoo"), None, 5])
def test_only_bytes_are_read(wrong: object) -> None:
    with pytest.raises(UsageError, match="bytes"):
        container.inspect(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"method": ""},
        {"method": "WeConvene"},
        {"method": "a" * 64},
        {"preset": "a/b"},
        {"preset": ""},
        {"digest": b"1234567"},
        {"quality": 255},
        {"quality": 1537},
        {"width": 0},
        {"height": -1},
        {"tile": -1},
        {"tile": 2**14},
    ],
)
def test_a_header_that_cannot_be_written(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        container.write(replace(HEADER, **change), SECTIONS)


def test_a_picture_too_large_to_write() -> None:
    for size in ({"width": 2**20 + 1}, {"width": 2**14 + 1, "height": 2**14}):
        with pytest.raises(LimitExceededError):
            container.write(replace(HEADER, **size), SECTIONS)


def test_a_section_too_large_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_SECTION", 4)
    with pytest.raises(LimitExceededError, match="section user has 5 bytes"):
        container.write(HEADER, {Section.SYMBOLS: b"1234", Section.USER: b"12345"})


def test_symbols_must_be_written() -> None:
    with pytest.raises(UsageError, match="symbols"):
        container.write(HEADER, {Section.USER: b"hello"})
