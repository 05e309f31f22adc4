"""Rate plus lambda times distortion, balanced over the levels of a variable-rate model."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.constants import LAMBDAS
from zoo_core.model import bits_per_pixel


def lambda_of(level: Tensor) -> Tensor:
    """Trade-off at real levels (B,), geometric between whole levels."""
    table = torch.tensor(LAMBDAS, device=level.device).log()
    below = (level - 1).floor().long().clamp(0, len(LAMBDAS) - 2)
    return torch.lerp(table[below], table[below + 1], level - 1 - below).exp()


def rate_distortion(x: Tensor, out: dict, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, bits per pixel and mean squared error (0..1) of each sample, (B,) each.

    loss = bpp + lambda * 255^2 * MSE, CompressAI's convention.
    """
    bpp = bits_per_pixel(out["likelihoods"], x.shape[-2] * x.shape[-1])
    mse = (out["x_hat"].float() - x).square().mean(dim=(1, 2, 3))
    return bpp + distortion(mse, level), bpp, mse


def distortion(mse: Tensor, level: Tensor) -> Tensor:
    """Mean squared errors (0..1) of samples, (B,), weighted as in the loss."""
    return lambda_of(level) * 255**2 * mse


class LevelBalance:
    """Weights the loss of each level so that no level rules the gradient.

    A level counts by the inverse of a running mean of its weighted distortion, lambda * 255^2 * MSE. At every
    rate that is about the same share of an optimal loss, and unlike the estimated rate it does not contain
    what uniform noise charges for empty symbols, about 0.28 bits per pixel that no file has to pay.
    """

    def __init__(self, levels: int, momentum: float = 0.99):
        self.mean = torch.ones(levels)
        self.momentum = momentum

    def __call__(self, loss: Tensor, distortion: Tensor, level: Tensor) -> Tensor:
        """Mean of the weighted losses; loss, distortion and level are those of each sample, (B,)."""
        index = level.round().long() - 1
        self.mean = self._after(index, distortion.detach())
        return (loss / self.mean[index]).mean()

    def _after(self, index: Tensor, distortion: Tensor) -> Tensor:
        """The running means with a batch more, on its device, so that a GPU need not stop for them.

        What is not finite does not count: it would stay in the mean for ever.
        """
        finite = distortion.isfinite()
        levels = torch.arange(len(self.mean), device=distortion.device)
        member = ((index[:, None] == levels) & finite[:, None]).to(distortion.dtype)  # (B, levels)
        count = member.sum(0)
        average = distortion.where(finite, 0) @ member / count.clamp_min(1)
        return torch.lerp(average, self.mean.to(average), self.momentum**count)
