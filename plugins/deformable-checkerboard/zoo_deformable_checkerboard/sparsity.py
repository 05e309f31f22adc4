"""What a trained model leaves out: channels of the latent that hold nothing, and light components of mixtures.

    python -m zoo_deformable_checkerboard.sparsity PHOTOS --quality 3 [--weights FILE]

prints a line for each photo, and one for all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import zoo_core as zoo
from zoo_core.cli import module
from zoo_core.entropy.integer_mixture import IntegerMixture
from zoo_core.entropy.stream import Encoder
from zoo_core.model import CodecModel
from zoo_core.training.data import load_photos
from zoo_deformable_checkerboard.entropy import CheckerboardEntropy


class Counting(Encoder):
    """Counts channels without symbols, and slots: symbols in the windows of all mixtures, escapes included."""

    def __init__(self) -> None:
        super().__init__()
        self.empty = self.slots = 0

    def channels(self, name, latent, count, gain=None):
        used = super().channels(name, latent, count, gain)
        self.empty += int((~used).sum())
        return used

    def mixture(self, name, latent, parameters, gain=None):
        scaled = parameters if gain is None else parameters.scaled(gain.scale)
        for window in IntegerMixture.nearest(scaled).windows():
            self.slots += len(window.where) * (window.escape + 1)
        return super().mixture(name, latent, parameters, gain)


@torch.inference_mode()
def count(model: CodecModel, photo: Tensor, quality: float) -> dict[str, int]:
    """Empty channels of one photo, uint8 (3, H, W); slots and bytes of its symbols, with and without the light
    components. The model is ready for coding.
    """
    x = photo[None].float() / 255
    x = F.pad(x, (0, -x.shape[3] % model.downscale, 0, -x.shape[2] % model.downscale), "replicate")
    latents = tuple(y.double().contiguous() for y in model.transform.analysis(x))
    shapes = model.transform.latent_shapes(*x.shape[2:])

    def coded() -> tuple[int, int, int]:
        coder = Counting()
        model.entropy_model.code(coder, latents, shapes, torch.tensor([quality], dtype=torch.float64))
        return coder.empty, coder.slots, len(coder.payload()) + len(coder.calibration())

    empty, slots, size = coded()
    with _all_components(model):
        _, slots_of_all, size_of_all = coded()
    return {
        "empty": empty,
        "slots": slots,
        "slots_of_all": slots_of_all,
        "bytes": size,
        "bytes_of_all": size_of_all,
    }


@contextmanager
def _all_components(model: CodecModel) -> Iterator[None]:
    """Light components count again."""
    assert isinstance(model.entropy_model, CheckerboardEntropy)
    least = model.entropy_model.least_weight
    before = least.clone()
    least.zero_()
    try:
        yield
    finally:
        least.copy_(before)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--quality", type=float, default=3.0, help="level, 1 to 6 (default: 3)")
    parser.add_argument("--weights", type=Path, help="file to use instead of the published weights")
    return module.run(parser, _print, arguments)


def _print(args: argparse.Namespace) -> None:
    codec = zoo.load("deformable-checkerboard", quality=args.quality, weights=args.weights)
    found = [count(codec.model, photo, codec.quality) for photo in load_photos(args.photos)]
    for row in found:
        print(json.dumps(row))
    print(json.dumps({"sum of all": {name: sum(row[name] for row in found) for name in found[0]}}))


if __name__ == "__main__":
    sys.exit(main())
