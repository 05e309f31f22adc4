"""What may come of a damaged file: the right picture, or an error of the zoo's tree. Anything else is a failure."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.fuzz.samples import Target
from zoo_core import container, registry
from zoo_core.container import Header, Section
from zoo_core.errors import ZooError

READ, UNKNOWN = "container read", "UnknownModelError"
"""Outcomes of parsing after which a file can be decoded: the codec is given, whatever name the header has."""

RIGHT, RESTATED = "right picture", "another valid file"
"""Outcomes of a file that decodes. The second is a file whose seals were made anew for a header or an alpha plane
that says something else (another quality, another size, the same tiles in another grid), about symbols that are
proven to be the encoded ones."""


class Failure(Exception):
    """A broken promise, in one line."""


def parse(data: bytes) -> str:
    """Outcome of reading the container and of looking for its codec."""
    try:
        info = container.inspect(data)
        header, sections = container.read(data)
        registry.find(info.method, "codec")
    except ZooError as error:
        return _named(error)
    if set(info.sections) < {section.name.lower() for section in sections} or info.width != header.width:
        raise Failure("inspect and read disagree")
    return READ


def decode(target: Target, data: bytes) -> str:
    """Outcome of decoding a file with the codec of the file that it was made from."""
    try:
        image = target.codec.decode(data)
    except ZooError as error:
        return _named(error)
    return _judge(target, *container.read(data), image)


def _named(error: ZooError) -> str:
    text = str(error)
    if not text or "\n" in text or len(text) > 1000:
        raise Failure(f"the message of {type(error).__name__} is not one line: {text!r}")
    return type(error).__name__


def _judge(target: Target, header: Header, sections: dict[Section, bytes], image: Image.Image) -> str:
    """Compare a picture with what its symbols are known to mean."""
    mode = ("L" if header.grey else "RGB") + ("A" if Section.ALPHA in sections else "")
    if image.mode != mode or image.size != (header.width, header.height):
        _fail(f"{image.mode} {image.size} is not what the header says")
    samples = np.asarray(image)
    outcome = _judge_alpha(target, sections.get(Section.ALPHA), samples)
    pixels = samples[..., : len(mode) - 1] if "A" in mode else samples
    quality, tile, size, symbols = target.key(header, sections)
    if symbols not in target.symbols:
        symbols = _same_words(target, symbols)
    if not any(key[1:] == (tile, size, symbols) for key in target.pictures):
        target.lay_out(tile, size, symbols)
    known = target.pictures.get((quality, tile, size, symbols))
    if known is not None:
        expected = known[header.grey][: header.height, : header.width]
        if not np.array_equal(pixels.reshape(expected.shape), expected):
            _fail("the pixels are not those of the symbols")
        return outcome if header in target.headers else RESTATED
    if not any(key[1:] == (tile, size, symbols) for key in target.pictures):
        _fail("symbols were accepted for a picture that they are not of")
    return RESTATED  # another quality chose the same tables: the checksum proves the symbols


def _same_words(target: Target, symbols: bytes) -> bytes:
    """The known payload that this one repeats but for zero bytes at its very end."""
    found = [known for known in target.symbols if known.rstrip(b"\0") == symbols.rstrip(b"\0")]
    return found[0] if found else _fail("changed symbols were accepted")


def _judge_alpha(target: Target, payload: bytes | None, samples: np.ndarray) -> str:
    if payload is None:
        return RIGHT
    plane = samples[..., -1]
    known = target.planes.get(payload)
    if len(payload) == 1:
        known = np.full_like(plane, payload[0])
    if known is None:
        return RESTATED
    if known.shape != plane.shape or not np.array_equal(plane, known):
        _fail("the alpha plane is not the one of its bytes")
    return RIGHT


def _fail(reason: str):
    raise Failure(reason)
