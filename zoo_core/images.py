"""Pictures of any origin become 8-bit pixels with their alpha and metadata, and become Pillow images again.

The models know grey and RGB with 8 bits. What fits is kept exactly: L, LA, RGB and RGBA as they are, palettes
and transparent colours expanded. What does not fit (16 bit, CMYK, animations, ...) is refused unless the
caller allows a conversion, so that nobody loses data unasked. Pixels are never rotated: EXIF stays as it is,
and with it the orientation that a viewer applies. Metadata is kept byte for byte where Pillow hands it out.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from zoo_core import constants, samples
from zoo_core.alpha import decode_alpha, encode_alpha
from zoo_core.container import MAGIC, MAX_DIMENSION
from zoo_core.errors import ImageError

if TYPE_CHECKING:
    import torch

__all__ = ["Picture", "Source", "decode_alpha", "encode_alpha", "read", "to_pil", "use_own_pixel_limit"]

Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor"

_KEPT = ("L", "LA", "RGB", "RGBA")

_CONVERTED = {
    "1": "L",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
}
"""8-bit modes that are only read with `convert=True`, and what they become."""

_EXIF_TAGS = frozenset(
    getattr(ExifTags.Base, name)
    for name in (
        ("ImageDescription", "Make", "Model", "Orientation", "XResolution", "YResolution", "ResolutionUnit")
        + ("Software", "DateTime", "Artist", "Copyright", "ExifOffset", "GPSInfo")
    )
)
"""Tags that describe the picture; a TIFF has others in the same list that describe its file."""


@dataclass(frozen=True)
class Picture:
    """A picture as the codecs take it.

    Attributes:
        pixels: (H, W, 3) RGB or (H, W) grey, uint8.
        alpha: (H, W) uint8, 255 is opaque; None if the picture has no alpha channel.
        icc: the ICC profile; None if there is none.
        exif: the EXIF block, with or without the leading "Exif" and two zeros, as it was found.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def grey(self) -> bool:
        """One channel instead of three."""
        return self.pixels.ndim == 2

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.shape[::-1]


def read(source: Source, *, convert: bool = False) -> Picture:
    """The picture that the source holds.

    Args:
        source: path; bytes or binary file object of an image file; Pillow image; array (H, W) or (H, W, C);
            tensor (C, H, W) or (1, C, H, W). C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
            Arrays and tensors hold uint8, or floats in 0..1.
        convert: bring other modes to 8-bit grey or RGB. 16-bit grey is divided by 257 and rounded; of 16-bit
            colour Pillow keeps the high byte. Modes I and F may be in 0..255 or 0..65535, F in 0..1 too.
            CMYK goes through Pillow's formula, without the profile. Of an animation or several pages the
            first is taken, of a Pillow image the current one.

    Raises:
        ImageError: the source cannot be read, is damaged, too large, or needs `convert`.
    """
    if isinstance(source, Image.Image):
        with _decoding("the image"):
            return _from_pil(source, "the image", convert)
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it
    if torch is not None and isinstance(source, torch.Tensor):
        return _from_samples(samples.of_tensor(source))
    if isinstance(source, np.ndarray):
        return _from_samples(samples.of_array(source, convert))
    with _opened(source) as (file, name), _decoding(name):
        _check_start(file, name)
        with Image.open(file) as image:
            return _from_pil(image, name, convert)


def to_pil(picture: Picture) -> Image.Image:
    """A Pillow image of mode L, LA, RGB or RGBA; `info` has its metadata as "icc_profile" and "exif"."""
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    metadata = {"icc_profile": picture.icc, "exif": picture.exif}
    image.info.update({key: value for key, value in metadata.items() if value})
    return image


