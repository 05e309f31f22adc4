"""A slice in two passes: what each pass sees, and residual prediction of a half."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo_core.entropy.autoregressive import convolutions
from zoo_core.entropy.checkerboard import CheckerboardSlice, HalfPrediction
from zoo_core.layers.checkerboard import CheckerboardContext, merge, split
from zoo_core.testing.poison import Recorder

WIDTH, SEEN = 4, 6


class OneElement(Recorder):
    """Changes one element of what a step returns."""

    def _result(self, value: Tensor) -> Tensor:
        if len(self.steps) - 1 == self.poisoned:
            value[:, :, 6, 3] += 3
        return value


def networks(seen: int) -> nn.Module:
    return convolutions((seen, 8, 2 * WIDTH), (1, 1), nn.GELU)


def predictions(kernel: int) -> tuple[nn.Module, nn.Module]:
    first, second = (convolutions((SEEN + WIDTH, 8, WIDTH), (kernel, kernel), nn.GELU) for _ in range(2))
    return first, second


def walk(part: CheckerboardSlice, changed: int | None = None) -> tuple[list[Tensor], Tensor]:
    """Parameters of both passes, and the decoded slice; one element of pass `changed` is another."""
    generator = torch.Generator().manual_seed(1)
    y, context = (torch.randn(1, c, 12, 12, generator=generator) * 3 for c in (WIDTH, SEEN))
    coder = OneElement(changed)
    with torch.inference_mode():
        out = part.code(coder, "y", y, (context,), None)
    return [torch.cat([step.mean, step.scale], 1) for step in coder.steps], out


def test_an_anchor_moves_the_twelve_others_around_it_and_no_anchor() -> None:
    torch.manual_seed(0)
    part = CheckerboardSlice(WIDTH, networks(SEEN), networks(SEEN + 8), CheckerboardContext(WIDTH, 8))
    clean, _ = walk(part)
    dirty, _ = walk(part, 0)
    assert len(clean) == 2 and torch.equal(clean[0], dirty[0])
    moved = (clean[1] - dirty[1]).abs().amax((0, 1), keepdim=True)
    where = (merge(torch.zeros_like(moved), moved)[0, 0] > 1e-6).nonzero().tolist()
    assert len(where) == 12 and all(abs(i - 6) <= 2 and abs(j - 6) <= 2 and (i + j) % 2 for i, j in where)
    last, _ = walk(part, 1)
    assert all(torch.equal(a, b) for a, b in zip(clean, last, strict=True))


def test_one_network_for_both_passes_sees_zeros_for_anchors() -> None:
    torch.manual_seed(0)
    net, context = networks(SEEN + 8), CheckerboardContext(WIDTH, 8)
    with torch.no_grad():
        context.conv.weight.zero_()
        context.conv.bias.zero_()
    silent = CheckerboardSlice(WIDTH, net, net, context, zeros=8)
    without = CheckerboardSlice(WIDTH, net, net, None, zeros=8)
    for a, b in zip(walk(silent)[0], walk(without)[0], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("half", [0, 1])
def test_prediction_of_a_half_is_that_of_the_whole_map(half: int) -> None:
    torch.manual_seed(0)
    context, anchors, others = (torch.randn(2, c, 5, w) for c, w in ((SEEN, 8), (WIDTH, 4), (WIDTH, 4)))
    for kernel in (1, 3):
        net = predictions(kernel)[half]
        whole = net(torch.cat([context, merge(anchors, others)], 1))
        found = HalfPrediction(net, half)(context, anchors, others)
        torch.testing.assert_close(found, split(whole)[half], rtol=1e-5, atol=1e-5)


def test_predictions_move_by_half_a_step_at_most_and_reach_the_second_pass() -> None:
    torch.manual_seed(0)
    nets = networks(SEEN), networks(SEEN + 8)
    plain = CheckerboardSlice(WIDTH, *nets, CheckerboardContext(WIDTH, 8))
    corrected = CheckerboardSlice(WIDTH, *nets, plain.local, predictions=predictions(3))
    (before, without), (after, with_them) = walk(plain), walk(corrected)
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
    moved = (split(with_them)[0] - split(without)[0]).abs()
    assert 0 < float(moved.max()) <= 0.5


def test_channels_may_be_hidden_from_the_prediction() -> None:
    torch.manual_seed(0)
    nets = [convolutions((SEEN - 2 + WIDTH, 8, WIDTH), (1, 1), nn.GELU) for _ in range(2)]
    part = CheckerboardSlice(
        WIDTH, networks(SEEN), networks(SEEN), None, predictions=(nets[0], nets[1]), hidden=2
    )
    assert walk(part)[1].shape == (1, WIDTH, 12, 12)
