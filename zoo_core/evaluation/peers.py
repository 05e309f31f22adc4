"""CompressAI's reference models beside the zoo's in `zoo bench`.

Their trained weights are not at hand everywhere, and random ones give the same arithmetic but trivial symbols,
which would flatter their entropy coder. So scales and symbols of the main latent are replaced, in encoder and
decoder alike, by drawn ones that are distributed as those of trained models: log-normal scales with median
0.05 and Laplacian symbols, 0.3 to 0.7 bits per pixel.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo_core.compressai_bridge import import_compressai
from zoo_core.evaluation.benchmark import Timing

PEERS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "mbt2018_mean": ("compressai.zoo", "mbt2018_mean", (3,)),
    "cheng2020_attn": ("compressai.zoo", "cheng2020_attn", (3,)),
    "elic2022_official": ("compressai.models.sensetime", "Elic2022Official", ()),
    "elic2022_chandelier": ("compressai.models.sensetime", "Elic2022Chandelier", ()),
}
"""Module, function or class, and arguments (the quality) of each."""

_MEDIAN_SCALE, _SPREAD, _SCALES = -3.0, 1.75, (0.02, 30.0)


class PeerContender:
    """A reference model of CompressAI: the arithmetic of a trained one, with drawn symbols."""

    def __init__(self, name: str, picture: Path) -> None:
        import torch

        self.name = f"compressai {name}"
        self._picture = picture
        import_compressai()
        module, factory, arguments = PEERS[name]
        build = getattr(importlib.import_module(module), factory)
        torch.manual_seed(0)
        start = time.perf_counter()
        self._model = build(*arguments).eval()
        self.load_seconds = time.perf_counter() - start
        self._model.update(force=True)
        self._drawn = _draw_symbols(self._model)
        self._coded: dict[str, Any] = {}
        self._size = (0, 0)

    def encode(self) -> Timing:
        return self._timed(self._encode)

    def decode(self) -> Timing:
        return self._timed(self._decode)

    def _timed(self, work: Callable[[], None]) -> Timing:
        import torch

        for drawn in self._drawn:
            drawn.restart()
        start = time.perf_counter()
        with torch.inference_mode():
            work()
        return Timing(time.perf_counter() - start)

    def _encode(self) -> None:
        import torch

        from zoo_core import images

        pixels = images.read(self._picture, convert=True).pixels
        height, width = pixels.shape[:2]
        self._size = height, width
        x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
        x = torch.nn.functional.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate")
        self._coded = self._model.compress(x)

    def _decode(self) -> None:
        from PIL import Image

        x_hat = self._model.decompress(self._coded["strings"], self._coded["shape"])["x_hat"]
        height, width = self._size
        pixels = x_hat[0, :, :height, :width].clamp(0, 1).mul(255).round().byte()
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


class _DrawnSymbols:
    """Scales and symbols for a GaussianConditional, the same in the same order after each `restart`.

    They are drawn once, so that drawing them does not count as the model's time.
    """

    def __init__(self, conditional: Any) -> None:
        self._index, self._quantize = conditional.build_indexes, conditional.quantize
        conditional.build_indexes, conditional.quantize = self._indexes, self._symbols
        self._kept: list[tuple[Any, Any]] = []
        self._place = 0

    def restart(self) -> None:
        """Begin again with the first."""
        self._place = 0

    def _indexes(self, scales: Any) -> Any:
        if self._place == len(self._kept):
            self._kept.append(self._drawn(scales.shape))
        self._place += 1
        return self._index(self._kept[self._place - 1][0])

    def _symbols(self, inputs: Any, mode: str, means: Any = None) -> Any:
        if mode == "symbols":
            return self._kept[self._place - 1][1]
        return self._quantize(inputs, mode, means)

    def _drawn(self, shape: Any) -> tuple[Any, Any]:
        import torch

        generator = torch.Generator().manual_seed(len(self._kept))
        spread = torch.randn(shape, generator=generator)
        scales = (_SPREAD * spread + _MEDIAN_SCALE).exp().clamp(*_SCALES)
        uniform = torch.rand(shape, generator=generator) - 0.5
        laplace = -scales / 2**0.5 * uniform.sign() * (1 - 2 * uniform.abs()).clamp_min(1e-6).log()
        return scales, laplace.round().int()


def _draw_symbols(model: Any) -> list[_DrawnSymbols]:
    from compressai.entropy_models import GaussianConditional

    return [_DrawnSymbols(m) for m in model.modules() if isinstance(m, GaussianConditional)]
