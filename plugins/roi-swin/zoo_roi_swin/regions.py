"""What a mask does to a picture: swap gain, controls, and regions beside a uniform mask of the same bytes.

    python -m zoo_roi_swin.regions PHOTOS --quality 3 [--weights FILE] [--picture FILE]

writes real files, reads them again, and prints means over the photos as JSON. Weights of a model that was
trained with rho = 1 give the control: the same command with them must find no swap gain.

The swap gain is the PSNR of a half of the picture when that half is the region, less that of the same pixels
when the other half is. The same pixels stand on both sides, so the picture's content cancels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch

import zoo_core as zoo
from zoo_core.cli import module
from zoo_core.cli.comparison import side_by_side
from zoo_core.codec import Codec
from zoo_core.entropy.coder import Estimator
from zoo_core.errors import RateError
from zoo_core.images import Picture
from zoo_core.training.data import load_photos
from zoo_roi_swin.fixed import Mask, fixed_masks, halves, region_psnr

Figures = dict[str, float]


class Coded(NamedTuple):
    """A picture after a round trip through a real file."""

    pixels: np.ndarray
    size: int

    def bpp(self) -> float:
        """Bits of the whole file per pixel of the picture."""
        return 8 * self.size / (self.pixels.shape[0] * self.pixels.shape[1])


def coded(codec: Codec, photo: np.ndarray, mask: Mask | None = None, max_bytes: int | None = None) -> Coded:
    """Encode and decode uint8 (H, W, 3) at the codec's level, or the best that `max_bytes` allow."""
    data = codec.encode(photo, roi=mask, max_bytes=max_bytes)
    return Coded(np.asarray(codec.decode(data)), len(data))


def uniform_at(codec: Codec, photo: np.ndarray, size: int) -> Coded | None:
    """The picture with the whole of it as region, in as many bytes or just fewer; None if level 1 needs more."""
    try:
        return coded(codec, photo, max_bytes=size)
    except RateError:
        return None


def figures(photo: np.ndarray, result: Coded, mask: Mask) -> Figures:
    """Rate, and PSNR of the region, the background and the whole; a part without pixels is left out."""
    parts = {"roi": mask, "background": ~mask, "all": np.ones_like(mask)}
    found = {name: region_psnr(photo, result.pixels, part) for name, part in parts.items()}
    return {"bpp": result.bpp()} | {name: value for name, value in found.items() if value is not None}


def at_equal_bytes(codec: Codec, photo: np.ndarray) -> Iterator[tuple[str, Figures]]:
    """Each fixed mask, and beside it the same pixels with the uniform mask, searched to the same bytes."""
    for name, mask in fixed_masks(*photo.shape[:2]).items():
        result = coded(codec, photo, mask)
        plain = uniform_at(codec, photo, result.size)
        if plain is not None:
            yield f"{name}, masked", figures(photo, result, mask)
            yield f"{name}, uniform", figures(photo, plain, mask)


def swap_gains(codec: Codec, photo: np.ndarray) -> Iterator[tuple[str, Figures]]:
    """The swap gain in dB of both halves of each pair, and their rates."""
    for name, pair in halves(*photo.shape[:2]).items():
        results = [coded(codec, photo, mask) for mask in pair]
        gains = [
            _half_psnr(photo, right, mask) - _half_psnr(photo, wrong, mask)
            for mask, right, wrong in zip(pair, results, results[::-1], strict=True)
        ]
        yield name, {"gain": fmean(gains), "bpp": fmean(result.bpp() for result in results)}


def _half_psnr(photo: np.ndarray, result: Coded, mask: Mask) -> float:
    value = region_psnr(photo, result.pixels, mask)
    assert value is not None  # a half has pixels
    return value


