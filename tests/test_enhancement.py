"""Feature enhancement: sizes, reach, and its start near the identity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.enhancement import DenseBlock, dense_enhancement, enhancement, plain_enhancement
from zoo_core.model import parameter_count


def test_sizes_are_the_published_ones() -> None:
    assert parameter_count(DenseBlock(3, 64, 32)) == 134_400
    assert parameter_count(DenseBlock(64, 3, 32)) == 134_339
    assert parameter_count(dense_enhancement(64, 32)) == 313_987
    assert parameter_count(dense_enhancement(24, 12, fold=4)) == 105_072
    assert parameter_count(plain_enhancement(64)) == 40_451
    assert parameter_count(plain_enhancement(24, fold=2)) == 10_428
    assert sum(isinstance(m, nn.Conv2d) for m in plain_enhancement(64).modules()) == 3


@pytest.mark.parametrize("kind", ["dense", "plain"])
@pytest.mark.parametrize("fold", [1, 2, 4])
def test_near_the_identity_at_first_and_exactly_it_without_the_last_convolution(kind: str, fold: int) -> None:
    torch.manual_seed(0)
    module = enhancement(kind, 16, 8, fold).requires_grad_(False)
    x = torch.rand(1, 3, 16, 24)
    out = module(x)
    assert not torch.equal(out, x)
    assert float((out - x).abs().max()) < 0.3
    nn.init.zeros_(module.last.weight)
    assert torch.equal(module(x), x)


def reach(module: nn.Module, side: int = 32) -> int:
    """How far one changed pixel is felt, in pixels."""
    x = torch.rand(1, 3, side, side)
    changed = x.clone()
    changed[0, 0, side // 2, side // 2] += 1
    felt: Tensor = (module(changed) - module(x)).detach().abs().amax((0, 1)) > 0
    return int((felt.nonzero() - side // 2).abs().max())


def test_three_convolutions_reach_three_pixels_and_folded_ones_seven_at_most() -> None:
    torch.manual_seed(0)
    assert reach(plain_enhancement(64)) == 3
    assert 3 < reach(plain_enhancement(24, fold=2)) <= 7


def test_kinds() -> None:
    assert isinstance(enhancement("none", 16, 8, 1), nn.Identity)
    with pytest.raises(UsageError, match="plain"):
        enhancement("dence", 16, 8, 1)
