"""Numbers of other types and depths become 8-bit samples: arrays, tensors, and Pillow's deep grey modes.

The field writes pictures as uint8 in 0..255 or floats in 0..1, arrays as (H, W, C) and tensors as (C, H, W).
Anything else is refused with the range or shape that was found: a wrong guess would give a picture that is
black, white or transposed, and nobody would know why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo_core.errors import ImageError

if TYPE_CHECKING:
    import torch


def of_array(array: np.ndarray, convert: bool = False) -> np.ndarray:
    """(H, W) or (H, W, C), uint8 or floats in 0..1 (uint16 too with `convert`) -> (H, W, C), uint8.

    Raises:
        ImageError: another shape or type, NaN, or values out of range.
    """
    return _to_bytes(_channels_last(array, array.shape, "(H, W) or (H, W, C)"), convert)


def of_tensor(tensor: torch.Tensor) -> np.ndarray:
    """(C, H, W), or (1, C, H, W), or (H, W), uint8 or floats in 0..1, on any device -> (H, W, C), uint8.

    Raises:
        ImageError: as `of_array`.
    """
    shape = tuple(tensor.shape)
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array = tensor.numpy()
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    return _to_bytes(_channels_last(array, shape, "(C, H, W)"), convert=False)


def of_deep_grey(values: np.ndarray, wide: bool, transparent: int | None, name: str) -> np.ndarray:
    """Pillow's modes I;16, I and F, (H, W), -> (H, W) or (H, W, 2), uint8.

    Args:
        wide: the values are known to lie in 0..65535, however small they happen to be.
        transparent: the value that stands for full transparency, if there is one.
        name: of the picture, for messages.

    Raises:
        ImageError: NaN, or values out of every range that could be meant.
    """
    grey = _of_float(values, name) if values.dtype.kind == "f" else _of_integer(values, wide, name)
    if transparent is None:
        return grey
    return np.dstack((grey, np.where(values == transparent, 0, 255).astype(np.uint8)))


def _channels_last(array: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise ImageError(f"shape {tuple(shape)} is no picture: give {layout} with 1 to 4 channels")
    return array


def _to_bytes(array: np.ndarray, convert: bool) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.require(array, requirements=("C", "W"))
    if array.dtype == np.uint16 and convert:
        return _from_16_bit(array)
    if array.dtype == np.uint16:
        raise ImageError("the array has 16 bits a channel: scale it yourself, or allow it with convert=True")
    if array.dtype.kind != "f":
        raise ImageError(f"the array holds {array.dtype}: give uint8 in 0..255 or floats in 0..1")
    low, high = _range(array)
    if not 0 <= low <= high <= 1:
        raise ImageError(f"the floats are in {low:g}..{high:g}: bring them to 0..1, or give uint8 in 0..255")
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def _of_integer(values: np.ndarray, wide: bool, name: str) -> np.ndarray:
    low, high = _range(values)
    if low < 0 or high > 65535:
        raise ImageError(f"{name} has values in {low:g}..{high:g}: scale them to 0..255 or 0..65535 first")
    return _from_16_bit(values) if wide or high > 255 else values.astype(np.uint8)


def _of_float(values: np.ndarray, name: str) -> np.ndarray:
    """The smallest of the three customary ranges that holds the values."""
    low, high = _range(values)
    for top in (1, 255, 65535):
        if 0 <= low <= high <= top:
            return np.rint(values * (255 / top)).astype(np.uint8)
    raise ImageError(f"{name} has values in {low:g}..{high:g}: scale them to 0..1, 0..255 or 0..65535 first")


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """0..65535 divided by 257 and rounded to the nearest integer, exactly."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value; NaN if there is one, (0, 0) for no values."""
    return (values.min().item(), values.max().item()) if values.size else (0, 0)
