"""Opening a run: model, photos, initial weights and precision put together, or taken up where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from zoo_core import registry
from zoo_core.device import checked_device, use_bf16
from zoo_core.errors import UsageError
from zoo_core.layers.rate import RateGains
from zoo_core.model import CodecModel
from zoo_core.training import checkpoint
from zoo_core.training.data import RandomCrops, load_photos, near
from zoo_core.training.imitation import Imitation, teacher_of
from zoo_core.training.initial import initialise
from zoo_core.training.loop import Trainer
from zoo_core.training.objective import Objective, build_objective
from zoo_core.training.recipe import RunConfig


def begin(
    config: RunConfig,
    folder: Path,
    device: str,
    report: Callable[[dict], None],
    precision: str = "auto",
) -> Trainer:
    """A trainer at the first step of a new run, whose configuration is now in `folder`.

    Args:
        precision: of the networks, "fp32", "bf16", or "auto" for bf16 where the device is faster with it.

    Raises:
        UsageError: the configuration does not fit the model, or there are no photos.
        WeightsError: the initial weights cannot be used.
    """
    place = checked_device(device)
    photos = load_photos(_data(config))
    model = _seeded(config)
    if not initialise(model, registry.find(config.method, "codec"), photos, config.init):
        config = replace(config, init="none")
    config = replace(config, recipe=replace(config.recipe, bf16=use_bf16(precision, place)))
    folder.mkdir(parents=True, exist_ok=True)
    config.write(folder)
    return _trainer(config, model, photos, folder, place, report)


def resume(config: RunConfig, folder: Path, device: str, report: Callable[[dict], None]) -> Trainer:
    """A trainer where the newest checkpoint in `folder` left it; at the start if there is none yet.

    Raises:
        UsageError: as `begin`, or the checkpoint is damaged.
    """
    place = checked_device(device)
    photos = load_photos(_data(config))
    model = _seeded(config)
    trainer = _trainer(config, model, photos, folder, place, report)
    if not trainer.resume():
        initialise(model.cpu(), registry.find(config.method, "codec"), photos, config.init)
        trainer = _trainer(config, model, photos, folder, place, report)
    return trainer


def newest(config: RunConfig, folder: Path) -> tuple[CodecModel, dict[str, Tensor], int]:
    """The model of a run, the averaged state of its newest checkpoint, and the step of that.

    Raises:
        UsageError: there is no checkpoint, or it does not fit the configuration.
    """
    saved = checkpoint.read(folder)
    model = config.build()
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(f"the checkpoint in '{folder}' is of another model: {reason}") from None
    return model, checkpoint.averaged(model, saved["model"], saved["average"]), saved["step"]


def _data(config: RunConfig) -> Path:
    if config.data is None:
        raise UsageError("no photos to train on: name their folder with --data")
    return Path(config.data)


def _seeded(config: RunConfig) -> CodecModel:
    """The model with the random weights of the run's seed, checked against the recipe."""
    torch.manual_seed(config.recipe.seed)
    model = config.build()
    every_rate = any(isinstance(module, RateGains) for module in model.modules())
    if config.recipe.level is None and not every_rate:
        raise UsageError(f"this model of {config.method!r} has a single rate: choose it with --level")
    if config.recipe.crop % model.downscale:
        raise UsageError(f"crops of {config.recipe.crop} pixels: choose a multiple of {model.downscale}")
    return model


def _objective(config: RunConfig, model: CodecModel) -> Objective:
    if config.like is None:
        return build_objective(registry.find(config.method, "codec"), model, config.objective)
    if config.objective:
        raise UsageError("a run that imitates has an objective of its own: leave --objective or --like out")
    return Imitation(model, teacher_of(config.like))


def _trainer(
    config: RunConfig,
    model: CodecModel,
    photos: Sequence[Tensor],
    folder: Path,
    device: torch.device,
    report: Callable[[dict], None],
) -> Trainer:
    recipe = config.recipe
    crops = RandomCrops(near(photos, device), recipe.crop, recipe.jitter, recipe.seed)
    objective = _objective(config, model)
    if config.init == "none" and "transform_rate" not in config.objective:
        objective.transform_rate = 1.0  # random weights have nothing to keep
    return Trainer(model, crops, recipe, folder, report, device, objective)
