"""Distillation of a teacher into a student in three phases of one run.

1. Feature alignment: rate, distortion, and the distance of six feature maps from the teacher's.
2. Channel distillation: the distance of the student's latent from the most informative channels of the
   teacher's, weighted by their information; features count a tenth of what they did.
3. Fine-tuning: rate and distortion alone.

A term of distillation is a share of the rate-distortion loss of its sample: `features` and `channels` are
the shares at the beginning of their phase, and they fall as the distance does. The adapters between the
networks learn with the student; neither they nor the teacher are in its weights. The optimiser starts afresh
at each border, and the learning rate is the run's own. Channels are chosen once, after `calibration` batches;
until then there is no term for them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.residual16 import FEATURES, ResidualTransform16
from zoo_core.model import CodecModel
from zoo_core.training.initial import fill
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms
from zoo_core.training.recipe import RunConfig
from zoo_feds.features import RunningVariance, identity_conv, recorded
from zoo_feds.information import (
    CALIBRATION,
    ChannelInformation,
    Distance,
    Select,
    Weights,
    divergence,
    squared,
)

PHASES = (0.4, 0.8)
"""Shares of the run at which phases 2 and 3 begin."""

_FADED = 0.1
"""Of the features' weight, in phase 2."""

log = logging.getLogger(__name__)


