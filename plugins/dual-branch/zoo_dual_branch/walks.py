"""Time of the walk beside that of a checkerboard: the abstract's "about twice as fast", in turns in one run.

    python -m zoo_dual_branch.walks PHOTO [--rounds 9] [--threads 2] [--quality 3]

All walks code the latents of one analysis. Weights are those that training starts from, for a photo's own
components; they skip fewer symbols than trained ones, alike in all walks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core import images
from zoo_core.cli import module
from zoo_core.constants import LAMBDAS
from zoo_core.errors import UsageError
from zoo_core.model import CodecModel, read_latents, write_latents
from zoo_dual_branch import PRESETS
from zoo_dual_branch.model import build, start

WALKS: dict[str, dict[str, Any]] = {
    "two latents, slices at once": {},
    "one latent, 5 slices in two passes each": {
        "lr_off": True,
        "checkerboard": True,
        "slices": (8, 8, 16, 24, 32),
    },
    "two latents, HR slices in two passes each": {"checkerboard": True},
}
"""Switches of each; the first is the method. The second makes ten passes over as many channels of y_h."""

_SIDE = 64
"""Pixels a side that all walks need: both latents and their hyper-latents then have an element."""


def prepared(photo: Tensor, switches: dict[str, Any]) -> tuple[CodecModel, tuple[Tensor, ...]]:
    """The model with these switches, ready for coding, and the latents of a photo (uint8, (3, H, W))."""
    torch.manual_seed(0)
    model = build(**{**PRESETS["base"], **switches})
    start(model, [photo])
    model.prepare()
    model.update()
    height, width = (n // model.downscale * model.downscale for n in photo.shape[1:])
    x = photo[None, :, :height, :width].float() / 255
    with torch.inference_mode():
        return model, model.transform.analysis(x.contiguous(memory_format=torch.channels_last))


def seconds(model: CodecModel, latents: tuple[Tensor, ...], level: float) -> tuple[float, float]:
    """Time of writing and of reading the latents once."""
    stride = model.transform.downscale
    size = latents[0].shape[-2] * stride, latents[0].shape[-1] * stride
    began = time.perf_counter()
    payload, calibration, _ = write_latents(model, latents, level)
    written = time.perf_counter()
    read_latents(model, payload, calibration, size, level)
    return written - began, time.perf_counter() - written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path, help="colour photo, 64x64 pixels at least")
    parser.add_argument("--rounds", type=int, default=9, help="that count, after one more (default: 9)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    parser.add_argument("--quality", type=float, default=3.0, help="level, 1 to 6 (default: 3)")
    return module.run(parser, _print, arguments)


def _print(args: argparse.Namespace) -> None:
    _check(args)
    torch.set_num_threads(args.threads)
    photo = _read(args.photo)
    walks = {name: prepared(photo, switches) for name, switches in WALKS.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in walks}
    for i in range(args.rounds + 1):
        for name, (model, latents) in walks.items():
            taken = seconds(model, latents, args.quality)
            if i:  # the first round warms up
                times[name].append(taken)
    medians = {name: _medians(taken) for name, taken in times.items()}
    own_write, own_read = next(iter(medians.values()))
    for name, (write, read) in medians.items():
        ratios = f"{write / own_write:.2f} x, {read / own_read:.2f} x"
        print(f"{name}: write {1000 * write:.0f} ms, read {1000 * read:.0f} ms ({ratios})")


def _check(args: argparse.Namespace) -> None:
    if min(args.rounds, args.threads) < 1:
        raise UsageError(f"--rounds {args.rounds} --threads {args.threads}: give 1 or more of each")
    if not 1 <= args.quality <= len(LAMBDAS):
        raise UsageError(f"--quality {args.quality:g}: give a level from 1 to {len(LAMBDAS)}")


def _read(path: Path) -> Tensor:
    """uint8 (3, H, W)."""
    picture = images.read(path)
    if picture.grey or min(picture.shape) < _SIDE:
        kind, (width, height) = "grey" if picture.grey else "colour", picture.size
        raise UsageError(
            f"'{path}' is {kind}, {width} x {height}: give a colour photo of at least {_SIDE} x {_SIDE} pixels"
        )
    return torch.from_numpy(picture.pixels).permute(2, 0, 1)


def _medians(taken: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(write for write, _ in taken), statistics.median(read for _, read in taken)


if __name__ == "__main__":
    sys.exit(main())
