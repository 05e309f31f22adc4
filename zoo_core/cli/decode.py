"""`zoo decode`: .zoo files in, pictures of any format that Pillow writes out."""

from __future__ import annotations

import argparse
import io
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from zoo_core.cli import batch, files, options, resume
from zoo_core.cli.encode import deliver
from zoo_core.cli.workers import Done, Task, Work
from zoo_core.constants import PRECISIONS
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_FORMAT = "png"

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},  # a second lossy step: keep it out of sight
    "WEBP": {"lossless": True},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    options.add_files(parser, ".zoo files", "the input's name, ending in .png")
    parser.add_argument(
        "--format",
        metavar="NAME",
        help=f"png, jpg, webp, tiff, ... (default: by the ending of -o, else {DEFAULT_FORMAT})",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of the synthesis: fp32, bf16, or auto, which is bf16 where that is faster (default: %(default)s)",
    )
    options.add_resume(parser)
    options.add_workers(parser)
    options.add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Decode every input and return the exit code."""
    ending = "." + (args.format or DEFAULT_FORMAT).lower().lstrip(".")
    rename = partial(decoded_name, ending=ending)
    earlier = resume.decoded if args.resume else None
    jobs = files.plan(args.inputs, files.ZOO, args.output, rename, args.force, earlier)
    target = next((job.target for job in jobs if job.target), None)
    if args.format is None and target is not None:
        ending = target.suffix
    return batch.run(jobs, partial(prepare, args, ending), deliver, args)


def decoded_name(path: Path, ending: str) -> Path:
    """photo.zoo -> photo.png; any other ending stays: photo.bin -> photo.bin.png."""
    if path.suffix.lower() in files.ZOO:
        return path.with_suffix(ending)
    return path.with_name(path.name + ending)


def prepare(args: argparse.Namespace, ending: str) -> Work:
    """The work on one .zoo file; `ending` names the format of the pictures."""
    return partial(_decode, options.CodecCache(args), ending, args.precision)


def _decode(codecs: options.CodecCache, ending: str, precision: str, task: Task) -> Done:
    start = time.perf_counter()
    format, picture = _format_of(ending), io.BytesIO()
    image = codecs.codec_for(task.data).decode(task.data, precision=precision)
    _save(image, picture, format)
    seconds = time.perf_counter() - start
    return Done(picture.getvalue(), f"{image.width}x{image.height}, {seconds:.2f} s")


def _format_of(ending: str) -> str:
    """Pillow's name of a format that it can write: ".jpg" -> "JPEG"."""
    from PIL import Image

    format = Image.registered_extensions().get(ending.lower())
    if format is None or format not in Image.SAVE:
        raise UsageError(f"cannot write pictures that end in {ending!r}: try --format png, jpg, webp or tiff")
    return format


def _save(image: Image, file: BinaryIO, format: str) -> None:
    """Write the picture with its metadata; Pillow takes EXIF only when told."""
    metadata = {key: image.info[key] for key in ("icc_profile", "exif") if image.info.get(key)}
    try:
        image.save(file, format=format, **metadata, **_SAVE_OPTIONS.get(format, {}))
    except OSError as error:
        if error.errno is not None:
            raise
        raise UsageError(f"{format} cannot hold this picture ({error}): use --format png") from error
