"""Whatever a user gives as region of interest becomes a mask of zeros and ones at the picture's size.

Accepted are arrays and tensors of any size (bool, uint8, or float in 0..1), Pillow images (their alpha channel
if they have one that is not the same everywhere), paths of image files, and lists of boxes. Fractions are split
at a threshold, because the network is trained on binary masks. All count in the order of the pixels in the file:
a rotation that EXIF asks a viewer for is not applied.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from zoo_core.errors import SideInputError

_ASPECT = 0.02
"""Masks whose aspect ratio differs by more than this are stretched with a note."""

log = logging.getLogger("zoo_core.roi_swin")


def normalised(
    height: int, width: int, roi: Any = None, roi_threshold: float = 0.5, roi_dilate: int = 0
) -> Tensor:
    """The mask as the network takes it: float32 (1, 1, height, width), 1 inside of the region.

    Args:
        height, width: of the picture.
        roi: mask or boxes, see `zoo_roi_swin.mask`; None is the whole picture. Boxes (x0, y0, x1, y1) are
            half-open, in pixels if any number of the list is above 1, else in fractions of the picture.
        roi_threshold: from this value on a pixel belongs to the region, after resizing.
        roi_dilate: pixels by which the region grows in each direction.

    Raises:
        SideInputError: none of these, or values out of range.
    """
    if not (isinstance(roi_threshold, Real) and 0 < roi_threshold <= 1):
        raise SideInputError(f"roi_threshold={roi_threshold}: give a number above 0, up to 1")
    if not (isinstance(roi_dilate, Integral) and roi_dilate >= 0):
        raise SideInputError(f"roi_dilate={roi_dilate}: give a whole number of pixels, 0 or more")
    if roi is None:
        return torch.ones(1, 1, height, width)
    if isinstance(roi, (list, tuple)):
        mask = _of_boxes(roi, height, width)
    else:
        mask = (_resized(_values(roi), height, width) >= roi_threshold).float()
    if roi_dilate and mask.any():
        mask = _dilated(mask, int(roi_dilate))
    if not mask.any():
        log.warning("the region of interest is empty: the whole picture is background (%s)", _hint(roi))
    return mask


def _hint(roi: Any) -> str:
    """What may be wrong with a region that turned out empty."""
    if isinstance(roi, (list, tuple)):
        return "the boxes lie outside of it"
    return "masks of whole numbers go up to 255, and white is inside"


def _values(roi: Any) -> Tensor:
    """A mask of its own size, float32 (1, 1, h, w) in 0..1."""
    if isinstance(roi, (str, os.PathLike)):
        roi = _opened(roi)
    if isinstance(roi, Image.Image):
        roi = _plane(roi)
    try:
        mask = roi.detach().cpu() if isinstance(roi, Tensor) else torch.from_numpy(np.array(roi))
    except TypeError:
        raise SideInputError(
            f"a region of interest cannot be made of {type(roi).__name__}: give an array, a picture or boxes"
        ) from None
    return _scaled(_two_dimensional(mask))[None, None]


def _two_dimensional(mask: Tensor) -> Tensor:
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    elif mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[..., 0]
    if mask.ndim != 2 or not mask.numel():
        raise SideInputError(f"a mask has the shape (h, w), (1, h, w) or (h, w, 1), not {tuple(mask.shape)}")
    return mask


def _scaled(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask.float()
    if mask.dtype == torch.uint8:
        return mask.float() / 255
    if not mask.is_floating_point():
        kind = str(mask.dtype).removeprefix("torch.")
        raise SideInputError(f"a mask holds bool, uint8 up to 255 or floats up to 1, not {kind}: convert it")
    low, high = mask.min().item(), mask.max().item()
    if not (low >= 0 and high <= 1):  # NaN too
        raise SideInputError(f"the values of a mask lie between 0 and 1, not {low:g} to {high:g}")
    return mask.float()


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "no picture that can be read"
        raise SideInputError(f"the mask {os.fspath(path)}: {reason}: name a picture, white inside") from None


def _plane(image: Image.Image) -> np.ndarray:
    """The alpha channel if there is one, else the brightness: uint8, or floats for more than 8 bits.

    An alpha channel that is the same everywhere gives way to a brightness that is not: what painting programs save.
    """
    if "A" in image.getbands():
        alpha, brightness = np.array(image.getchannel("A")), np.array(image.convert("L"))
        drawn = alpha.min() == alpha.max() and brightness.min() < brightness.max()
        return brightness if drawn else alpha
    if image.mode.startswith("I"):  # PNG's 16 bits, which a conversion to "L" would clip
        return np.array(image, np.float32) / 65535
    return np.array(image if image.mode == "F" else image.convert("L"))


def _resized(mask: Tensor, height: int, width: int) -> Tensor:
    """The mean of an area where a side shrinks, the nearest value where it grows."""
    rows, columns = mask.shape[-2:]
    if abs(math.log(columns / rows * height / width)) > math.log1p(_ASPECT):
        log.warning("the mask of %d x %d is stretched to the picture's %d x %d", columns, rows, width, height)
    mask = F.interpolate(mask, size=(min(rows, height), min(columns, width)), mode="area")
    return F.interpolate(mask, size=(height, width), mode="nearest-exact")


def _of_boxes(boxes: Sequence[Any], height: int, width: int) -> Tensor:
    """The union of boxes, of which a single one may come without a list around it."""
    if len(boxes) == 4 and all(isinstance(number, Real) for number in boxes):
        boxes = [boxes]
    mask = torch.zeros(1, 1, height, width)
    pixels = any(number > 1 for box in boxes for number in _numbers(box))
    scale = (1, 1) if pixels else (width, height)
    for box in boxes:
        left, top, right, bottom = (
            # A pixel is inside if its centre is.
            min(max(math.ceil(number * scale[i % 2] - 0.5), 0), (width, height)[i % 2])
            for i, number in enumerate(_numbers(box))
        )
        mask[..., top:bottom, left:right] = 1
    return mask


def _numbers(box: Any) -> tuple[float, ...]:
    numbers = tuple(box) if isinstance(box, (list, tuple, np.ndarray)) else ()
    if len(numbers) != 4 or not all(isinstance(n, Real) and math.isfinite(n) for n in numbers):
        raise SideInputError(f"a box is four numbers x0, y0, x1, y1, not {box}")
    if not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise SideInputError(f"the box {numbers} is empty: give x0 < x1 and y0 < y1")
    return numbers


def _dilated(mask: Tensor, pixels: int) -> Tensor:
    """Every pixel within a square of `pixels` around the region; rows and columns apart, which is quicker."""
    pixels = min(pixels, max(mask.shape[-2:]))
    mask = F.max_pool2d(mask, (2 * pixels + 1, 1), 1, (pixels, 0))
    return F.max_pool2d(mask, (1, 2 * pixels + 1), 1, (0, pixels))
