"""The training loop: one optimiser, cosine schedule, EMA weights, and a run folder that can be resumed.

A run folder holds `config.json`, `log.jsonl` (one line per report), `checkpoint.pt` (resume) and, at the
end, `weights.safetensors` (EMA, fp16).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_core.constants import LAMBDAS
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.model import CodecModel, psnr_from_mse
from zoo_core.training import checkpoint
from zoo_core.training.data import RandomCrops
from zoo_core.training.loss import LevelBalance, distortion
from zoo_core.training.objective import Objective
from zoo_core.training.recipe import Recipe

LEVELS = len(LAMBDAS)
LOG_FILE = "log.jsonl"
CLOCK_WARMUP = 0.1
"""Largest share of a run by the clock that warms up; a slow machine makes few steps in it."""


class Trainer:
    """Trains a model by a recipe and keeps its state in a run folder.

    Args:
        model: to be trained in place.
        crops: source of batches.
        recipe: what to do.
        folder: of the run; created.
        report: called with each log record (a dict).
        device: of the training, as torch names it.
        objective: what to minimise; its own parameters learn with the model.
    """

    def __init__(
        self,
        model: CodecModel,
        crops: RandomCrops,
        recipe: Recipe,
        folder: Path,
        report: Callable[[dict], None] = lambda record: None,
        device: str | torch.device = "cpu",
        objective: Objective | None = None,
    ):
        self.model = model.to(device).train()
        self.objective = (objective or Objective()).to(device).train()
        self.crops, self.recipe, self.folder, self.report = crops, recipe, folder, report
        self.device = torch.device(device)
        groups = _parameter_groups(model, self.objective)
        self.parameters = [p for parameters in groups.values() for p in parameters]
        self.factors = list(groups)
        self.optimizer = torch.optim.Adam(
            [{"params": parameters} for parameters in groups.values()], recipe.learning_rate, foreach=True
        )
        self.priors = [m for m in model.modules() if isinstance(m, FactorizedPrior)]
        self.auxiliary = torch.optim.Adam([prior.quantiles for prior in self.priors], 1e-3)
        self.average = [p.detach().clone() for p in model.parameters()]
        self.balance = LevelBalance(LEVELS)
        self.step = 0
        self.seconds = 0.0
        self.random = torch.Generator().manual_seed(recipe.seed)
        self._stopping = False
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        save_every: float = 60.0,
        report_every: int = 100,
        progress: Callable[[int, float], None] = lambda step, rate: None,
    ) -> None:
        """Train to the end of the recipe or until `stop`, and save.

        Args:
            save_every: seconds between checkpoints.
            report_every: steps between log records.
            progress: called after each step with its number and the crops per second so far.
        """
        saved = began = time.monotonic()
        first, before, sums = self.step, self.seconds, _Sums()
        while not self.done and not self._stopping:
            sums.add(*self.train_step())
            self.seconds = before + time.monotonic() - began
            rate = (self.step - first) * self.recipe.batch / (self.seconds - before)
            progress(self.step, rate)
            if self.step % report_every == 0 or self.done:
                self._log(sums, rate)
                sums = _Sums()
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def stop(self) -> None:
        """Let `run` finish its step, save and return. Safe to call from a signal handler."""
        self._stopping = True

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1: of its steps, or of its minutes."""
        if self.recipe.minutes is None:
            return self.step / self.recipe.steps
        return min(1.0, self.seconds / (60 * self.recipe.minutes))

    @property
    def done(self) -> bool:
        return self.progress >= 1

    def train_step(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One optimiser step; returns level, loss, bpp and mse of each sample."""
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = self.learning_rate() * factor
        if self.objective.begin(self.model, self.progress):
            self.optimizer.state.clear()
        x = self.crops.batch(self.recipe.batch).to(self.device)
        level = self._levels().to(self.device)
        conditions = self.objective.conditions(x, self.crops.sources)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            loss, bpp, mse = self.objective(self.model, x, level, **conditions)
        self.optimizer.zero_grad(set_to_none=True)
        self.balance(loss, distortion(mse, level), level).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        if norm.isfinite():  # one broken batch must not poison weights and averages
            self.optimizer.step()
        self._auxiliary_step()
        self._update_average()
        self.step += 1
        return level, loss.detach(), bpp.detach(), mse.detach()

    def learning_rate(self) -> float:
        """Rate of the next step: linear warm-up, and a cosine to zero."""
        r = self.recipe
        if (
            r.minutes is not None
        ):  # how many steps will come is not known: at most a tenth of the time warms up
            warm = min(1.0, max((self.step + 1) / max(1, r.warmup), self.progress / CLOCK_WARMUP))
            return warm * _cosine(r.learning_rate, self.progress)
        if self.step < r.warmup:
            return r.learning_rate * (self.step + 1) / r.warmup
        return _cosine(r.learning_rate, (self.step - r.warmup) / max(1, r.steps - r.warmup))

    def _levels(self) -> Tensor:
        """Levels of a batch: every level about equally often, in random order."""
        if self.recipe.level is not None:
            return torch.full((self.recipe.batch,), self.recipe.level)
        start = int(torch.randint(LEVELS, (), generator=self.random))
        return ((torch.arange(self.recipe.batch) + start) % LEVELS + 1).float()

    def _auxiliary_step(self) -> None:
        self.auxiliary.zero_grad(set_to_none=True)
        torch.stack([prior.quantile_loss() for prior in self.priors]).sum().backward()
        self.auxiliary.step()

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average follows fast, so that the random start is soon forgotten.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - decay)

    def average_state(self) -> dict[str, Tensor]:
        """State dict with the averaged parameters."""
        return checkpoint.averaged(self.model, self.model.state_dict(), self.average)

    def save(self) -> None:
        """Replace the run folder's checkpoint by the state after the last whole step."""
        state = {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "balance": self.balance.mean,
            "step": self.step,
            "seconds": self.seconds,
            "levels": self.random.get_state(),
            "crops": self.crops.random.bit_generator.state,
            "torch": torch.get_rng_state(),
        }
        if self.device.type == "cuda":  # the noise of the likelihoods is drawn where the latents are
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.write(state, self.folder)

    def resume(self) -> bool:
        """Continue from the run folder's checkpoint, exactly; False if there is none."""
        if not (self.folder / checkpoint.CHECKPOINT_FILE).exists():
            self._forget_later_records()
            return False
        state = checkpoint.read(self.folder)
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.average = [tensor.to(self.device) for tensor in state["average"]]
        self.optimizer.load_state_dict(state["optimizer"])
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.balance.mean, self.step = state["balance"], state["step"]
        self.seconds = state.get("seconds", 0.0)
        self.random.set_state(state["levels"])
        self.crops.random.bit_generator.state = state["crops"]
        torch.set_rng_state(state["torch"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        self._forget_later_records()
        return True

    def _forget_later_records(self) -> None:
        """Drop the records of steps that will be made again, and a last one cut short."""
        path = self.folder / LOG_FILE
        kept = [record for record in read_log(path) if record["step"] <= self.step]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def _log(self, sums: _Sums, rate: float) -> None:
        record = {
            "step": self.step,
            "lr": self.learning_rate(),
            "crops_per_s": round(rate, 2),
            **sums.means(),
        }
        with (self.folder / LOG_FILE).open("a") as log:
            log.write(json.dumps(record) + "\n")
        self.report(record)


def _cosine(top: float, done: float) -> float:
    """From `top` at 0 to zero at 1."""
    return 0.5 * top * (1 + math.cos(math.pi * done))


def _parameter_groups(model: CodecModel, objective: Objective) -> dict[float, list[nn.Parameter]]:
    """Everything but the quantiles, by the factor on the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not name.endswith("quantiles"):
            groups.setdefault(objective.learning_rate_factor(name), []).append(parameter)
    for name, parameter in objective.named_parameters():
        groups.setdefault(objective.helper_rate_factor(name), []).append(parameter)
    return groups


def read_log(path: Path) -> list[dict]:
    """The records of a log; one that a crash cut short is left out, and a missing log is empty."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


class _Sums:
    """Means of loss, rate and distortion per level between two reports.

    The figures stay on the device until they are asked for: a GPU need not stop for them at each step.
    """

    def __init__(self) -> None:
        self.rows: list[Tensor] = []  # (B, 4) of each step

    def add(self, level: Tensor, loss: Tensor, bpp: Tensor, mse: Tensor) -> None:
        self.rows.append(torch.stack((level, loss, bpp, mse), 1))

    def means(self) -> dict[str, dict[str, float]]:
        rows = torch.cat(self.rows).cpu().double()
        total = torch.zeros(LEVELS, 4, dtype=torch.float64)
        counted = torch.cat((torch.ones(len(rows), 1, dtype=torch.float64), rows[:, 1:]), 1)
        total.index_add_(0, rows[:, 0].round().long() - 1, counted)
        result = {}
        for i, (count, loss, bpp, mse) in enumerate(total.tolist()):
            if count:
                result[f"q{i + 1}"] = {
                    "loss": round(loss / count, 5),
                    "bpp": round(bpp / count, 5),
                    "psnr": round(psnr_from_mse(mse / count), 3),
                }
        return result
