"""What the encoder is told about a picture: the caption given, else a captioner's, else nothing.

A picture can always be coded. Whatever is missing (text encoder, network, package) leads to the null text and
one note in the log, unless `strict_text` asks for an error. Mistakes raise always: a caption of another type, a
vector of another size, an unknown captioner. Nothing is looked up or imported unless a caption or a captioner
is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo_core.errors import SideInputError
from zoo_selic import captioners, encoder
from zoo_selic.encoder import TextEncoderMissing

log = logging.getLogger(__name__)

Captioner = Literal["stats", "hub"] | Callable[[np.ndarray], str] | None
Caption = str | np.ndarray | Tensor | list | tuple | None


class CaptionTypeError(SideInputError, TypeError):
    """A caption is neither text nor a vector, or a captioner is none.

    A mistake in a program, therefore a TypeError; and one line on the command line, therefore a SideInputError.
    """


class Resolved(NamedTuple):
    """What was found.

    Attributes:
        vector: (D,) of length 1; None for the null text.
        text: "caption", "vector" or "null". source: "user", "stats", "hub", "callable" or "none".
        caption: the text used; None where there is none. note: why it is not what was asked for.
    """

    vector: Tensor | None
    text: str = "null"
    source: str = "none"
    caption: str | None = None
    note: str | None = None

    def tell(self, info: dict[str, Any]) -> None:
        """Write it into a dictionary of the user's, in the place of what an earlier picture left there."""
        found = {"text": self.text, "text_source": self.source, "caption": self.caption, "note": self.note}
        for name, value in found.items():
            info.pop(name, None)
            if value is not None:
                info[name] = value


def resolve(
    pixels: np.ndarray, size: int, caption: Caption = None, captioner: Captioner = None, strict: bool = False
) -> Resolved:
    """The text of a picture.

    Args:
        pixels: uint8 (H, W[, 3]). size: numbers D of an embedding.
        caption: text, or its embedding. captioner: what to ask where there is no caption.
        strict: raise where the text cannot be had.

    Raises:
        CaptionTypeError: the caption is neither text nor an array, list or tuple of numbers (a single number is
            none either), or the captioner is none.
        SideInputError: an array of another shape than (D,), not finite, or all zero; with `strict`, whatever
            leads to the null text.
    """
    found = _resolve(pixels, size, caption, captioner)
    if found.note is not None:
        wanted = caption is not None or captioner is not None
        if strict and found.vector is None:
            raise SideInputError(f"{found.note}: give a caption that can be used, or leave strict_text out")
        log.log(logging.WARNING if wanted and found.vector is None else logging.INFO, "%s", found.note)
    return found


def _resolve(pixels: np.ndarray, size: int, caption: Caption, captioner: Captioner) -> Resolved:
    if caption is not None and not isinstance(caption, str):
        return Resolved(_vector(caption, size), "vector", "user")
    if caption is not None and caption.strip():
        return _embedded(caption, size, "user")
    if captioner is None:
        return Resolved(None, note="no caption; null text used")
    source, ask = _asked(captioner)
    try:
        text = ask(pixels)
        if not isinstance(text, str) or not text.strip():
            raise ValueError("it returned no text")
    except Exception as error:  # a captioner is a stranger's code, and a picture can do without
        reason = " ".join(str(error).split()) or type(error).__name__
        return Resolved(None, note=f"captioner failed ({reason}); null text used")
    return _embedded(text, size, source)


def _embedded(text: str, size: int, source: str) -> Resolved:
    try:
        vector = encoder.embed(text)
    except TextEncoderMissing as error:
        return Resolved(None, note=f"{error}; null text used")
    if len(vector) != size:
        return Resolved(
            None,
            note=f"this preset takes vectors of {size} numbers, the text encoder gives {len(vector)}; null text used",
        )
    note = "statistics sentence, not semantic" if source == "stats" else None
    return Resolved(vector, "caption", source, text, note)


def _vector(caption: object, size: int) -> Tensor:
    """A vector as it was given, scaled to length 1, on the CPU and without gradient."""
    try:
        vector = _numbers(caption)
    except (TypeError, ValueError, RuntimeError):
        raise CaptionTypeError(
            f"a caption is text or a vector of {size} numbers, not {type(caption).__name__}"
        ) from None
    length = float(vector.norm()) if vector.shape == (size,) else float("nan")
    if not np.isfinite(length) or length == 0:
        raise SideInputError(
            f"a caption's vector has {size} finite numbers, not all zero; this one has shape {tuple(vector.shape)}"
        )
    return vector / length


def _numbers(caption: object) -> Tensor:
    """An array of real numbers in float32; TypeError, ValueError or RuntimeError for anything else."""
    if isinstance(caption, Tensor):
        if caption.is_complex():
            raise TypeError
        return caption.detach().cpu().float()
    array = np.asarray(caption)
    single = array.ndim == 0 and not isinstance(caption, np.ndarray)
    if single or array.dtype.kind not in "biuf":
        raise TypeError
    return torch.from_numpy(array.astype(np.float32))


def _asked(captioner: Captioner) -> tuple[str, Callable[[np.ndarray], str]]:
    """Name and function of a captioner."""
    if captioner == "stats":
        return "stats", captioners.stats
    if captioner == "hub":
        return "hub", captioners.hub
    if callable(captioner):
        return "callable", captioner
    raise CaptionTypeError(f"a captioner is stats, hub or a function of the picture, not {captioner!r}")
