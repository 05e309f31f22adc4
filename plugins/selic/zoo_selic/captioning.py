"""Captions of a folder of photos, as a file for training and for the controls, to be edited by a person.

    python -m zoo_selic.captioning PHOTOS [--captioner stats|hub] > captions.jsonl

writes a line for each photo: its name, a digest of its pixels, where the captions come from, and the captions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zoo_core.training.data import SUFFIXES
from zoo_selic import captioners
from zoo_selic.objective import photo_key

CAPTIONERS: dict[str, Callable[[np.ndarray], str]] = {"stats": captioners.stats, "hub": captioners.hub}


def lines(folder: Path, captioner: str) -> Iterator[dict]:
    """An entry for each photo below a folder."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
        yield {
            "file": str(path.relative_to(folder)),
            "image": photo_key(torch.from_numpy(pixels).permute(2, 0, 1)),
            "source": captioner,
            "captions": [CAPTIONERS[captioner](pixels)],
        }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--captioner", choices=CAPTIONERS, default="stats", help="default: %(default)s")
    args = parser.parse_args(arguments)
    for entry in lines(args.photos, args.captioner):
        print(json.dumps(entry, ensure_ascii=False))


if __name__ == "__main__":
    main()
