"""The .zoo container: a header and sections become bytes, and bytes that nobody vouches for are read back.

`docs/format.md` is the specification. Two rules carry the safety of everything behind this module: no
length or size from the file is used before it is compared with the limits below and with the bytes that
are there, and each CRC-32 covers all bytes of the file before it, so that no part of one file passes as a
part of another. Needs neither torch nor numpy: `inspect` answers at once.
"""

from __future__ import annotations

import codecs
import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo_core import constants
from zoo_core.errors import (
    CorruptFileError,
    LimitExceededError,
    NotAZooFileError,
    UnsupportedFileError,
    UsageError,
    ZooError,
)
from zoo_core.sealed import SealedReader, SealedWriter

MAGIC = b"\x89ZOO"
VERSION = 1

# Limits. The number of pixels is limited by constants.MAX_PIXELS.
MAX_DIMENSION = 2**20
"""Longest side in pixels. Transforms pad both sides to their stride, so that a picture of few but very long
rows would need many times the memory that its pixels suggest."""
MAX_TILE = 2**14 - 1
"""Longest side of a tile in pixels."""
MAX_SECTION = 2**28 - 1
"""Longest payload of a section in bytes."""
MAX_NAME = 63
"""Longest name of a method or preset in characters."""
MIN_QUALITY = constants.QUALITY_STEP
MAX_QUALITY = constants.QUALITY_STEP * len(constants.LAMBDAS)
"""Lowest and highest quality in the file's steps: levels 1 to 6."""

DIGEST_SIZE = 8
DEFAULT_PRESET = "base"

_GREY = 0x01
_REQUIRED, _LAST, _NUMBER = 0x80, 0x40, 0x3F
_NAME = re.compile(r"[a-z0-9-]+")


class Section(enum.IntEnum):
    """The sections of format version 1.

    The low six bits are the number by which sections are ordered. The high bit says that a reader which
    does not know the section must refuse the file; without it the section may be skipped.
    """

    SYMBOLS = _REQUIRED | 1
    CALIBRATION = _REQUIRED | 2
    ALPHA = _REQUIRED | 3
    ICC = 4
    EXIF = 5
    USER = 6


_KNOWN = frozenset(Section)


@dataclass(frozen=True)
class Header:
    """What a decoder must know before it reads the sections.

    Attributes:
        method, preset: the codec, as `zoo.load` takes them.
        digest: first 8 bytes of the SHA-256 of the weights file; zeros for a model without weights.
        quality: level times 256.
        width, height: of the picture, in pixels.
        tile: side of the square tiles in pixels; 0 if the picture was coded as a whole.
        grey: one channel instead of three.
    """

    method: str
    preset: str
    digest: bytes
    quality: int
    width: int
    height: int
    tile: int = 0
    grey: bool = False


@dataclass(frozen=True)
class Info:
    """What a file says about itself.

    Attributes:
        method, preset, digest, width, height, tile: as in `Header`.
        version: of the format.
        level: quality as users know it, 1 to 6.
        mode: L, LA, RGB or RGBA.
        file_size: bytes of the whole file.
        bpp: bits of the whole file per pixel.
        sections: payload bytes of each section by name; a section of a newer version is "unknown-" and its
            number.
    """

    method: str
    preset: str
    digest: bytes
    version: int
    level: float
    width: int
    height: int
    mode: str
    tile: int
    file_size: int
    bpp: float
    sections: dict[str, int]

    @property
    def overhead(self) -> int:
        """Bytes beyond the payloads."""
        return self.file_size - sum(self.sections.values())

    def to_dict(self) -> dict[str, Any]:
        """The fields and the overhead as JSON can hold them, the digest in hex."""
        return asdict(self) | {"digest": self.digest.hex(), "overhead": self.overhead}


def write(header: Header, sections: Mapping[Section, bytes]) -> bytes:
    """The bytes of a file.

    Args:
        header: goes first.
        sections: payloads, in any order; `Section.SYMBOLS` must be there.

    Raises:
        UsageError: a field of the header has a value that the format cannot express, or there are no symbols.
        LimitExceededError: the picture or a payload is larger than the limits.
    """
    _check_header(header, UsageError)
    if Section.SYMBOLS not in sections:
        raise UsageError("a .zoo file needs the section symbols: give it, even if it is empty")
    out = SealedWriter()
    _write_header(out, header)
    ordered = sorted(sections, key=_number)
    for kind in ordered:
        _write_section(out, kind, sections[kind], last=kind == ordered[-1])
    return bytes(out.data)


