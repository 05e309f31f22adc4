"""The training loop: one optimiser, cosine schedule, EMA weights, and a run folder that can be resumed.

A run folder holds `config.json`, `log.jsonl` (one line per report), `checkpoint.pt` (resume) and, at the
end, `weights.safetensors` (EMA, fp16).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_core.constants import LAMBDAS
from zoo_core.model import CodecModel, psnr_from_mse
from zoo_core.training.data import RandomCrops
from zoo_core.training.loss import LevelBalance, rate_distortion

LEVELS = len(LAMBDAS)


@dataclass(frozen=True)
class Recipe:
    """What one run does; everything that changes its result.

    Attributes:
        steps: optimiser steps. batch, crop: crops a step and their side in pixels.
        learning_rate: at the top of the schedule (cosine to 0 after `warmup` steps).
        clip: largest gradient norm. ema: decay of the averaged weights.
        level: train one level only; None for all levels of a variable-rate model.
        bf16: autocast of the networks; likelihoods stay in float32.
    """

    steps: int = 20_000
    batch: int = 16
    crop: int = 128
    learning_rate: float = 5e-4
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    jitter: float = 0.6
    seed: int = 0
    level: float | None = None
    bf16: bool = True


class Trainer:
    """Trains a model by a recipe and keeps its state in a run folder.

    Args:
        model: to be trained in place.
        crops: source of batches.
        recipe: what to do.
        folder: of the run; created.
        report: called with each log record (a dict).
    """

    def __init__(
        self,
        model: CodecModel,
        crops: RandomCrops,
        recipe: Recipe,
        folder: Path,
        report: Callable[[dict], None] = lambda record: None,
        device: str = "cpu",
    ):
        self.model = model.to(device).train()
        self.crops, self.recipe, self.folder, self.report = crops, recipe, folder, report
        self.device = torch.device(device)
        main = [p for n, p in model.named_parameters() if not n.endswith("quantiles")]
        self.parameters = main
        self.optimizer = torch.optim.Adam(main, recipe.learning_rate, foreach=True)
        self.auxiliary = torch.optim.Adam(
            [p for n, p in model.named_parameters() if n.endswith("quantiles")], 1e-3
        )
        self.average = [p.detach().clone() for p in model.parameters()]
        self.balance = LevelBalance(LEVELS)
        self.step = 0
        self.random = torch.Generator().manual_seed(recipe.seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(recipe), indent=1))

    def run(self, save_every: float = 60.0, report_every: int = 100) -> None:
        """Train to the last step, saving every `save_every` seconds."""
        saved = began = time.monotonic()
        first, sums = self.step, _Sums()
        while self.step < self.recipe.steps:
            sums.add(*self.train_step())
            if self.step % report_every == 0:
                rate = (self.step - first) * self.recipe.batch / (time.monotonic() - began)
                self._log(sums, rate)
                sums = _Sums()
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def train_step(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One optimiser step; returns level, loss, bpp and mse of each sample."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        x = self.crops.batch(self.recipe.batch).to(self.device)
        level = self._levels().to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            out = self.model(x, level)
        loss, bpp, mse = rate_distortion(x, out, level)
        self.optimizer.zero_grad(set_to_none=True)
        self.balance(loss, level).backward()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        self._auxiliary_step()
        self._update_average()
        self.step += 1
        return level, loss.detach(), bpp.detach(), mse.detach()

    def learning_rate(self) -> float:
        r = self.recipe
        if self.step < r.warmup:
            return r.learning_rate * (self.step + 1) / r.warmup
        return 0.5 * r.learning_rate * (1 + math.cos(math.pi * (self.step - r.warmup) / (r.steps - r.warmup)))

    def _levels(self) -> Tensor:
        """Levels of a batch: every level about equally often, in random order."""
        if self.recipe.level is not None:
            return torch.full((self.recipe.batch,), self.recipe.level)
        start = int(torch.randint(LEVELS, (), generator=self.random))
        return ((torch.arange(self.recipe.batch) + start) % LEVELS + 1).float()

    def _auxiliary_step(self) -> None:
        self.auxiliary.zero_grad(set_to_none=True)
        self.model.entropy_model.prior.quantile_loss().backward()
        self.auxiliary.step()

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average follows fast, so that the random start is soon forgotten.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - decay)

    def average_state(self) -> dict[str, Tensor]:
        """State dict with the averaged parameters."""
        state = dict(self.model.state_dict())
        names = [name for name, _ in self.model.named_parameters()]
        return state | dict(zip(names, self.average, strict=True))

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "balance": self.balance.mean,
            "step": self.step,
            "levels": self.random.get_state(),
            "crops": self.crops.random.bit_generator.state,
            "torch": torch.get_rng_state(),
        }
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "checkpoint.pt")

    def resume(self) -> bool:
        """Continue from the run folder's checkpoint, exactly; False if there is none."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.balance.mean, self.step = state["balance"], state["step"]
        self.random.set_state(state["levels"].cpu())
        self.crops.random.bit_generator.state = state["crops"]
        torch.set_rng_state(state["torch"].cpu())
        return True

    def _log(self, sums: _Sums, rate: float) -> None:
        record = {
            "step": self.step,
            "lr": self.learning_rate(),
            "crops_per_s": round(rate, 2),
            **sums.means(),
        }
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        self.report(record)


class _Sums:
    """Running sums of loss, rate and distortion per level between two reports."""

    def __init__(self) -> None:
        self.total = torch.zeros(LEVELS, 4, dtype=torch.float64)

    def add(self, level: Tensor, loss: Tensor, bpp: Tensor, mse: Tensor) -> None:
        rows = torch.stack((torch.ones_like(loss), loss, bpp, mse), 1).double().cpu()
        self.total.index_add_(0, level.round().long().cpu() - 1, rows)

    def means(self) -> dict[str, dict[str, float]]:
        result = {}
        for i, (count, loss, bpp, mse) in enumerate(self.total.tolist()):
            if count:
                result[f"q{i + 1}"] = {
                    "loss": round(loss / count, 5),
                    "bpp": round(bpp / count, 5),
                    "psnr": round(psnr_from_mse(mse / count), 3),
                }
        return result
