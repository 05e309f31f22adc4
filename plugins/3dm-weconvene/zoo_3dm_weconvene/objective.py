"""Two-step training: first plain rate, then separate weights for low and high frequencies.

    loss = R_z + w_L R_LF + w_H R_HF + lambda * 255^2 * MSE

The paper says only that training "first balances" the two rates and then fine-tunes with separate
weightings; the rule here is our reconstruction, and its first step balances nothing: both weights are 1.
At the switch the shares q_L, q_H that the two rates have had of late are frozen, for each level apart. For a
ratio rho = w_H / w_L the weights of a level are such that q_L w_L + q_H w_H = 1: its mean rate counts at the
switch as it did before, and lambda keeps its meaning there. Figures are always of true bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo_3dm_weconvene.entropy import NAMES
from zoo_core.constants import LAMBDAS
from zoo_core.errors import UsageError
from zoo_core.model import CodecModel, bits
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms

_MOMENTUM = 0.99
_LEVELS = len(LAMBDAS)


class TwoStep(Objective):
    """The objective of the module's docstring.

    Args:
        rho: w_H / w_L of the second step; 1 for one-step training (the control).
        switch: share of the run at which the second step begins, 0 to 1; above 0 unless rho is 1.
        transform_rate: see `Objective`.

    Attributes:
        rates: running means of R_LF and R_HF of each level in bits per pixel, (6, 2), towards 0 where they began.

    Raises:
        UsageError: rho or switch make no sense.
    """

    rates: Tensor

    def __init__(self, rho: float = 1.0, switch: float = 0.8, transform_rate: float = TRANSFORM_RATE):
        super().__init__(transform_rate)
        if not 0 < rho < math.inf or not 0 <= switch <= 1:
            raise UsageError(f"rho={rho}, switch={switch}: rho must be above 0, switch between 0 and 1")
        if switch == 0 and rho != 1:
            raise UsageError(
                f"rho={rho}, switch=0: the weights follow from rates measured before the switch: "
                "choose a switch above 0"
            )
        self.rho, self.switch = rho, switch
        self.register_buffer("rates", torch.zeros(_LEVELS, 2))
        self.weighted = False

    def begin(self, model: CodecModel, progress: float) -> None:
        self.weighted = progress >= self.switch

    def shares(self) -> Tensor:
        """q_L, q_H of each level, (6, 2); halves for a level that was not seen before the switch.

        Both means start at 0 and miss the same part of their value, which the quotient cancels.
        """
        total = self.rates.sum(1, keepdim=True)
        return torch.where(total > 0, self.rates / total, 0.5)

    def weights(self, level: Tensor) -> Tensor:
        """w_L, w_H of each sample at the present step, (2, B); exactly 1 for the control."""
        if not self.weighted or self.rho == 1:
            return torch.ones(2, len(level), device=self.rates.device)
        low, high = self.shares()[_index(level)].T
        weight = 1 / (low + self.rho * high)
        return torch.stack([weight, self.rho * weight])

    def forward(self, model: CodecModel, x: Tensor, level: Tensor) -> Terms:
        out = model(x, level)
        loss, bpp, mse = rate_distortion(x, out, level)
        pixels = x.shape[-2] * x.shape[-1]
        rates = torch.stack([bits({name: out["likelihoods"][name]}) / pixels for name in NAMES])  # (2, B)
        if not self.weighted:
            self._measure(rates.detach(), level)
        else:
            loss = loss + ((self.weights(level) - 1) * rates).sum(0)
        return Terms(loss, bpp, mse)

    def _measure(self, rates: Tensor, level: Tensor) -> None:
        """Move the means of the levels in a batch; what is not finite would stay in them for ever.

        A sum, not a matrix product, which autocast would round to bfloat16.
        """
        finite = rates.isfinite().all(0)
        levels = torch.arange(_LEVELS, device=level.device)
        member = (_index(level)[:, None] == levels) & finite[:, None]  # (B, 6)
        count = member.sum(0)[:, None]
        total = torch.where(member[..., None], rates.T[:, None], 0).sum(0)  # (6, 2)
        self.rates.copy_(torch.lerp(total / count.clamp_min(1), self.rates, _MOMENTUM**count))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes checkpoints up to version 0.4.0 too, which have one pair of shares for all levels."""
        shares = state_dict.pop(prefix + "shares", None)
        if shares is not None:
            state_dict[prefix + "rates"] = shares.expand(_LEVELS, 2)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _index(level: Tensor) -> Tensor:
    """Levels 1 to 6 -> rows 0 to 5, each the nearest one's."""
    return level.round().long() - 1


def objective(model: CodecModel, **settings: Any) -> Objective:
    """Two-step training; a model without 3DWeChARM has one group only and trains plainly.

    Raises:
        UsageError: settings of the two steps for a model that has one rate.
    """
    if model.entropy_model.high is not None:
        return TwoStep(**settings)
    if given := sorted(settings.keys() & {"rho", "switch"}):
        raise UsageError(f"a model without 3DWeChARM has one rate only: leave {' and '.join(given)} out")
    return Objective(**settings)
