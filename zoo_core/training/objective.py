"""What a run minimises: rate plus lambda times distortion, and what a method adds in training only.

A method that adds terms, schedules, frozen phases or helper networks derives from `Objective` and offers a
function `objective(model, **settings)` in the module that holds its factory; the settings come from
`zoo train --objective key=value`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.hooks import Entry
from zoo_core.model import CodecModel
from zoo_core.training.loss import rate_distortion

TRANSFORM_RATE = 0.2
"""Analysis and synthesis learn at this fraction of the learning rate.

Methods start them as a good transform of sums over hundreds of inputs, which steps of the size that the entropy
model needs would first undo. 1 suits random weights.
"""


class Terms(NamedTuple):
    """Of each sample, (B,) each: what is minimised, bits per pixel, and mean squared error (0..1)."""

    loss: Tensor
    bpp: Tensor
    mse: Tensor


class Objective(nn.Module):
    """bpp + lambda * 255^2 * MSE.

    Submodules of a derived class are networks that only training needs: they learn with the model and are
    kept in checkpoints, and no published weights contain them.

    Args:
        transform_rate: factor on the learning rate of analysis and synthesis.
    """

    def __init__(self, transform_rate: float = TRANSFORM_RATE):
        super().__init__()
        self.transform_rate = transform_rate

    def begin(self, model: CodecModel, progress: float) -> bool | None:
        """Called before each step with the share of the run that is done, 0 to 1: schedules, freezing.

        Returns:
            whether a new phase begins, in which the optimiser forgets what it knows of older gradients.
        """

    def conditions(self, x: Tensor, photos: Sequence[Tensor]) -> dict[str, Any]:
        """Side inputs (masks, captions) of a batch of crops, for methods that take them.

        Random choices belong to torch's default generator on the CPU, whose state checkpoints keep.

        Args:
            x: crops (B, 3, H, W) in [0, 1]. photos: the photo each was cut from, uint8 (3, H', W').

        Returns:
            what `forward` gets by keyword, and hands to the transform's `analysis`.
        """
        return {}

    def forward(self, model: CodecModel, x: Tensor, level: Tensor, **conditions: Any) -> Terms:
        """x (B, 3, H, W) in [0, 1], level (B,), side inputs -> the terms of each sample."""
        return Terms(*rate_distortion(x, model(x, level, **conditions), level))

    def learning_rate_factor(self, name: str) -> float:
        """Factor on the learning rate of the model's parameter `name`."""
        # Methods with several networks a side name them g_a_h, g_s_l and so on.
        return self.transform_rate if name.startswith(("transform.g_a", "transform.g_s")) else 1.0

    def helper_rate_factor(self, name: str) -> float:
        """Factor on the learning rate of the objective's own parameter `name`."""
        return 1.0


def build_objective(entry: Entry, model: CodecModel, settings: Mapping[str, Any]) -> Objective:
    """The method's own objective, or the plain one.

    Raises:
        UsageError: the method's objective does not take the settings.
    """
    make = getattr(importlib.import_module(entry.factory.partition(":")[0]), "objective", _plain)
    try:
        return make(model, **settings)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise UsageError(f"the objective of {entry.name!r} does not take {given}: {error}") from error


def _plain(model: CodecModel, **settings: Any) -> Objective:
    return Objective(**settings)