def read(data: bytes) -> tuple[Header, dict[Section, bytes]]:
    """The header and the payloads of the known sections; every byte of the file has been checked.

    Raises:
        NotAZooFileError: empty, or another format.
        TruncatedFileError: the data ends too early.
        CorruptFileError: a checksum does not fit, or a field has an impossible value.
        LimitExceededError: the file asks for more than the limits of this module.
        UnsupportedFileError: another format version, or an unknown section that must be understood.
    """
    header, found = _parse(data)
    known = {Section(kind): bytes(payload) for kind, payload in found if _is_known(kind)}
    return header, known


def inspect(data: bytes) -> Info:
    """What the file says about itself, after the same checks as `read`; no payload is copied or decoded."""
    header, found = _parse(data)
    size = len(data)
    return Info(
        method=header.method,
        preset=header.preset,
        digest=header.digest,
        version=VERSION,
        level=header.quality / constants.QUALITY_STEP,
        width=header.width,
        height=header.height,
        mode=("L" if header.grey else "RGB") + ("A" if Section.ALPHA in dict(found) else ""),
        tile=header.tile,
        file_size=size,
        bpp=8 * size / (header.width * header.height),
        sections={_title(kind): len(payload) for kind, payload in found},
    )


def _write_header(out: SealedWriter, header: Header) -> None:
    """Both sides are at least 1 and stored less one; that keeps a side of 16384 in two bytes."""
    name = header.method if header.preset == DEFAULT_PRESET else f"{header.method}/{header.preset}"
    out.put(MAGIC)
    out.put_byte(VERSION)
    out.put_byte(_GREY if header.grey else 0)
    out.put(header.quality.to_bytes(2, "little"))
    out.put(header.digest)
    for value in (header.width - 1, header.height - 1, header.tile):
        out.put_varint(value)
    out.put_byte(len(name))
    out.put(name.encode("ascii"))
    out.seal()


def _write_section(out: SealedWriter, kind: Section, payload: bytes, last: bool) -> None:
    _check_payload(kind, len(payload))
    out.put_byte(kind | (_LAST if last else 0))
    out.put_varint(len(payload))
    out.put(payload)
    out.seal()


