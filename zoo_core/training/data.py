"""Photos held in memory as bytes, and random crops of them.

A few hundred photos fit into memory once decoded, so no loader process can starve the model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from zoo_core.errors import UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}

log = logging.getLogger(__name__)


def load_photos(folder: Path, min_side: int = 64) -> list[Tensor]:
    """Decode every photo below `folder` to uint8 (3, H, W); those with a side under `min_side` are left out.

    A file that cannot be read is left out with a warning.

    Raises:
        UsageError: nothing is left.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    photos = []
    for path in paths:
        try:
            pixels = _pixels(path)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            log.warning("%s is left out: %s", path, error)
            continue
        if min(pixels.shape[1:]) >= min_side:
            photos.append(pixels)
    if not photos:
        raise UsageError(
            f"no photos of at least {min_side} pixels a side in '{folder}': name a folder of photos"
        )
    return photos


def _pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def near(photos: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """The photos in the memory of a GPU if they take less than half of what is free there, else as they are."""
    if device.type != "cuda":
        return photos
    free, _ = torch.cuda.mem_get_info(device)
    fits = sum(photo.nbytes for photo in photos) < free // 2
    return [photo.to(device) for photo in photos] if fits else photos


class RandomCrops:
    """Random crops with flips, quarter turns and scale jitter, drawn in proportion to a photo's area.

    Args:
        photos: uint8 (3, H, W) each.
        size: side of a crop in pixels.
        jitter: smallest factor by which a crop's source is reduced; 1 for none.
        seed: of the random choices.

    Attributes:
        sources: the photos that the crops of the newest batch were cut from.
    """

    def __init__(self, photos: Sequence[Tensor], size: int, jitter: float = 0.6, seed: int = 0):
        self.photos = photos
        self.size = size
        self.jitter = jitter
        self.random = np.random.default_rng(seed)
        areas = np.array([p.shape[1] * p.shape[2] for p in photos], dtype=np.float64)
        self.weights = areas / areas.sum()
        self.sources: list[Tensor] = []

    def batch(self, count: int) -> Tensor:
        """(count, 3, size, size) float in [0, 1]."""
        picks = self.random.choice(len(self.photos), count, p=self.weights)
        self.sources = [self.photos[i] for i in picks]
        return torch.stack([self._crop(photo) for photo in self.sources])

    def _crop(self, photo: Tensor) -> Tensor:
        _, height, width = photo.shape
        scale = self.random.uniform(self.jitter, 1.0) if self.random.random() < 0.7 else 1.0
        side = min(round(self.size / scale), height, width)
        top = self.random.integers(0, height - side + 1)
        left = self.random.integers(0, width - side + 1)
        crop = photo[:, top : top + side, left : left + side].float().div(255)
        if side != self.size:
            crop = F.interpolate(crop[None], size=(self.size, self.size), mode="bilinear", antialias=True)[0]
        return self._turn(crop)

    def _turn(self, crop: Tensor) -> Tensor:
        if self.random.random() < 0.5:
            crop = crop.flip(2)
        # Quarter turns are rare in photos; a few of them still help a small set.
        return crop.transpose(1, 2) if self.random.random() < 0.25 else crop
