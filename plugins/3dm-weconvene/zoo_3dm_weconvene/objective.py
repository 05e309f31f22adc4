"""Two-step training: first plain rate, then separate weights for low and high frequencies.

    loss = R_z + w_L R_LF + w_H R_HF + lambda * 255^2 * MSE

The paper says only that training "first balances" the two rates and then fine-tunes with separate
weightings; the rule here is our reconstruction. At the switch the shares q_L, q_H of the two rates in the
last steps before it are frozen, and for a ratio rho = w_H / w_L the weights are such that
q_L w_L + q_H w_H = 1, so lambda keeps its meaning. Figures are always of true bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_3dm_weconvene.entropy import NAMES
from zoo_core.errors import UsageError
from zoo_core.model import CodecModel, bits
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms

_MOMENTUM = 0.99


class TwoStep(Objective):
    """The objective of the module's docstring.

    Args:
        rho: w_H / w_L of the second step; 1 for one-step training (the control).
        switch: share of the run at which the second step begins, 0 to 1.
        transform_rate: see `Objective`.
    """

    shares: Tensor

    def __init__(self, rho: float = 1.0, switch: float = 0.8, transform_rate: float = TRANSFORM_RATE):
        super().__init__(transform_rate)
        if rho <= 0 or not 0 <= switch <= 1:
            raise UsageError(f"rho={rho}, switch={switch}: rho must be above 0, switch between 0 and 1")
        self.rho, self.switch = rho, switch
        self.register_buffer("shares", torch.tensor([0.5, 0.5]))  # running means of q_L, q_H
        self.weighted = False

    def begin(self, model: CodecModel, progress: float) -> None:
        self.weighted = progress >= self.switch

    def weights(self) -> Tensor:
        """(w_L, w_H) of the present step."""
        if not self.weighted:
            return torch.ones(2, device=self.shares.device)
        low = 1 / (self.shares[0] + self.rho * self.shares[1])
        return torch.stack([low, self.rho * low])

    def forward(self, model: CodecModel, x: Tensor, level: Tensor) -> Terms:
        out = model(x, level)
        loss, bpp, mse = rate_distortion(x, out, level)
        pixels = x.shape[-2] * x.shape[-1]
        rates = torch.stack([bits({name: out["likelihoods"][name]}) / pixels for name in NAMES])  # (2, B)
        if not self.weighted:
            mean = rates.detach().mean(1)
            self.shares.lerp_(mean / mean.sum(), 1 - _MOMENTUM)
        extra = ((self.weights() - 1)[:, None] * rates).sum(0)
        return Terms(loss + extra, bpp, mse)


def objective(model: CodecModel, **settings: float) -> Objective:
    """Two-step training; a model without 3DWeChARM has one group only and trains plainly."""
    if model.entropy_model.high is None:
        return Objective(settings.get("transform_rate", TRANSFORM_RATE))
    return TwoStep(**settings)
