"""Where a caption comes from if nobody wrote one: a sentence of statistics, or BLIP by way of the Hub."""

from __future__ import annotations

import math

import numpy as np

HUB_MODEL = "Salesforce/blip-image-captioning-base"
"""The paper is said to use BLIP; the base model is our choice."""

_LUMA = np.array([299, 587, 114], np.int64)
_WHITE = 255 * 1000
"""Of the luma, a whole number, so that sums over parts of a picture are exact."""

_BLOCK = 2**16
"""Pixels that are looked at at once; each takes about 100 bytes."""

_HUES = ("red", "orange", "yellow", "green", "blue", "purple")
_HUE_STARTS = (15, 45, 75, 165, 255)
"""Degrees at which orange, yellow, green, blue and purple begin; red begins at 345."""


def stats(pixels: np.ndarray) -> str:
    """A sentence of statistics of a picture, uint8 (H, W[, 3]): it serves where no meaning is to be had."""
    height, width = pixels.shape[:2]
    luma = squares = across = 0  # Python's whole numbers: the squares of 2^28 pixels do not fit into 64 bits
    hues = np.zeros(len(_HUES), np.int64)
    rows = max(1, _BLOCK // width)
    for first in range(0, height, rows):
        block = np.atleast_3d(pixels[first : first + rows])  # (h, W, 1 or 3)
        block = np.broadcast_to(block, (*block.shape[:2], 3))
        light = block @ _LUMA
        luma += int(light.sum())
        squares += int(np.square(light).sum())
        across += int(np.abs(np.diff(light, axis=1)).sum())
        hues += _hues(block)
    count = height * width
    mean, step = luma / (count * _WHITE), across / (height * max(width - 1, 1) * _WHITE)
    deviation = math.sqrt(count * squares - luma**2) / (count * _WHITE)
    return (
        f"a {_below(mean, (0.33, 0.66), ('dark', 'medium', 'bright'))} "
        f"{'low' if deviation < 0.18 else 'high'}-contrast "
        f"{_below(width / height, (0.91, 1.1), ('portrait', 'square', 'landscape'))} picture, "
        f"mostly {'grey' if hues.sum() / (count * 255) < 0.08 else _HUES[hues.argmax()]}, with "
        f"{_below(step, (0.02, 0.05), ('smooth', 'moderate', 'fine'))} texture"
    )


def _below(value: float, borders: tuple[float, float], names: tuple[str, str, str]) -> str:
    return names[sum(value >= border for border in borders)]


def _hues(block: np.ndarray) -> np.ndarray:
    """Sum of the chroma (0 to 255) of all pixels of a hue, for six hues: (6,)."""
    weight = (block.max(2) - block.min(2)).ravel()
    rgb = block.astype(np.float64) / 255
    most, least = rgb.max(2), rgb.min(2)
    chroma = most - least
    red, green, blue = np.moveaxis(rgb, 2, 0)
    span = np.where(chroma > 0, chroma, 1)
    hue = np.select(
        [most == red, most == green],
        [(green - blue) / span % 6, (blue - red) / span + 2],
        (red - green) / span + 4,
    )
    bins = np.searchsorted(_HUE_STARTS, 60 * hue, side="right")
    bins = np.where(60 * hue >= 345, 0, bins)
    # Sums of whole numbers below 2^53 are exact in the float64 that bincount adds in.
    return np.bincount(bins.ravel(), weight, minlength=len(_HUES)).astype(np.int64)


class HubCaptioner:
    """BLIP through transformers: loaded at the first caption, given up for good after the first failure.

    Attributes:
        attempts: how often it was tried to load. failure: why it does not work; None as long as it may.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.failure: str | None = None
        self._models: tuple | None = None

    def __call__(self, pixels: np.ndarray) -> str:
        """A caption of a picture, uint8 (H, W[, 3]).

        Raises:
            RuntimeError: there is no network, package or memory, now or at an earlier call.
        """
        if self.failure is not None:
            raise RuntimeError(self.failure)
        try:
            return self._caption(pixels)
        except Exception as error:  # whatever is missing, the picture can be coded without
            self.failure = f"{type(error).__name__}: {error}".splitlines()[0]
            raise RuntimeError(self.failure) from error

    def _caption(self, pixels: np.ndarray) -> str:
        from PIL import Image

        processor, model = self._load()
        inputs = processor(Image.fromarray(pixels).convert("RGB"), return_tensors="pt")
        # One beam and no sampling: the same picture has the same caption.
        words = model.generate(**inputs, max_new_tokens=30, num_beams=1, do_sample=False)
        return processor.decode(words[0], skip_special_tokens=True)

    def _load(self) -> tuple:
        if self._models is None:
            self.attempts += 1
            from transformers import BlipForConditionalGeneration, BlipProcessor

            self._models = (
                BlipProcessor.from_pretrained(HUB_MODEL),
                BlipForConditionalGeneration.from_pretrained(HUB_MODEL).eval(),
            )
        return self._models


hub = HubCaptioner()
"""The one of this process: nobody waits for the same time-out twice."""
