"""The alpha plane as bytes, without loss: what the section ALPHA of a .zoo file holds.

Most planes hold a single value and become that one byte. Others become a lossless WebP, which is made for
such planes, or a PNG when a side is longer than WebP can express. The size is read from fixed positions of
these files before Pillow touches them: WebP's decoder allocates what a file claims as soon as it opens it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from zoo_core.errors import CorruptFileError

WEBP_MAX_SIDE = 2**14 - 1

_RIFF, _WEBP = b"RIFF", b"WEBPVP8L"
_PNG = b"\x89PNG\r\n\x1a\n"


def encode_alpha(alpha: np.ndarray) -> bytes:
    """The bytes of a plane (H, W), uint8."""
    first = alpha[0, 0]
    if (alpha == first).all():
        return bytes((first,))
    buffer = io.BytesIO()
    if max(alpha.shape) <= WEBP_MAX_SIDE:
        Image.fromarray(alpha).save(buffer, "WEBP", lossless=True)
    else:
        Image.fromarray(alpha).save(buffer, "PNG")
    return buffer.getvalue()


def decode_alpha(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The plane (H, W), uint8, of a picture with that width and height.

    Raises:
        CorruptFileError: the bytes are no plane of this size.
    """
    width, height = size
    if len(data) == 1:
        return np.full((height, width), data[0], np.uint8)
    if _claimed_size(data) != size:
        raise CorruptFileError(f"the alpha plane is not one of {width} x {height} pixels: get the file again")
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
            form, plane = (
                (image.format, image.mode),
                np.array(image.getchannel("G" if image.mode == "RGB" else 0)),
            )
    except MemoryError:
        raise
    except Exception as error:  # see zoo_core.images: Pillow's parsers let through what they stumble on
        raise CorruptFileError(f"the alpha plane cannot be decoded ({error}): get the file again") from error
    if form not in (("WEBP", "RGB"), ("PNG", "L")) or plane.shape != (height, width):
        raise CorruptFileError("the alpha plane has an unexpected form: get the file again")
    return plane


def _claimed_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP or PNG states; None for any other bytes.

    A lossless WebP packs width - 1 and height - 1 into 14 bits each from byte 21, a PNG has 4 bytes each
    from byte 16.
    """
    if data.startswith(_RIFF) and data[8:16] == _WEBP and len(data) >= 25:
        packed = int.from_bytes(data[21:25], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if data.startswith(_PNG) and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return None
