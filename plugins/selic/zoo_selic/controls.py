"""Does the text help? The same weights are fed right, wrong and no captions, and the files are compared.

    python -m zoo_selic.controls PHOTOS [--captions FILE] [--weights FILE] [--quality 1 3 5]

A decoder that knows no text can only profit if the encoder finds a better latent by it. So "right" is to be
compared with "wrong" (another photo's caption), not only with "null": a gain over null alone is capacity.
Rates are those of whole files. The captions are sentences of statistics unless a file of captions is given,
and the report says which.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import torch
from torch import Tensor

import zoo_core as zoo
from zoo_core.cli import module
from zoo_core.codec import Codec
from zoo_core.errors import UsageError
from zoo_core.evaluation.bdrate import bd_rate
from zoo_core.evaluation.curves import Curve
from zoo_core.evaluation.metrics import psnr
from zoo_core.training.data import load_photos
from zoo_selic import captioners, encoder
from zoo_selic.objective import photo_key, read_captions

SHIFTS = (7, 1, 5, 11)
"""Whose caption a photo gets in the control "wrong": that of the photo so many places further, or, where that is
the photo's own caption word for word, of the next one that has another."""

SEEDS = (0, 1, 2)

Points = list[tuple[float, float]]
"""Bits per pixel and PSNR in dB of one photo, quality by quality."""


def embeddings(photos: Sequence[Tensor], captions: Mapping[str, Sequence[str]] | None) -> Tensor:
    """The embedding of each photo's first caption, (N, D).

    Raises:
        UsageError: a photo has no caption.
        TextEncoderMissing: the text encoder is not installed.
    """
    texts = []
    for number, photo in enumerate(photos, 1):
        pixels = photo.permute(1, 2, 0).numpy()
        found = [captioners.stats(pixels)] if captions is None else captions.get(photo_key(photo), ())
        if not found:
            raise UsageError(f"photo {number} of {len(photos)} has no caption in the file: add its line")
        texts.append(found[0])
    return torch.stack([encoder.embed(text) for text in texts])


def controls(right: Tensor) -> dict[str, Tensor | None]:
    """What each photo is told in each control, (N, D); None for the null text.

    Shifts that are a multiple of N are left out.

    Raises:
        UsageError: all captions are the same, so that none is wrong.
    """
    count, size = right.shape
    if bool((right == right[0]).all()):
        raise UsageError(
            f"all {count} photos have the same caption: give captions that differ, or more photos"
        )
    found: dict[str, Tensor | None] = {"right": right, "null": None}
    found["empty-raw"] = encoder.embed("").expand(count, -1)
    shifts = [shift for shift in SHIFTS if shift % count]
    found |= {f"wrong-{shift}": _wrong(right, shift) for shift in shifts}
    for seed in SEEDS:
        noise = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
        found[f"random-{seed}"] = noise / noise.norm(dim=1, keepdim=True)
    mean = right.mean(0)
    found["mean"] = (mean / mean.norm()).expand(count, -1)
    return found


def _wrong(right: Tensor, shift: int) -> Tensor:
    """For each photo the caption of the first photo, from `shift` places further on, that has another one."""
    count = len(right)
    places = []
    for place, own in enumerate(right):
        others = ((place + shift + further) % count for further in range(count))
        places.append(next(other for other in others if not torch.equal(right[other], own)))
    return right[places]


def measure(
    codec: Codec, photos: Sequence[Tensor], fed: Tensor | None, qualities: Sequence[float]
) -> list[Points]:
    """What each photo costs with its row of `fed`."""
    rows: Sequence[Tensor | None] = [None] * len(photos) if fed is None else list(fed)
    return [_points(codec, photo, row, qualities) for photo, row in zip(photos, rows, strict=True)]


def _points(codec: Codec, photo: Tensor, vector: Tensor | None, qualities: Sequence[float]) -> Points:
    pixels = np.ascontiguousarray(photo.permute(1, 2, 0).numpy())
    found = []
    for quality in qualities:
        data = codec.encode(pixels, quality=quality, caption=vector)
        error = psnr(pixels, np.asarray(codec.decode(data)))
        found.append((8 * len(data) / math.prod(pixels.shape[:2]), error))
    return found


def against(points: Sequence[Points], anchor: Sequence[Points]) -> dict[str, float]:
    """BD-rate in percent of each photo against the same photo in the anchor: mean, and spread over the photos.

    Negative is better. Needs two qualities at least; photos whose curves do not overlap are left out.
    """
    values = [
        bd_rate(_curve(mine), _curve(theirs)).value for mine, theirs in zip(points, anchor, strict=True)
    ]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return {}
    return {"bd_rate": round(fmean(values), 3), "spread": round(pstdev(values), 3), "photos": len(values)}


def _curve(points: Points) -> Curve:
    bpp, decibels = zip(*sorted(points), strict=True)
    return Curve("photo", bpp, psnr=decibels)


def report(
    codec: Codec,
    photos: Sequence[Tensor],
    captions: Mapping[str, Sequence[str]] | None,
    qualities: Sequence[float],
) -> Iterator[dict]:
    """One record for each control: means by quality, and BD-rates against "null" and against "right".

    Raises:
        UsageError: fewer than two photos, or one without a caption.
    """
    if len(photos) < 2:
        raise UsageError("wrong captions need two photos at least")
    fed = controls(embeddings(photos, captions))
    points = {name: measure(codec, photos, vectors, qualities) for name, vectors in fed.items()}
    for name, mine in points.items():
        record: dict = {"control": name, "captions": "statistics" if captions is None else "file"}
        for place, quality in enumerate(qualities):
            bpp, decibels = (fmean(photo[place][k] for photo in mine) for k in range(2))
            record[f"q{quality:g}"] = {"bpp": round(bpp, 5), "psnr": round(decibels, 4)}
        yield record | {f"vs_{other}": against(mine, points[other]) for other in ("null", "right")}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zoo_selic.controls", description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--captions", type=Path, help="file of captions, see zoo_selic.captioning")
    parser.add_argument("--quality", type=float, nargs="+", default=[1.0, 3.0, 5.0], help="levels, 1 to 6")
    parser.add_argument("--weights", type=Path, help="file to use instead of the published weights")
    return module.run(parser, _print, arguments)


def _print(args: argparse.Namespace) -> None:
    codec = zoo.load("selic", weights=args.weights)
    captions = None if args.captions is None else read_captions(args.captions)
    for record in report(codec, load_photos(args.photos), captions, args.quality):
        print(json.dumps(record))


if __name__ == "__main__":
    sys.exit(main())
