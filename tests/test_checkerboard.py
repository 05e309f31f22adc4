"""The checkerboard against its definition and against CompressAI's masked convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zoo_core.compressai_bridge import import_compressai
from zoo_core.errors import UsageError
from zoo_core.layers.checkerboard import TAPS, CheckerboardContext, merge, neighbours, split

SIZES = [(2, 2), (1, 4), (4, 6), (5, 2), (7, 8)]


def field(height: int, width: int, channels: int = 3, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_halves_are_the_colours_of_the_board(size: tuple[int, int]) -> None:
    x = field(*size)
    anchors, others = split(x)
    assert anchors.shape == others.shape == (2, 3, size[0], size[1] // 2)
    for i in range(size[0]):
        assert torch.equal(anchors[:, :, i], x[:, :, i, i % 2 :: 2])
        assert torch.equal(others[:, :, i], x[:, :, i, 1 - i % 2 :: 2])
    assert torch.equal(merge(anchors, others), x)


@pytest.mark.parametrize("size", SIZES)
def test_context_is_the_masked_convolution(size: tuple[int, int]) -> None:
    context = CheckerboardContext(3, 4).double()
    dense = torch.zeros(4, 3, 5, 5, dtype=torch.float64)
    for k, (i, j) in enumerate(TAPS):
        dense[:, :, i, j] = context.conv.weight.view(4, 3, 12)[:, :, k]
    anchors, others = split(field(*size))
    seen = merge(anchors, torch.zeros_like(others))
    wanted = split(F.conv2d(seen, dense, context.conv.bias, padding=2))[1]
    torch.testing.assert_close(context(anchors), wanted, rtol=0, atol=1e-12)


def test_context_is_compressais() -> None:
    try:
        import_compressai()
    except UsageError as error:
        pytest.skip(str(error))
    from compressai.layers import CheckerboardMaskedConv2d

    theirs = CheckerboardMaskedConv2d(3, 4, kernel_size=5, padding=2).double()
    ours = CheckerboardContext(3, 4).double()
    taps = [theirs.weight.detach()[:, :, i, j] for i, j in TAPS]
    ours.load_state_dict(
        {"conv.weight": torch.stack(taps, 2).view(4, 36, 1, 1), "conv.bias": theirs.bias.detach()}
    )
    anchors, others = split(field(6, 8))
    wanted = split(theirs(merge(anchors, torch.zeros_like(others))))[1]
    torch.testing.assert_close(ours(anchors), wanted, rtol=0, atol=1e-12)


def test_an_anchor_reaches_twelve_elements() -> None:
    anchors = torch.zeros(1, 1, 9, 5)
    anchors[0, 0, 4, 2] = 1  # row 4, column 4
    hits = merge(torch.zeros(1, 1, 9, 5), neighbours(anchors).sum(1, keepdim=True))[0, 0]
    assert hits.sum() == 12
    assert [(int(i) - 2, int(j) - 2) for i, j in hits.nonzero()] == list(TAPS)
