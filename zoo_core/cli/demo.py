"""`zoo demo`: one real photo through a codec and back, with figures and a picture to judge by eye."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo_core.cli import files, options
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

FOLDER = Path("demo")

_FINEST_JPEG = 100
"""Pillow's largest JPEG quality that still quantises as the format intends."""


@dataclass(frozen=True)
class Result:
    """A compressed picture and what it costs.

    Attributes:
        name: of the method.
        size: bytes of the compressed file.
        picture: RGB, decoded.
        bpp: bits per pixel of the whole file.
        psnr: dB over RGB.
        ms_ssim: linear, 1 is identical.
    """

    name: str
    size: int
    picture: Image
    bpp: float
    psnr: float
    ms_ssim: float

    @classmethod
    def of(cls, name: str, data: bytes, picture: Image, original: Image) -> Result:
        """Measure a decoded picture against the original."""
        import numpy as np

        from zoo_core.evaluation.metrics import ms_ssim, psnr

        a, b = np.asarray(original), np.asarray(picture)
        bpp = 8 * len(data) / (original.width * original.height)
        return cls(name, len(data), picture, bpp, psnr(a, b), ms_ssim(a, b))

    @property
    def label(self) -> tuple[str, str, str]:
        """Lines above the picture."""
        quality = f"PSNR {self.psnr:.2f} dB, MS-SSIM {self.ms_ssim:.4f}"
        return self.name, f"{self.size:,} bytes, {self.bpp:.3f} bpp", quality


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("photo", nargs="?", type=Path, help="photo (default: the one matplotlib ships)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PNG",
        help=f"picture to draw (default: {FOLDER}/PHOTO-comparison.png); the .zoo file lands beside it",
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite the file named by -o")
    options.add_model(parser)
    options.add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Compress, decompress, print the figures, draw the sheet; return the exit code."""
    photo = args.photo or sample_photo()
    sheet = args.output or FOLDER / f"{photo.stem}-comparison.png"
    if args.output:
        _check_output(sheet, args.force)
    original = _read_rgb(photo)
    print(f"{photo}: {original.width}x{original.height} pixels, {photo.stat().st_size:,} bytes")
    data, ours = _ours(args, photo, original)
    jpeg = jpeg_of_size(original, len(data))
    _print_table([ours, jpeg])
    _write(sheet, data, original, [jpeg, ours])
    return 0


def _check_output(sheet: Path, force: bool) -> None:
    if sheet.suffix.lower() != ".png":
        raise UsageError(f"{sheet}: the comparison is a PNG picture, give -o a name that ends in .png")
    for path in (sheet, sheet.with_suffix(".zoo")):
        if path.exists() and not force:
            raise UsageError(f"{path} exists: overwrite it with -f, or choose another file with -o")


def sample_photo() -> Path:
    """The real photograph in matplotlib's sample data, a portrait of Grace Hopper.

    Raises:
        UsageError: matplotlib or its sample data is not installed.
    """
    try:
        import matplotlib.cbook

        photo = Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    except ImportError:
        photo = Path()
    if not photo.is_file():
        raise UsageError("matplotlib's sample photo is not installed: name a photo, zoo demo PHOTO")
    return photo


def jpeg_of_size(original: Image, size: int) -> Result:
    """JPEG 4:4:4 at the lowest quality that takes at least `size` bytes: the doubt is to JPEG's benefit."""
    low, high = 1, _FINEST_JPEG
    while low < high:
        middle = (low + high) // 2
        if len(_jpeg(original, middle)) < size:
            low = middle + 1
        else:
            high = middle
    data = _jpeg(original, low)
    return Result.of(f"JPEG 4:4:4, quality {low}", data, _open_rgb(data), original)


def _jpeg(picture: Image, quality: int) -> bytes:
    """JPEG 4:4:4 with optimised tables, for which Pillow needs the whole file in one buffer."""
    from PIL import ImageFile

    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, 4 * picture.width * picture.height)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()


def _open_rgb(data: bytes) -> Image:
    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def _read_rgb(photo: Path) -> Image:
    """The pixels as the codec sees them."""
    from zoo_core import images

    return images.to_pil(images.read(photo, convert=True)).convert("RGB")


def _ours(args: argparse.Namespace, photo: Path, original: Image) -> tuple[bytes, Result]:
    """Encode and decode with the zoo, and print the times."""
    loading, codec = _timed(lambda: options.load_codec(args))
    encoding, data = _timed(lambda: codec.encode(photo, convert=True))
    decoding, picture = _timed(lambda: codec.decode(data))
    name = f"{codec.entry.name}-q{codec.quality:g}"
    print(f"{name}: loaded in {loading:.2f} s, encoded in {encoding:.2f} s, decoded in {decoding:.2f} s")
    return data, Result.of(name, data, picture.convert("RGB"), original)


def _timed(function: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def _print_table(results: list[Result]) -> None:
    print(f"{'':24} {'bytes':>10} {'bpp':>7} {'PSNR dB':>8} {'MS-SSIM':>8}")
    for r in results:
        print(f"{r.name:24} {r.size:>10,} {r.bpp:>7.3f} {r.psnr:>8.2f} {r.ms_ssim:>8.4f}")


def _write(sheet: Path, data: bytes, original: Image, results: list[Result]) -> None:
    """The .zoo file and the sheet of pictures."""
    from zoo_core.cli.comparison import side_by_side

    size = f"{original.width}x{original.height} pixels"
    columns = [(("original", size, ""), original), *((r.label, r.picture) for r in results)]
    with files.writing(sheet.with_suffix(".zoo")) as file:
        file.write(data)
    with files.writing(sheet) as file:
        side_by_side(columns).save(file, "PNG")
    print(f"wrote {sheet.with_suffix('.zoo')} and {sheet}")
