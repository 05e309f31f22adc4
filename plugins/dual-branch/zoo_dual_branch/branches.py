"""What each branch does in a trained model: its bits, what the picture owes to it, what the condition saves.

    python -m zoo_dual_branch.branches PHOTOS --quality 3 [--weights FILE | --start PHOTOS]

prints means over the photos. A branch without bits, or one that the synthesis ignores, would show here.
`--start` shows the weights that training on a folder starts from, in the place of trained ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import zoo_core as zoo
from zoo_core import registry
from zoo_core.cli import module
from zoo_core.errors import UsageError
from zoo_core.model import CodecModel, bits
from zoo_core.training.data import load_photos
from zoo_core.training.initial import initialise
from zoo_dual_branch.entropy import DualBranchEntropy

_LOW = 1 / 16
"""Cycles per pixel up to which a frequency is low."""


@torch.inference_mode()
def rates(model: CodecModel, x: Tensor, level: Tensor) -> dict[str, Tensor]:
    """Bits per pixel of z_h, y_h, z_l and y_l in coding order, (B,) each, of x (B, 3, H, W) at levels (B,)."""
    _, coder = model.estimate(x, level)
    pixels = x.shape[-2] * x.shape[-1]
    return {name: bits({name: likelihood}) / pixels for name, likelihood in coder.likelihoods.items()}


@torch.inference_mode()
def lr_in_picture(model: CodecModel, x: Tensor, level: Tensor) -> dict[str, Tensor]:
    """What the picture loses with another y_l, (B,) each; two different pictures at least.

    "zeroed" and "swapped" are decibels of PSNR lost with zeros and with the next picture's y_l; "low" is the
    share of the swap's difference image at up to 1/16 cycles per pixel.
    """
    (y_h, y_l), _ = model.estimate(x, level)
    right = model.transform.synthesis((y_h, y_l))
    zeroed = model.transform.synthesis((y_h, torch.zeros_like(y_l)))
    swapped = model.transform.synthesis((y_h, y_l.roll(1, 0)))
    loss = {"zeroed": _decibels(zeroed, x, right), "swapped": _decibels(swapped, x, right)}
    return loss | {"low": low_share(swapped - right)}


@torch.inference_mode()
def condition_saves(model: CodecModel, x: Tensor, level: Tensor) -> Tensor:
    """Relative rise of the bits of the latent coded second when each picture is given the next one's
    condition: (B,), for two different pictures at least.

    Raises:
        UsageError: the model has no condition.
    """
    entropy = model.entropy_model
    assert isinstance(entropy, DualBranchEntropy)
    if entropy.condition is None:
        raise UsageError("this model has no condition: its order is 'none'")
    second = "y_l" if entropy.order == "hl" else "y_h"
    right = rates(model, x, level)[second]
    hook = entropy.condition.register_forward_hook(lambda _net, _inputs, c: c.roll(1, 0))
    try:
        return rates(model, x, level)[second] / right - 1
    finally:
        hook.remove()


def low_share(difference: Tensor) -> Tensor:
    """Share of the energy of pictures (B, C, H, W) at up to 1/16 cycles per pixel, (B,)."""
    height, width = difference.shape[-2:]
    power = torch.fft.fft2(difference).abs().square().sum(1)  # (B, H, W)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    low = rows.square() + columns.square() <= _LOW**2
    return (power * low).sum((1, 2)) / power.sum((1, 2))


def _decibels(worse: Tensor, x: Tensor, right: Tensor) -> Tensor:
    errors = [(y.clamp(0, 1) - x).square().mean((1, 2, 3)) for y in (worse, right)]
    return 10 * (errors[0] / errors[1]).log10()


def report(model: CodecModel, photos: Sequence[Tensor], quality: float) -> dict[str, float]:
    """Means of all figures over the middles of `photos` (uint8, (3, H, W)), all cut to the same square.

    Raises:
        UsageError: fewer than two photos, or the model has a single branch.
    """
    if len(photos) < 2 or model.entropy_model.lr is None:
        raise UsageError("this needs two photos and a model with both branches")
    side = min(min(photo.shape[1:]) for photo in photos) // model.downscale * model.downscale
    x = torch.stack([_middle(photo, side) for photo in photos])
    level = torch.full((len(photos),), quality)
    found = rates(model, x, level)
    total = torch.stack(list(found.values())).sum(0)
    figures = {f"bpp_{name}": rate for name, rate in found.items()}
    figures["lr_share"] = (found["z_l"] + found["y_l"]) / total
    figures |= lr_in_picture(model, x, level)
    if model.entropy_model.condition is not None:
        figures["condition"] = condition_saves(model, x, level)
    return {name: round(float(values.mean()), 4) for name, values in figures.items()}


def _middle(photo: Tensor, side: int) -> Tensor:
    """uint8 (3, H, W) -> (3, side, side) in [0, 1]."""
    top, left = (photo.shape[1] - side) // 2, (photo.shape[2] - side) // 2
    return photo[:, top : top + side, left : left + side].float() / 255


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--quality", type=float, default=3.0, help="level, 1 to 6 (default: 3)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=Path, help="file to use instead of the published weights")
    weights.add_argument("--start", type=Path, help="folder: the weights that training on it starts from")
    return module.run(parser, _print, arguments)


def _print(args: argparse.Namespace) -> None:
    model = zoo.load("dual-branch", quality=args.quality, weights=args.weights).model
    if args.start is not None:  # after `load`, which checks the quality
        model = _started(args.start)
    print(json.dumps(report(model, load_photos(args.photos), args.quality), indent=1))


def _started(folder: Path) -> CodecModel:
    """As `zoo train` begins with the photos of a folder."""
    entry = registry.find("dual-branch", "codec")
    model = registry.build(entry)
    initialise(model, entry, load_photos(folder), "block")
    return model.prepare()


if __name__ == "__main__":
    sys.exit(main())
