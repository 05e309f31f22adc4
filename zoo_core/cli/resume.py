"""Which outputs of an earlier run count as done, for `--resume`.

Files take their names only when they are complete, so one that is cut off or damaged came by a copy or a
disk. It is done again without `-f`. What was written with other options, or is older than its source, is
kept like any file that exists: the command refuses, and overwrites it with `-f`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from zoo_core import registry
from zoo_core.cli.files import Job, State
from zoo_core.constants import QUALITY_STEP
from zoo_core.errors import FileError, NotAZooFileError


class Encoded:
    """Judges .zoo files: by all their checksums, by method, preset, weights and level, or by the size asked for.

    Options that leave no trace in a file (`--target-psnr`, `--tile`, `--convert`, side inputs) are not compared.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from zoo_core import container, weights

        entry, level = registry.parse(args.model)
        file = weights.locate(entry, args.preset, args.weights)
        digest = bytes.fromhex(file.sha256)[: container.DIGEST_SIZE] if file else bytes(container.DIGEST_SIZE)
        self._model = entry.name, args.preset, digest
        quality = level if args.quality is None else args.quality
        self._quality = round((3.0 if quality is None else quality) * QUALITY_STEP)
        self._args = args

    def __call__(self, job: Job) -> State:
        from zoo_core import container

        assert job.target is not None
        try:
            data = job.target.read_bytes()
            header, _ = container.read(data)
        except NotAZooFileError:
            return State.OTHER
        except FileError:
            return State.DAMAGED
        same = (header.method, header.preset, header.digest) == self._model and self._rate(header, len(data))
        return State.DONE if same and _newer(job.target, job.source) else State.OTHER

    def _rate(self, header, size: int) -> bool:
        """Whether the file has the level, or is within the size, that the command asks for."""
        args = self._args
        if args.max_bytes is not None:
            return size <= args.max_bytes
        if args.target_bpp is not None:
            return 8 * size <= args.target_bpp * header.width * header.height
        return args.target_psnr is not None or header.quality == self._quality


def decoded(job: Job) -> State:
    """Judges pictures: one that opens in full, has the size that the .zoo file tells, and is not older."""
    from PIL import Image

    from zoo_core import container

    assert job.target is not None and job.source is not None
    try:
        with Image.open(job.target) as image:
            size = image.size
            image.load()
    except Image.UnidentifiedImageError:
        return State.OTHER
    except (OSError, SyntaxError, ValueError):
        return State.DAMAGED
    try:
        info = container.inspect(job.source.read_bytes())
    except (FileError, OSError):
        return State.OTHER
    same = size == (info.width, info.height)
    return State.DONE if same and _newer(job.target, job.source) else State.OTHER


def _newer(target: Path, source: Path | None) -> bool:
    """Whether the target was written after its source was; a source that is gone or piped has no time."""
    if source is None or not os.path.exists(source):
        return False
    return os.stat(target).st_mtime_ns >= os.stat(source).st_mtime_ns
