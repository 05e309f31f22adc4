"""Which channels of the teacher's latent tell most, by its own entropy model, and how a student matches them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError

Select = Literal["top", "random", "all"]
Weights = Literal["entropy", "uniform", "inverse"]
Distance = Literal["mse", "kl"]

CALIBRATION = 100
"""Batches over which the information of the channels is averaged."""

_EPSILON = 1e-6


class ChannelInformation(nn.Module):
    """Bits per element of each channel of the teacher's latent, and the channels that the student matches.

    The teacher does not change, so its first `calibration` batches are as good as any later ones. Once they
    are `complete`, the channels and their weights are fixed; before that they are not to be used.

    Args:
        channels: of the teacher's latent. count: channels K to match.
        select: the K with most bits, K at random, or all.
        weights: of the matched channels, by their bits, equal, or by the inverse of their bits; their sum is 1.
        calibration: batches over which the bits are averaged.
    """

    bits: Tensor
    batches: Tensor
    drawn: Tensor

    def __init__(
        self,
        channels: int,
        count: int,
        select: Select = "top",
        weights: Weights = "entropy",
        calibration: int = CALIBRATION,
    ):
        super().__init__()
        if select not in ("top", "random", "all") or weights not in ("entropy", "uniform", "inverse"):
            raise UsageError(
                f"select={select}, weights={weights}: choose top, random or all; entropy, uniform or inverse"
            )
        self.count = channels if select == "all" else min(count, channels)
        self.select, self.kind, self.calibration = select, weights, calibration
        self.register_buffer("bits", torch.zeros(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        order = torch.randperm(channels, generator=torch.Generator().manual_seed(0))
        self.register_buffer("drawn", order[: self.count].sort().values, persistent=False)

    @property
    def complete(self) -> bool:
        """Whether all batches of the calibration were seen."""
        return bool(self.batches >= self.calibration)

    @torch.no_grad()
    def observe(self, likelihoods: Tensor) -> None:
        """Take the likelihoods (B, C, H, W) of one more batch into account, until the calibration is complete.

        A batch that is not finite does not count: it would stay in the average for ever.
        """
        if self.complete:
            return
        bits = -likelihoods.log2().mean((0, 2, 3))
        if bits.isfinite().all():
            self.batches += 1
            self.bits.lerp_(bits, 1 / float(self.batches))

    @property
    def selected(self) -> Tensor:
        """Indices of the matched channels, rising, (K,); of two with equal bits the lower one goes first."""
        if self.select != "top":
            return self.drawn
        return self.bits.sort(descending=True, stable=True).indices[: self.count].sort().values

    @property
    def weights(self) -> Tensor:
        """Weight of each matched channel, (K,)."""
        bits = self.bits[self.selected] + _EPSILON
        raw = {"entropy": bits, "uniform": torch.ones_like(bits), "inverse": 1 / bits}[self.kind]
        return raw / raw.sum()


def squared(mine: Tensor, theirs: Tensor, variance: Tensor) -> Tensor:
    """Squared error of each channel relative to the variance (C,) of the teacher's: (B, C)."""
    error = (mine.float() - theirs.float()).square().mean((2, 3))
    return error / (variance + _EPSILON)


def divergence(mine: Tensor, theirs: Tensor) -> Tensor:
    """KL divergence of each channel, (B, C), of where the student's magnitude lies from where the teacher's does.

    The magnitudes of a channel become a distribution over positions by softmax.
    """
    log_mine, log_theirs = (F.log_softmax(y.float().abs().flatten(2), -1) for y in (mine, theirs))
    return F.kl_div(log_mine, log_theirs, reduction="none", log_target=True).sum(-1)
