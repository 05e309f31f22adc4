"""What keeps the LR branch alive in early training: a head of its own, and pictures without the HR latent.

The synthesis can learn to ignore y_l, which then costs no bits, and the method becomes a codec with one
branch. Two measures of our own work against that in the first fifth of a run. Neither is in the weights, and
neither acts unless asked for: the block-transform start gives y_l a task from the first step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.residual import subpel_conv
from zoo_core.model import CodecModel, bits
from zoo_core.training.block_start import GREY
from zoo_core.training.loss import distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms
from zoo_dual_branch.entropy import DualBranchEntropy

PHASE = 0.2
"""Share of a run in which the measures act."""

THUMBNAIL = 8
"""The head shows the picture at an eighth of its size."""


class LivingBranches(Objective):
    """bpp + lambda * 255^2 * (MSE + w * MSE of the head), in training with some y_h left out.

    The head sees y_l alone: (B, M_l, H/2s, W/2s) -> (B, 3, H/8, W/8).

    Args:
        channels: M_l. stride: of y_l, 2s; a multiple of 8.
        aux: w of the first step; it falls to 0 within the first fifth of the run. 0 for no head, else 0.25.
        hr_dropout: probability that a sample of that fifth reaches the synthesis with zeros for y_h; its
            rate is then not counted. 0 for never, else 0.1.
        transform_rate: see `Objective`.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        aux: float = 0.0,
        hr_dropout: float = 0.0,
        transform_rate: float = TRANSFORM_RATE,
    ):
        super().__init__(transform_rate)
        self.aux, self.hr_dropout = aux, hr_dropout
        self.head = _grey_head(channels, stride // THUMBNAIL) if aux else None
        self.left = 1.0

    def begin(self, model: CodecModel, progress: float) -> None:
        self.left = max(0.0, 1 - progress / PHASE)

    def forward(self, model: CodecModel, x: Tensor, level: Tensor) -> Terms:
        latents, coder = model.estimate(x, level)
        kept = self._kept(x)
        y_h, y_l = latents
        x_hat = model.transform.synthesis((torch.where(kept[:, None, None, None], y_h, 0), y_l))
        rates = {name: bits({name: p}) for name, p in coder.likelihoods.items()}  # (B,) each
        rates["y_h"] = torch.where(kept, rates["y_h"], 0)
        bpp = torch.stack(list(rates.values())).sum(0) / (x.shape[-2] * x.shape[-1])
        mse = _mse(x_hat, x)
        return Terms(bpp + distortion(mse + self._head_loss(y_l, x), level), bpp, mse)

    def _kept(self, x: Tensor) -> Tensor:
        """Samples whose y_h the synthesis sees, (B,) bool."""
        probability = self.hr_dropout if self.training and self.left > 0 else 0.0
        return torch.rand(len(x), device=x.device) >= probability

    def _head_loss(self, y_l: Tensor, x: Tensor) -> Tensor | float:
        """w times the squared error of the head's picture, (B,)."""
        if self.head is None or self.left == 0 or not self.training:
            return 0.0
        return self.aux * self.left * _mse(self.head(y_l), F.avg_pool2d(x, THUMBNAIL))


def _grey_head(channels: int, upscale: int) -> nn.Sequential:
    """It starts with grey pictures; random ones of an unscaled latent would drown every other term."""
    head = subpel_conv(channels, 3, upscale)
    for name, parameter in head.named_parameters():
        nn.init.constant_(parameter, GREY if name.endswith("bias") else 0)
    return head


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b).square().mean(dim=(1, 2, 3))


def objective(
    model: CodecModel, *, aux: float = 0.0, hr_dropout: float = 0.0, transform_rate: float = TRANSFORM_RATE
) -> Objective:
    """`LivingBranches`; a model of a single branch trains plainly, whatever the measures for a second one are.

    Raises:
        UsageError: a setting out of its range, in a model of a single branch too.
    """
    # Written so that NaN and infinity, which the command line takes, do not pass.
    if not (0 <= aux < math.inf and 0 <= hr_dropout <= 1 and 0 <= transform_rate < math.inf):
        raise UsageError(
            f"aux={aux}, hr_dropout={hr_dropout}, transform_rate={transform_rate}: "
            "hr_dropout is between 0 and 1, the others are 0 or more"
        )
    entropy = model.entropy_model
    assert isinstance(entropy, DualBranchEntropy)
    if entropy.lr is None:
        return Objective(transform_rate)
    stride = 2 * model.transform.downscale
    return LivingBranches(entropy.lr.latent, stride, aux, hr_dropout, transform_rate)
