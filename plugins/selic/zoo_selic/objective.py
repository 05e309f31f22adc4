"""Captions in training: each crop has the embedding of a caption of its photo, or none.

Captions describe whole photos, of which a crop shows a part. Embeddings are made once for each photo. No crop
is ever given a caption of another photo.
"""

from __future__ import annotations

import hashlib
import json
import logging
import numbers
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.model import CodecModel
from zoo_core.training.objective import TRANSFORM_RATE, Objective
from zoo_selic import captioners, encoder
from zoo_selic.encoder import TextEncoderMissing

log = logging.getLogger("zoo_core.selic")  # below the zoo's own, which its commands show

DROPOUT = 0.15
"""Share of the crops that get no text, from which the null text learns."""

TRIAL = 256
"""Crops after which a file of captions that has none for any photo so far is taken for the file of other photos.

An objective sees photos as crops are drawn from them, never all of them.
"""


class Captioned(Objective):
    """Rate and distortion of crops with captions.

    Args:
        size: numbers D of an embedding.
        captions: texts of each photo by `photo_key`; None for sentences of statistics.
        dropout: share of the crops without text, from 0 to below 1. transform_rate: see `Objective`.

    Raises:
        UsageError: `dropout` is no such share; in training, none of the first photos has a caption.
    """

    def __init__(
        self,
        size: int,
        captions: dict[str, list[str]] | None,
        dropout: float = DROPOUT,
        transform_rate: float = TRANSFORM_RATE,
    ):
        super().__init__(transform_rate)
        number = isinstance(dropout, numbers.Real) and not isinstance(dropout, bool)
        if not number or not 0 <= dropout < 1:
            raise UsageError(
                f"dropout={dropout}: the share of crops without text is a number from 0 to below 1 (for no text at "
                "all, captions=none)"
            )
        self.size, self.captions, self.dropout = size, captions, dropout
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # by identity: photo, embeddings
        self._crops = 0

    def conditions(self, x: Tensor, photos: Sequence[Tensor]) -> dict[str, Tensor]:
        rows = [self._drawn(self.embeddings(photo)) for photo in photos]
        before, self._crops = self._crops, self._crops + len(rows)
        if not before or before < TRIAL <= self._crops:
            self._check_photos()
        return {"caption": torch.stack(rows).to(x.device)}

    def embeddings(self, photo: Tensor) -> Tensor:
        """Embeddings of a photo's captions, (count, D); made at the first time."""
        if id(photo) not in self._known:
            texts = self._texts(photo)
            vectors = torch.stack([encoder.embed(t) for t in texts]) if texts else torch.zeros(0, self.size)
            self._known[id(photo)] = (
                photo,
                vectors.half(),
            )  # holds the photo, so that no other gets its identity
        return self._known[id(photo)][1].float()

    def _check_photos(self) -> None:
        """Say how many of the photos so far have no caption: their crops are told nothing."""
        seen, without = len(self._known), sum(not len(vectors) for _, vectors in self._known.values())
        if without == seen and self._crops >= TRIAL:
            raise UsageError(
                f"the file of captions has none for the {seen} photos of the first {self._crops} crops: write it for "
                "the photos of --data, and write it again where their pixels have changed"
            )
        if without:
            log.warning(
                "of the photos of the first %d crops %d of %d have no caption in the file: their crops get no text",
                self._crops,
                without,
                seen,
            )

    def _texts(self, photo: Tensor) -> list[str]:
        if self.captions is None:
            return [captioners.stats(photo.permute(1, 2, 0).cpu().numpy())]
        return self.captions.get(photo_key(photo), [])

    def _drawn(self, vectors: Tensor) -> Tensor:
        """One of the embeddings of a photo, or zeros for no text: (D,)."""
        kept = bool(torch.rand(()) >= self.dropout)
        pick = torch.rand(())
        if not kept or not len(vectors):
            return torch.zeros(self.size)
        return vectors[int(pick * len(vectors))]


def objective(
    model: CodecModel,
    captions: str | None = None,
    dropout: float = DROPOUT,
    transform_rate: float = TRANSFORM_RATE,
) -> Objective:
    """What a run minimises.

    Args:
        captions: "stats" (sentences of statistics; where the text encoder is installed, the default), "none"
            (the text is always null: the control of equal size), or a file of captions.

    Raises:
        UsageError: the text encoder does not fit the preset or is missing, or the file cannot be used.
    """
    if model.transform.text is None or captions == "none":
        return Objective(transform_rate)
    try:
        encoder.installed()
    except TextEncoderMissing as error:
        if captions is None:
            log.warning("training with the null text: %s", error)
            return Objective(transform_rate)
        raise UsageError(f"captions={captions}: {error}") from error
    if model.transform.embedding != encoder.EMBEDDING:
        raise UsageError(
            f"this preset takes vectors of {model.transform.embedding} numbers, the text encoder gives "
            f"{encoder.EMBEDDING}: train with --set embedding={encoder.EMBEDDING} or --objective captions=none"
        )
    found = None if captions in (None, "stats") else read_captions(Path(captions))
    return Captioned(encoder.EMBEDDING, found, dropout, transform_rate)


def photo_key(photo: Tensor) -> str:
    """SHA-256 of a photo's pixels, uint8 (3, H, W): of its bytes row by row, RGB by RGB, after "WxH:"."""
    pixels = photo.permute(1, 2, 0).cpu().contiguous().numpy()
    size = f"{photo.shape[2]}x{photo.shape[1]}:".encode()
    return hashlib.sha256(size + pixels.tobytes()).hexdigest()


def read_captions(path: Path) -> dict[str, list[str]]:
    """A file of captions: a JSON object a line, with "image" (see `photo_key`) and "captions", a list of texts.

    `python -m zoo_selic.captioning` writes one to begin with.

    Raises:
        UsageError: the file cannot be read, or a line is not of that form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read captions in '{path}': {error}") from error
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            texts = [text for text in entry["captions"] if text.strip()]
            found[str(entry["image"])] = texts
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"'{path}', line {number}: no captions of an image ({error})") from error
    return found
