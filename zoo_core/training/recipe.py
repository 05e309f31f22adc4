"""What a training run is: its recipe and the model it trains, kept in the run's folder.

Nothing here needs torch, so that the command line can show the defaults without loading it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import registry
from zoo_core.errors import PluginError, UsageError

if TYPE_CHECKING:
    from zoo_core.model import CodecModel

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Recipe:
    """What one run does; with the model and the photos, everything that changes its result.

    Attributes:
        steps: optimiser steps.
        minutes: length by the clock instead, for a machine that is rented: the schedule follows the time spent.
        batch, crop: crops a step and their side in pixels. Smaller crops teach the model borders: in whole
            pictures it then meets surroundings that it never saw.
        learning_rate: at the top of the schedule (cosine to 0 after `warmup` steps).
        clip: largest gradient norm. ema: decay of the averaged weights.
        jitter: smallest factor by which the source of a crop is reduced.
        level: train one level only; None for all levels of a variable-rate model.
        bf16: autocast of the networks; likelihoods stay in float32.
    """

    steps: int = 20_000
    minutes: float | None = None
    batch: int = 8
    crop: int = 256
    learning_rate: float = 5e-4
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    jitter: float = 0.6
    seed: int = 0
    level: float | None = None
    bf16: bool = True


@dataclass(frozen=True)
class RunConfig:
    """A run: which model, from which start, on which photos, by which recipe.

    Attributes:
        method, preset: as in `zoo list`.
        settings: arguments of the factory that differ from the preset's.
        init: "block" for the method's own start, "none" for random weights, or a safetensors file; None
            for the method's own start where it has one.
        like: trained method that the model imitates, in the place of the method's own objective.
        objective: settings of the method's own objective.
        data: folder of the photos.
    """

    method: str
    preset: str = "base"
    settings: Mapping[str, Any] = field(default_factory=dict)
    init: str | None = None
    like: str | None = None
    objective: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    recipe: Recipe = field(default_factory=Recipe)

    def build(self) -> CodecModel:
        """The model with its initial random weights.

        Raises:
            UsageError: no such preset, or the factory does not take the settings.
        """
        entry = registry.find(self.method, "codec")
        if self.preset not in entry.presets or not self.settings:
            return registry.build(entry, self.preset)
        words = {key: _Word(value) for key, value in self.settings.items() if isinstance(value, str)}
        arguments = {**entry.presets[self.preset], **self.settings, **words}
        try:
            return registry.build(dataclasses.replace(entry, presets={self.preset: arguments}), self.preset)
        except PluginError as error:
            if isinstance(error.__cause__, ImportError):
                raise
            given = ", ".join(f"{key}={value}" for key, value in self.settings.items())
            raise UsageError(f"{self.method!r} cannot be built with {given}: {error.__cause__}") from error

    def write(self, folder: Path) -> None:
        """Keep the configuration in the run's folder, as flat JSON."""
        flat = {**{k: v for k, v in vars(self).items() if k != "recipe"}, **asdict(self.recipe)}
        (folder / CONFIG_FILE).write_text(json.dumps(flat, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path, method: str) -> RunConfig:
        """The configuration of the run in `folder`.

        Raises:
            UsageError: there is no run, its configuration is damaged, or it trains another method.
        """
        path = folder / CONFIG_FILE
        try:
            flat = {"method": method, **json.loads(path.read_text())}
            names = {f.name for f in dataclasses.fields(Recipe)}
            recipe = Recipe(**{k: flat.pop(k) for k in names & flat.keys()})
            config = cls(recipe=recipe, **flat)
        except FileNotFoundError:
            raise UsageError(f"'{folder}' holds no {CONFIG_FILE}: name the folder of a run") from None
        except (ValueError, TypeError) as error:
            raise UsageError(f"'{path}' is no configuration of a run: {error}") from error
        if config.method != method:
            raise UsageError(f"'{folder}' trains {config.method!r}, not {method!r}: name another folder")
        return config


class _Word(str):
    """Text as a factory's argument. Where a switch is wanted, `off` must not count as true, as texts do."""

    def __bool__(self) -> bool:
        raise ValueError(f"{str(self)!r} is neither true nor false")
