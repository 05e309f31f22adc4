"""`zoo encode`: pictures in, .zoo files out."""

from __future__ import annotations

import argparse
import io
import logging
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.cli import batch, files, options, resume, side_inputs
from zoo_core.cli.workers import Done, Task, Work
from zoo_core.constants import DEFAULT_MEMORY

if TYPE_CHECKING:
    from zoo_core.codec import Codec

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    options.add_files(parser, "pictures", "the input's name, ending in .zoo")
    rate = options.add_model(parser)
    rate.add_argument("--max-bytes", type=options.positive, metavar="N", help="best quality in N bytes")
    rate.add_argument("--target-bpp", type=float, metavar="BPP", help="as many bits per pixel, or just fewer")
    rate.add_argument("--target-psnr", type=float, metavar="DB", help="smallest file with this PSNR in dB")
    parser.add_argument("--tile", type=int, metavar="N", help="cut into tiles of N pixels; 0: no tiles")
    parser.add_argument(
        "--memory",
        type=options.size,
        default=DEFAULT_MEMORY,
        metavar="SIZE",
        help="without --tile: choose tiles such that coding fits into SIZE, as 800M or 4G (default: 2G); "
        "the pictures of all workers share it",
    )
    parser.add_argument("--convert", action="store_true", help="convert 16-bit, CMYK and others to 8-bit RGB")
    parser.add_argument("--no-metadata", action="store_true", help="leave out EXIF and ICC profile")
    parser.add_argument("--verify", action="store_true", help="decode the symbols again before writing")
    side_inputs.add_arguments(parser)
    options.add_resume(parser)
    options.add_workers(parser)
    options.add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input and return the exit code."""
    earlier = resume.Encoded(args) if args.resume else None
    jobs = files.plan(args.inputs, files.PICTURES, args.output, encoded_name, args.force, earlier)
    return batch.run(jobs, partial(prepare, args), deliver, args)


def encoded_name(path: Path) -> Path:
    """photo.jpg -> photo.zoo; an ending that is no picture's stays: scan.01 -> scan.01.zoo."""
    if path.suffix.lower() in files.PICTURES:
        return path.with_suffix(".zoo")
    return path.with_name(path.name + ".zoo")


def deliver(job: files.Job, done: Done) -> None:
    """Write a result where it belongs and say so."""
    with files.writing(job.target) as file:
        file.write(done.data)
    log.info("%s -> %s: %s", job.name, job.target_name, done.facts)


def prepare(args: argparse.Namespace) -> Work:
    """Load the codec that the options ask for: the work on one picture."""
    from zoo_core import images

    images.use_own_pixel_limit()
    codec = options.load_codec(args)
    return partial(_encode, codec, args, side_inputs.given(args, codec.entry))


def _encode(codec: Codec, args: argparse.Namespace, conditions: dict[str, Any], task: Task) -> Done:
    from zoo_core import container

    start, picture = time.perf_counter(), io.BytesIO(task.data)
    picture.name = task.name  # for messages
    data = codec.encode(
        picture,
        max_bytes=args.max_bytes,
        target_bpp=args.target_bpp,
        target_psnr=args.target_psnr,
        keep_metadata=not args.no_metadata,
        convert=args.convert,
        verify=args.verify,
        tile=args.tile,
        memory=args.memory,
        **conditions,
    )
    seconds = time.perf_counter() - start
    return Done(data, f"{len(data):,} bytes, {container.inspect(data).bpp:.3f} bpp, {seconds:.2f} s")
