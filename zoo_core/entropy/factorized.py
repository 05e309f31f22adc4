"""Fully factorised prior: one learned density per channel (Balle et al. 2018, arXiv 1802.01436, appendix 6.1).

The density is a small monotone network per channel. Parameters are named, shaped and initialised as in
CompressAI's EntropyBottleneck, so that checkpoints can be mapped by name.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.entropy.tables import TOTAL, Table, table_from_pmf
from zoo_core.errors import WrongWeightsError
from zoo_core.layers.precision import full_precision
from zoo_core.layers.rate import LEVELS, RateGains

_FILTERS = (1, 3, 3, 3, 3, 1)
_INIT_SCALE = 10.0
_TAIL = 1e-9
_RADIUS = 64
"""Symbols beyond +-64 are escapes."""


class FactorizedPrior(nn.Module):
    """Density of the hyper-latent, (B, C, H, W), independent per channel."""

    frequencies: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        scale = _INIT_SCALE ** (1 / (len(_FILTERS) - 1))
        layers = list(zip(_FILTERS[:-1], _FILTERS[1:], strict=True))
        self.matrices = nn.ParameterList(
            torch.full((channels, o, i), math.log(math.expm1(1 / scale / o))) for i, o in layers
        )
        self.biases = nn.ParameterList(torch.empty(channels, o, 1).uniform_(-0.5, 0.5) for _, o in layers)
        self.factors = nn.ParameterList(torch.zeros(channels, o, 1) for _, o in layers[:-1])
        self.quantiles = nn.Parameter(torch.tensor([-_INIT_SCALE, 0.0, _INIT_SCALE]).repeat(channels, 1, 1))
        # Frequencies of -64..64 and the escape, per level and channel; zero outside a channel's range.
        # They travel with the weights, so that no machine computes them anew.
        self.register_buffer("frequencies", torch.zeros(LEVELS, channels, 2 * _RADIUS + 2, dtype=torch.int32))
        self._tables: dict[int, list[Table]] = {}

    def __getstate__(self) -> dict[str, object]:
        """What copies and pickles take along: not the coder's own tables, which they build again."""
        return {**self.__dict__, "_tables": {}}

    @property
    def medians(self) -> Tensor:
        """Centre of quantisation per channel, (1, C, 1, 1); learned by `quantile_loss` alone."""
        return self.quantiles[:, 0, 1].detach().view(1, -1, 1, 1)

    def logits(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Logit of the cumulative density at x, (C, 1, N)."""
        for i, matrix in enumerate(self.matrices):
            bias = self.biases[i]
            if frozen:
                matrix, bias = matrix.detach(), bias.detach()
            x = torch.matmul(F.softplus(matrix), x) + bias
            if i < len(self.factors):
                factor = self.factors[i].detach() if frozen else self.factors[i]
                x = x + torch.tanh(factor) * torch.tanh(x)
        return x

    def likelihood(self, x: Tensor, half_width: Tensor | float = 0.5) -> Tensor:
        """Probability of the interval x +- half_width, both (B, C, H, W) or broadcastable."""
        b, c, h, w = x.shape
        half = torch.as_tensor(half_width, dtype=x.dtype, device=x.device).expand(b, c, h, w)
        flat, half = (t.transpose(0, 1).reshape(c, 1, -1) for t in (x, half))  # (C, 1, B*H*W)
        # Differences of sigmoids need all their bits: the products stay in full precision under autocast.
        with full_precision(x):
            lower, upper = self.logits(flat - half), self.logits(flat + half)
        # Evaluate on the side where the sigmoids are small, to keep precision in the tails.
        sign = -torch.sign(lower + upper).detach()
        p = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return p.view(c, b, h, w).transpose(0, 1)

    def quantile_loss(self) -> Tensor:
        """Auxiliary loss that moves `quantiles` to the tails and the median of the density."""
        target = math.log(2 / _TAIL - 1)
        targets = torch.tensor([-target, 0.0, target], device=self.quantiles.device)
        return (self.logits(self.quantiles, frozen=True) - targets).abs().sum()

    @torch.no_grad()
    def update(self, gains: RateGains | None = None) -> None:
        """Build the integer tables of every level from the learned density."""
        symbols = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64).view(1, 1, 1, -1)
        rows = []
        precise = self if self.quantiles.dtype == torch.float64 else _double_copy(self)
        for level in range(1, LEVELS + 1):
            step: Tensor | float = 1.0
            if gains is not None:
                step = gains(torch.tensor([float(level)])).step.double()
            x = symbols.expand(1, self.channels, 1, -1) * step + precise.medians
            pmf = precise.likelihood(x, 0.5 * step)[0, :, 0]  # (C, 129)
            rows.append(torch.stack([_frequencies(row.numpy()) for row in pmf]))
        self.frequencies.copy_(torch.stack(rows))
        self._tables.clear()

    def tables(self, level: Tensor | None) -> list[Table]:
        """The table of every channel at the whole level nearest to `level`, (1,)."""
        row = 0 if level is None else int(level[0] + 0.5) - 1
        if row not in self._tables:
            self._tables[row] = [_table(f.numpy()) for f in self.frequencies[row].cpu()]
        return self._tables[row]

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._tables.clear()


def _double_copy(prior: FactorizedPrior) -> FactorizedPrior:
    copy = FactorizedPrior(prior.channels).double()
    copy.load_state_dict(prior.state_dict())
    return copy


def _frequencies(pmf: np.ndarray) -> Tensor:
    """Frequencies of a channel, (130,): symbols rarer than 2^-17 at both ends are left to the escape."""
    likely = np.flatnonzero(pmf > 0.5 / TOTAL)
    first, last = (likely[0], likely[-1]) if len(likely) else (_RADIUS, _RADIUS)
    table = table_from_pmf(pmf[first : last + 1], int(first) - _RADIUS)
    out = np.zeros(2 * _RADIUS + 2, np.int32)
    out[first : last + 1], out[-1] = table.frequencies[:-1], table.frequencies[-1]
    return torch.from_numpy(out)


def _table(frequencies: np.ndarray) -> Table:
    """Table from a stored row.

    Raises:
        WrongWeightsError: the row is no distribution.
    """
    used = np.flatnonzero(frequencies[:-1])
    if frequencies.sum() != TOTAL or (frequencies < 0).any() or not len(used) or frequencies[-1] == 0:
        raise WrongWeightsError(
            "the weights hold no usable table of the hyper-latent: run update(), or reload them"
        )
    inner = frequencies[used[0] : used[-1] + 1]
    if (inner == 0).any():
        raise WrongWeightsError("a table of the hyper-latent has a gap: the weights are damaged")
    return Table(int(used[0]) - _RADIUS, np.append(inner, frequencies[-1]).astype(np.int64))
