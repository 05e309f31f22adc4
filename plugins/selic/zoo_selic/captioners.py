"""Where a caption comes from if nobody wrote one: a sentence of statistics, or BLIP by way of the Hub."""

from __future__ import annotations

import numpy as np

HUB_MODEL = "Salesforce/blip-image-captioning-base"
"""The paper is said to use BLIP; the base model is our choice."""

_LUMA = np.array([0.299, 0.587, 0.114])
_HUES = ("red", "orange", "yellow", "green", "blue", "purple")
_HUE_STARTS = (15, 45, 75, 165, 255)
"""Degrees at which orange, yellow, green, blue and purple begin; red begins at 345."""


def stats(pixels: np.ndarray) -> str:
    """A sentence of statistics of a picture, uint8 (H, W[, 3]): it serves where no meaning is to be had."""
    rgb = np.atleast_3d(pixels).astype(np.float64) / 255  # (H, W, 1 or 3)
    rgb = np.broadcast_to(rgb, (*rgb.shape[:2], 3))
    luma = rgb @ _LUMA
    across = np.abs(np.diff(luma, axis=1))
    return (
        f"a {_below(luma.mean(), (0.33, 0.66), ('dark', 'medium', 'bright'))} "
        f"{'low' if luma.std() < 0.18 else 'high'}-contrast "
        f"{_below(luma.shape[1] / luma.shape[0], (0.91, 1.1), ('portrait', 'square', 'landscape'))} picture, "
        f"mostly {_colour(rgb)}, with "
        f"{_below(across.mean() if across.size else 0.0, (0.02, 0.05), ('smooth', 'moderate', 'fine'))} texture"
    )


def _below(value: float, borders: tuple[float, float], names: tuple[str, str, str]) -> str:
    return names[sum(value >= border for border in borders)]


def _colour(rgb: np.ndarray) -> str:
    """The most frequent of six hues, weighted by chroma; grey where there is little chroma."""
    most, least = rgb.max(2), rgb.min(2)
    chroma = most - least
    if chroma.mean() < 0.08:
        return "grey"
    red, green, blue = np.moveaxis(rgb, 2, 0)
    span = np.where(chroma > 0, chroma, 1)
    hue = np.select(
        [most == red, most == green],
        [(green - blue) / span % 6, (blue - red) / span + 2],
        (red - green) / span + 4,
    )
    bins = np.searchsorted(_HUE_STARTS, 60 * hue, side="right")
    bins = np.where(60 * hue >= 345, 0, bins)
    return _HUES[np.bincount(bins.ravel(), chroma.ravel(), minlength=6).argmax()]


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