def use_own_pixel_limit() -> None:
    """Take Pillow's limit of pixels away, in this whole process; `read` has one of its own, ZOO_MAX_PIXELS.

    For programs. Pillow warns from 89 million pixels on, and refuses from 179 million on.
    """
    Image.MAX_IMAGE_PIXELS = None


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[tuple[BinaryIO, str]]:
    """A seekable file, and what messages call it; the block turns its own errors into ImageError."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            with open(source, "rb") as file:
                yield (file if file.seekable() else _buffered(file)), name
        except (OSError, ValueError) as error:  # ValueError: a path with a zero in it
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{name}: {reason}: name a picture that can be read") from error
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), "the picture"
    elif hasattr(source, "read"):
        name = getattr(source, "name", None)
        yield _buffered(source), name if isinstance(name, str) else "the picture"
    else:
        raise ImageError(f"a picture cannot be read from {type(source).__name__}: give a path or an array")


def _buffered(file: Any) -> BinaryIO:
    data = file.read()
    if isinstance(data, str):
        raise ImageError("the picture's file is open as text: open it with mode 'rb'")
    return io.BytesIO(data)


def _check_start(file: BinaryIO, name: str) -> None:
    start = file.read(len(MAGIC))
    file.seek(0)
    if not start:
        raise ImageError(f"{name} is empty: give a picture")
    if start == MAGIC:
        raise ImageError(f"{name} is a .zoo file already: decode it first, or give the original picture")


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into one line."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is no picture that Pillow can read: convert it to PNG or JPEG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} has more pixels than Pillow allows: raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except Exception as error:
        # Its parsers let through what they stumble on: SyntaxError, struct.error, KeyError, zlib.error, ...
        raise ImageError(f"{name} is damaged or cut off ({error}): get the picture again") from error


def _from_pil(image: Image.Image, name: str, convert: bool) -> Picture:
    _check_size(*image.size, name)
    deep = _is_deep(image)
    _check_convertible(image, deep, name, convert)
    image.load()
    pixels, alpha = _split(_pil_samples(image, deep, name))
    return Picture(pixels, alpha, _icc(image, grey=pixels.ndim == 2), _exif(image))


def _from_samples(array: np.ndarray) -> Picture:
    height, width = array.shape[:2]
    _check_size(width, height, "the array")
    return Picture(*_split(array))


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}): give a picture of at least 1 x 1")
    if max(width, height) > MAX_DIMENSION:
        raise ImageError(f"{name} has {width} x {height} pixels, a side beyond {MAX_DIMENSION:,}: cut it")
    if width * height > constants.MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than {constants.MAX_PIXELS:,}: raise ZOO_MAX_PIXELS"
        )


def _check_convertible(image: Image.Image, deep: bool, name: str, convert: bool) -> None:
    """Refuse what would lose data, unless that is allowed."""
    way_out = "convert it yourself, or allow it with convert=True (--convert)"
    kept = image.mode in _KEPT or image.mode in ("P", "PA")
    if not convert and (deep or not kept):
        depth = " with 16 bits a channel" if deep else ""
        raise ImageError(f"{name} has mode {image.mode}{depth}, which is not kept exactly: {way_out}")
    frames = getattr(image, "n_frames", 1)
    # The further pictures of a phone's MPO are previews and depth maps of the first.
    if frames > 1 and image.format != "MPO" and not convert:
        raise ImageError(f"{name} has {frames} frames, of which only the first would be kept: {way_out}")


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel, which the mode hides for colour.

    Only the decoder's arguments tell, and only before the pixels are loaded: raw modes such as "RGB;16B"
    (but "BGR;16" has 16 bits in all), and the largest value of a PPM.
    """
    for codec, _, _, arguments in getattr(image, "tile", ()):
        values = arguments if isinstance(arguments, tuple) else (arguments,)
        if any(isinstance(value, str) and value[:-1].endswith(";16") for value in values):
            return True
        if codec == "ppm" and any(isinstance(value, int) and value > 255 for value in values):
            return True
    return False


def _pil_samples(image: Image.Image, deep: bool, name: str) -> np.ndarray:
    """The loaded image as (H, W) or (H, W, C), uint8."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        wide, transparent = deep or mode != "I", image.info.get("transparency")
        return samples.of_deep_grey(np.asarray(image), wide, transparent, name)
    if mode == "LAB":
        image = _lab_to_rgb(image)
    elif mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif mode in ("L", "RGB") and "transparency" in image.info:
        image = image.convert(mode + "A")
    elif mode not in _KEPT:
        image = image.convert(_CONVERTED[mode])
    return np.array(image)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only work in place returns nothing
    return converted


def _split(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels and alpha of (H, W) or (H, W, C); both contiguous."""
    if array.ndim == 2:
        return array, None
    channels = array.shape[2]
    pixels = array[..., 0] if channels < 3 else array[..., :3]
    alpha = np.ascontiguousarray(array[..., -1]) if channels in (2, 4) else None
    return np.ascontiguousarray(pixels), alpha


def _icc(image: Image.Image, grey: bool) -> bytes | None:
    """The profile, unless the pixels have left the colour space that it describes (bytes 16 to 20)."""
    profile = image.info.get("icc_profile") or None
    if profile is None or image.mode in _KEPT or image.mode in ("P", "PA"):
        return profile
    return profile if profile[16:20] == (b"GRAY" if grey else b"RGB ") else None


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF block of the file; else one made of what a TIFF's tags, PNG's text or XMP say."""
    if image.info.get("exif"):
        return bytes(image.info["exif"])
    found = image.getexif()
    kept = Image.Exif()
    for tag in _EXIF_TAGS & set(found):
        directory = tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
        kept[tag] = dict(found.get_ifd(tag)) if directory else found[tag]
    return kept.tobytes() if len(kept) else None
