"""Captions of a folder of photos, as a file for training and for the controls, to be edited by a person.

    python -m zoo_selic.captioning PHOTOS [--captioner stats|hub] > captions.jsonl

writes a line for each photo: its name, a digest of its pixels, where the captions come from, and the captions.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zoo_core.cli import module
from zoo_core.errors import UsageError
from zoo_core.training.data import SUFFIXES
from zoo_selic import captioners
from zoo_selic.objective import photo_key

log = logging.getLogger("zoo_core.selic")  # below the zoo's own, which `zoo_core.cli.module` shows


def lines(folder: Path, captioner: str) -> Iterator[dict]:
    """An entry for each photo below a folder; a file that cannot be read is left out with a warning.

    Raises:
        UsageError: the folder has no photo that can be read, or the captioner does not work.
    """
    found = False
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            log.warning("%s is left out: %s", path, error)
            continue
        found = True
        yield {
            "file": str(path.relative_to(folder)),
            "image": photo_key(torch.from_numpy(pixels).permute(2, 0, 1)),
            "source": captioner,
            "captions": [_caption(pixels, captioner)],
        }
    if not found:
        raise UsageError(f"no photos in '{folder}': name a folder of photos")


def _caption(pixels: np.ndarray, captioner: str) -> str:
    ask: Callable[[np.ndarray], str] = captioners.hub if captioner == "hub" else captioners.stats
    try:
        return ask(pixels)
    except RuntimeError as error:
        raise UsageError(
            f"the captioner {captioner} does not work ({error}): it needs transformers and, the first time, the "
            "network; or use --captioner stats, or write the captions by hand"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m zoo_selic.captioning", description=__doc__.splitlines()[0]
    )
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--captioner", choices=("stats", "hub"), default="stats", help="default: %(default)s")
    return module.run(parser, _write, arguments)


def _write(args: argparse.Namespace) -> None:
    for entry in lines(args.photos, args.captioner):
        print(json.dumps(entry, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