class Distillation(Objective):
    """The three phases of the module's docstring.

    Args:
        student: the model that is trained. teacher: a trained one; it is frozen.
        phases: see `PHASES`; (0.4, 1.0) has no fine-tuning, (0.0, 0.8) no feature alignment.
        features, channels: shares of the loss that the terms begin with; 0 for none.
        adapter_y: a 1x1 convolution between the latents; without it the student's own must match.
        ent_loss: distance of the channels, "mse" or "kl".
        weights, select: see `ChannelInformation`.
        staged: false for both terms at full weight up to phase 3.
        calibration: batches that tell which channels are informative.
        transform_rate: see `Objective`.

    Raises:
        UsageError: phases that do not rise, shares below 0, no batches to calibrate with, or no such choice.
    """

    units: Tensor
    phase: Tensor

    def __init__(
        self,
        student: CodecModel,
        teacher: CodecModel,
        phases: tuple[float, float] = PHASES,
        features: float = 0.2,
        channels: float = 0.2,
        adapter_y: bool = True,
        ent_loss: Distance = "mse",
        weights: Weights = "entropy",
        select: Select = "top",
        staged: bool = True,
        calibration: int = CALIBRATION,
        transform_rate: float = TRANSFORM_RATE,
    ):
        super().__init__(transform_rate)
        _check(phases, ent_loss, adapter_y, select)
        _check_numbers(features, channels, calibration)
        self.phases, self.shares = tuple(phases), (features, channels)
        self.ent_loss, self.staged = ent_loss, staged
        self.teacher = teacher.requires_grad_(False)
        mine, theirs = _transform(student), _transform(teacher)
        widths = zip(_feature_widths(mine), _feature_widths(theirs), strict=True)
        self.adapters = nn.ModuleList(identity_conv(*pair, bias=True) for pair in widths)
        self.variances = nn.ModuleList(RunningVariance(width) for width in _feature_widths(theirs))
        self.information = ChannelInformation(theirs.latent, mine.latent, select, weights, calibration)
        self.latent_variance = RunningVariance(theirs.latent)
        pair = (mine.latent, self.information.count)
        self.latent_adapter = identity_conv(*pair, bias=False) if adapter_y else nn.Identity()
        # What a share of 1 is worth: the first distance of each kind; 0 until it is known.
        self.register_buffer("units", torch.zeros(2))
        self.register_buffer("phase", torch.ones((), dtype=torch.long))

    def train(self, mode: bool = True) -> Distillation:
        super().train(mode)
        self.teacher.eval()
        return self

    def begin(self, model: CodecModel, progress: float) -> bool:
        before = int(self.phase)
        self.phase.fill_(1 + sum(progress >= border for border in self.phases))
        together = not self.staged and self.phase < 3
        self.adapters.requires_grad_(bool(self.phase == 1 or together))
        self.latent_adapter.requires_grad_(bool(self.phase == 2 or together))
        if before < self.phase == 3 and self.shares[1] and not self.information.complete:
            log.warning(
                "no channels were distilled: %d batches before phase 3 are too few for calibration=%d",
                int(self.information.batches),
                self.information.calibration,
            )
        return before != int(self.phase)

    def forward(self, model: CodecModel, x: Tensor, level: Tensor, **conditions: Any) -> Terms:
        if self.phase == 3:
            return super().forward(model, x, level, **conditions)
        with recorded(model.transform, _recorded(model)) as mine:
            out = model(x, level, **conditions)
        terms = Terms(*rate_distortion(x, out, level))
        with torch.no_grad(), recorded(self.teacher.transform, _recorded(self.teacher)) as theirs:
            self.information.observe(self.teacher(x, level)["likelihoods"]["y"])
        features, channels = self._weights()
        extra = torch.zeros_like(terms.loss)
        if features:
            extra = extra + features * self._relative(0, self.feature_distance(mine, theirs))
        if channels:
            distance = self.channel_distance(_latent(mine), _latent(theirs))
            extra = extra + channels * self._relative(1, distance)
        return terms._replace(loss=terms.loss + terms.loss.detach() * extra)

    def feature_distance(self, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
        """Mean over the six maps of the error relative to the variance of the teacher's, (B,)."""
        parts = []
        for name, adapter, variance in zip(FEATURES, self.adapters, self.variances, strict=True):
            error = (adapter(mine[name]).float() - theirs[name].float()).square().mean((1, 2, 3))
            parts.append(error / (variance(theirs[name]).mean() + 1e-6))
        return torch.stack(parts).mean(0)

    def channel_distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Weighted distance of the latents (B, M, h, w) in the selected channels, (B,)."""
        selected, adapted = self.information.selected, self.latent_adapter(mine)
        variance = self.latent_variance(theirs)[selected]
        theirs = theirs[:, selected]
        distance = (
            squared(adapted, theirs, variance) if self.ent_loss == "mse" else divergence(adapted, theirs)
        )
        return (self.information.weights * distance).sum(1)

    def _weights(self) -> tuple[float, float]:
        """Shares of features and channels in this phase; none of channels before they are chosen."""
        features, channels = self.shares
        if not self.information.complete:
            channels = 0.0
        if not self.staged:
            return features, channels
        return (features, 0.0) if self.phase == 1 else (_FADED * features, channels)

    def _relative(self, kind: int, distance: Tensor) -> Tensor:
        """A distance (B,) over the mean of the first finite one of its kind."""
        mean = distance.detach().mean()
        if self.units[kind] == 0 and mean.isfinite():  # anything else would stay for ever
            self.units[kind] = mean
        return distance / self.units[kind].clamp_min(1e-6)


def objective(
    model: CodecModel,
    teacher: str | None = None,
    distillation: bool | None = None,
    teacher_preset: str | None = None,
    teacher_settings: Mapping[str, Any] | None = None,
    transform_rate: float = TRANSFORM_RATE,
    **settings: Any,
) -> Objective:
    """Distillation from the weights in the file `teacher`; without one, or switched off, the plain loss.

    Args:
        teacher_preset: of the teacher; by default that of the student's family.
        teacher_settings: arguments of the teacher's factory other than the preset's.

    Raises:
        UsageError: distillation is asked for without a teacher, or there is no such preset.
        WeightsError: the file does not hold such a teacher.
    """
    if distillation is None:
        distillation = teacher is not None
        if not distillation and not model.transform.enlarged:
            log.warning("the student learns alone: name its teacher with --objective teacher=FILE")
    if not distillation:
        return Objective(transform_rate, **settings)
    if teacher is None:
        raise UsageError("distillation needs a teacher: --objective teacher=FILE (see the model card)")
    preset = teacher_preset or ("paper-teacher" if model.entropy_model.gains is None else "base-teacher")
    return Distillation(
        model,
        _trained(Path(teacher), preset, teacher_settings or {}),
        transform_rate=transform_rate,
        **settings,
    )


def _trained(path: Path, preset: str, settings: Mapping[str, Any]) -> CodecModel:
    teacher = RunConfig("feds", preset, settings).build()
    fill(teacher, path)
    return teacher


def _check(phases: tuple[float, float], ent_loss: Distance, adapter_y: bool, select: Select) -> None:
    first, second = phases
    if not 0 <= first <= second <= 1:
        raise UsageError(f"phases={phases}: two rising shares of the run are needed")
    if ent_loss not in ("mse", "kl"):
        raise UsageError(f"ent_loss={ent_loss}: choose mse or kl")
    if select == "all" and not adapter_y:
        raise UsageError("select=all needs the adapter: the latents have different numbers of channels")


def _check_numbers(features: float, channels: float, calibration: int) -> None:
    for name, share in (("features", features), ("channels", channels)):
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not 0 <= share < math.inf:
            raise UsageError(f"{name}={share}: give a share of the loss, 0 for none, 0.2 for a fifth")
    if type(calibration) is not int or calibration < 1:
        raise UsageError(f"calibration={calibration}: give a number of batches, 1 at least")


def _transform(model: CodecModel) -> ResidualTransform16:
    assert isinstance(model.transform, ResidualTransform16)
    return model.transform


def _feature_widths(transform: ResidualTransform16) -> tuple[int, ...]:
    """Channels of the modules in `FEATURES`."""
    return (*transform.widths, *transform.widths[::-1])


def _recorded(model: CodecModel) -> tuple[str, ...]:
    """Modules of the transform whose outputs are compared; the last one gives y, before quantisation."""
    *_, last = (name for name, _ in _transform(model).g_a.named_children())
    return (*FEATURES, f"g_a.{last}")


def _latent(found: Mapping[str, Tensor]) -> Tensor:
    """y among what was recorded."""
    (name,) = set(found) - set(FEATURES)
    return found[name]