def _parse(data: bytes) -> tuple[Header, list[tuple[int, memoryview]]]:
    """The header, and kind and payload of each section, as views into the data."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(f"a .zoo file is read from its bytes, not from {type(data).__name__}: read it first")
    source = SealedReader(memoryview(data).cast("B"))
    header = _read_header(source)
    sections = list(_read_sections(source))
    if Section.SYMBOLS not in dict(sections):
        raise CorruptFileError("the file has no section symbols: get it again")
    return header, sections


def _read_header(source: SealedReader) -> Header:
    _check_magic(source)
    version, flags = source.byte("header"), source.byte("header")
    if version != VERSION:
        raise UnsupportedFileError(
            f"the file has format version {version}, but this zoo reads version {VERSION}: update zoo-core"
        )
    quality = int.from_bytes(source.take(2, "header"), "little")
    digest = bytes(source.take(DIGEST_SIZE, "header"))
    width, height, tile = source.varint("header") + 1, source.varint("header") + 1, source.varint("header")
    name = bytes(source.take(source.byte("header"), "header"))
    source.check_seal("header")
    if flags & ~_GREY:
        raise UnsupportedFileError(f"the file has flags {flags:#04x} of a newer format: update zoo-core")
    method, preset = _split_name(name)
    header = Header(method, preset, digest, quality, width, height, tile, grey=bool(flags & _GREY))
    _check_header(header, CorruptFileError)
    return header


def _split_name(name: bytes) -> tuple[str, str]:
    """Method and preset; the preset "base" is implied, never spelled."""
    method, slash, preset = name.decode("latin-1").partition("/")
    if slash and preset == DEFAULT_PRESET:
        raise CorruptFileError(f"the header spells out the implied preset {preset!r}: get the file again")
    return method, preset if slash else DEFAULT_PRESET


def _read_sections(source: SealedReader) -> Iterator[tuple[int, memoryview]]:
    """Kind without the last-bit, and payload, of each section up to the end of the data."""
    previous, last = 0, False
    while not last:
        first = source.byte("list of sections")
        kind, last = first & ~_LAST, bool(first & _LAST)
        payload = _read_payload(source, kind)
        if _number(kind) <= previous:
            raise CorruptFileError(f"section {_title(kind)} is doubled or out of place: get the file again")
        if kind & _REQUIRED and not _is_known(kind):
            raise UnsupportedFileError(
                f"the file needs section number {_number(kind)} of a newer format: update zoo-core"
            )
        previous = _number(kind)
        yield kind, payload
    if source.left:
        raise CorruptFileError(f"{source.left:,} bytes follow the end of the file: get it again")


def _read_payload(source: SealedReader, kind: int) -> memoryview:
    place = f"section {_title(kind)}"
    length = source.varint(place)
    _check_payload(kind, length)
    payload = source.take(length, place)
    source.check_seal(place)
    return payload


def _check_header(header: Header, invalid: type[ZooError]) -> None:
    """Raise `invalid` for an impossible value and LimitExceededError for a picture that is too large."""
    for what, name in (("method", header.method), ("preset", header.preset)):
        if len(name) > MAX_NAME or not _NAME.fullmatch(name):
            raise invalid(f"{what} {name!r} is no name: 1 to {MAX_NAME} characters of a-z, 0-9 and - are")
    if len(header.digest) != DIGEST_SIZE:
        raise invalid(f"the digest of the weights has {len(header.digest)} bytes: it needs {DIGEST_SIZE}")
    if not MIN_QUALITY <= header.quality <= MAX_QUALITY:
        level = header.quality / constants.QUALITY_STEP
        raise invalid(f"quality level {level:g} is outside 1 to {len(constants.LAMBDAS)}")
    if not 0 <= header.tile <= MAX_TILE:
        raise invalid(f"tiles of {header.tile} pixels are outside 0 to {MAX_TILE}")
    if min(header.width, header.height) < 1:
        raise invalid(f"a picture of {_size(header)} has no pixels")
    if max(header.width, header.height) > MAX_DIMENSION:
        raise LimitExceededError(
            f"a picture of {_size(header)} has a side beyond the limit of {MAX_DIMENSION:,}: the file is damaged "
            "or made to do harm, get it from where it was written"
        )
    if header.width * header.height > constants.MAX_PIXELS:
        raise LimitExceededError(
            f"a picture of {_size(header)} is beyond the limit of {constants.MAX_PIXELS:,} pixels: "
            "raise ZOO_MAX_PIXELS if you trust it"
        )


def _check_payload(kind: int, length: int) -> None:
    if length > MAX_SECTION:
        raise LimitExceededError(
            f"section {_title(kind)} has {length:,} bytes, beyond the limit of {MAX_SECTION:,}: what it holds is "
            "too large, or the file is damaged"
        )


def _check_magic(source: SealedReader) -> None:
    """Step over the magic number; a cut one is a truncated file, any other start is another format."""
    start = bytes(source.data[: len(MAGIC)])
    if start != MAGIC and (not start or not MAGIC.startswith(start)):
        found = _describe(bytes(source.data[:64]))
        raise NotAZooFileError(f"this is {found}, not a .zoo file: give one that zoo encode wrote")
    source.take(len(MAGIC), "header")


_FORMATS = (
    (0, b"\xff\xd8\xff", "a JPEG"),
    (0, b"\x89PNG", "a PNG"),
    (0, b"GIF8", "a GIF"),
    (8, b"WEBP", "a WebP"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypheic", "a HEIC"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (4, b"JXL \r\n", "a JPEG XL"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a ZIP archive"),
)


def _describe(start: bytes) -> str:
    """What a foreign file is, judged by its first bytes."""
    if not start:
        return "an empty file"
    for offset, signature, name in _FORMATS:
        if start[offset : offset + len(signature)] == signature:
            return name
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return "an unknown format"
    printable = all(character.isprintable() or character.isspace() for character in text)
    return "text" if printable else "an unknown format"


def _number(kind: int) -> int:
    return kind & _NUMBER


def _is_known(kind: int) -> bool:
    return kind in _KNOWN


def _title(kind: int) -> str:
    return Section(kind).name.lower() if _is_known(kind) else f"unknown-{_number(kind)}"


def _size(header: Header) -> str:
    return f"{header.width} x {header.height} pixels"