def controls(codec: Codec, photo: np.ndarray) -> Iterator[tuple[str, Figures]]:
    """The region of mask A, coded with the right mask and with wrong ones."""
    mask = fixed_masks(*photo.shape[:2])["A"]
    given = {
        "right": mask,
        "inverted": ~mask,
        "shifted": np.roll(mask, mask.shape[1] // 2, 1),
        "ones": np.ones_like(mask),
        "zeros": np.zeros_like(mask),
    }
    for name, other in given.items():
        yield name, figures(photo, coded(codec, photo, other), mask)


@torch.inference_mode()
def rates(codec: Codec, photo: np.ndarray, mask: Mask) -> Figures:
    """Estimated bits of y per pixel of the region and of the background, and the region's share of the area."""
    y, pooled = codec.analyse(Picture(photo), roi=mask)
    coder, (height, width) = Estimator(training=False), y.shape[-2:]
    shapes = ((y.shape[1], height, width),)
    level = torch.tensor([codec.quality], dtype=torch.float64)
    codec.model.entropy_model.code(coder, (y.double(), pooled.double()), shapes, level)
    bits = -coder.likelihoods["y"].log2().sum(1, keepdim=True)  # (1, 1, H/16, W/16)
    inside, share = float((bits * pooled).sum() / bits.sum()), float(mask.mean())
    total = float(bits.sum()) / mask.size
    return {"share": share, "roi": total * inside / share, "background": total * (1 - inside) / (1 - share)}


def by_region(codec: Codec, photo: np.ndarray) -> Iterator[tuple[str, Figures]]:
    """Where the bits of y are, for each fixed mask."""
    for name, mask in fixed_masks(*photo.shape[:2]).items():
        yield name, rates(codec, photo, mask)


def report(codec: Codec, photos: Sequence[np.ndarray]) -> dict[str, dict[str, Figures]]:
    """Means over the photos of all figures, by part of the report and by mask."""
    parts = {
        "equal bytes": at_equal_bytes,
        "swap": swap_gains,
        "controls": controls,
        "bits per pixel": by_region,
    }
    return {
        part: _means([row for photo in photos for row in measure(codec, photo)])
        for part, measure in parts.items()
    }


def _means(rows: Sequence[tuple[str, Figures]]) -> dict[str, Figures]:
    """Means of the rows of the same name; "photos" says of how many."""
    found: dict[str, list[Figures]] = {}
    for name, row in rows:
        found.setdefault(name, []).append(row)
    return {
        name: {"photos": len(same)} | {key: round(fmean(row[key] for row in same), 4) for key in same[0]}
        for name, same in found.items()
    }


def draw(codec: Codec, photo: np.ndarray, file: Path) -> None:
    """Mask A on the photo, and the photo coded with it and uniformly in the same bytes, side by side."""
    from PIL import Image

    mask = fixed_masks(*photo.shape[:2])["A"]
    result = coded(codec, photo, mask)
    plain = uniform_at(codec, photo, result.size)
    shown = np.where(mask[..., None], photo, photo // 3)
    columns = [(["original, region bright", ""], Image.fromarray(shown))]
    for name, one in (("with the mask", result), ("uniform", plain)):
        if one is not None:
            values = figures(photo, one, mask)
            quality = f"region {values['roi']:.2f} dB, background {values['background']:.2f} dB"
            columns.append(([f"{name}, {one.size:,} bytes", quality], Image.fromarray(one.pixels)))
    side_by_side(columns, part=_middle(photo)).save(file)


def _middle(photo: np.ndarray) -> tuple[int, int, int, int]:
    """A square about the middle, which mask A holds: left, top, right, bottom."""
    height, width = photo.shape[:2]
    side = max(1, min(height, width) // 4)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--quality", type=float, default=3.0, help="level of the masked files (default: 3)")
    parser.add_argument("--weights", type=Path, help="file to use instead of the published weights")
    parser.add_argument("--picture", type=Path, help="draw the first photo with mask A into this file")
    return module.run(parser, _report, arguments)


def _report(args: argparse.Namespace) -> None:
    codec = zoo.load("roi-swin", quality=args.quality, weights=args.weights)
    photos = [photo.permute(1, 2, 0).numpy() for photo in load_photos(args.photos)]
    print(json.dumps(report(codec, photos), indent=1))
    if args.picture:
        draw(codec, photos[0], args.picture)


if __name__ == "__main__":
    sys.exit(main())
