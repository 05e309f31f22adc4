"""Deformable convolution against its definition, plain convolutions, and torchvision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core.layers import deformable
from zoo_core.layers.deformable import DeformableConv2d, deform_conv2d, deform_conv2d_plain


def inputs(groups: int, size: tuple[int, int] = (7, 5), spread: float = 3.0, masked: bool = False):
    generator = torch.Generator().manual_seed(groups)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    mask = noise(2, 9 * groups, *size).sigmoid() if masked else None
    return noise(2, 4, *size), spread * noise(2, 18 * groups, *size), noise(3, 4, 3, 3), noise(3), mask


def by_loop(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """The definition, element by element."""
    (batch, channels, height, width), groups = x.shape, offset.shape[1] // 18
    out = bias.double().view(1, -1, 1, 1).repeat(batch, 1, height, width)

    def read(plane: Tensor, y: float, x: float) -> float:
        total = 0.0
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(plane[row, column])
        return total

    for b in range(batch):
        for c in range(channels):
            g = c // (channels // groups)
            for k in range(9):
                for i in range(height):
                    for j in range(width):
                        dy, dx = offset[b, g * 18 + 2 * k : g * 18 + 2 * k + 2, i, j].tolist()
                        value = read(x[b, c], i - 1 + k // 3 + dy, j - 1 + k % 3 + dx)
                        factor = 1.0 if mask is None else float(mask[b, g * 9 + k, i, j])
                        out[b, :, i, j] += weight[:, c, k // 3, k % 3].double() * value * factor
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(7, 5), (1, 4), (3, 1)])
@pytest.mark.parametrize("groups", [1, 4])
def test_plain_form_is_the_definition(groups: int, size: tuple[int, int], masked: bool) -> None:
    x, offset, weight, bias, mask = inputs(groups, size, masked=masked)
    offset[0, :, 0, 0] = offset[0, :, 0, 0].round()  # whole offsets are a border of the interpolation
    found = deform_conv2d_plain(x, offset, weight, bias, mask)
    torch.testing.assert_close(found.double(), by_loop(x, offset, weight, bias, mask), rtol=0, atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_plain_form_is_torchvisions(groups: int, masked: bool, device: str) -> None:
    """Results and gradients, where torchvision's compiled operator runs."""
    try:
        from torchvision.ops import deform_conv2d as theirs

        theirs(
            *(torch.zeros(s, device=device) for s in ((1, 1, 3, 3), (1, 18, 3, 3), (1, 1, 3, 3))), padding=1
        )
    except Exception as error:
        pytest.skip(f"torchvision's operator does not run here: {str(error).splitlines()[0]}")
    gradients = []
    for function in (deform_conv2d_plain, lambda x, o, w, b, m: theirs(x, o, w, b, padding=1, mask=m)):
        leaves = [None if t is None else t.to(device).requires_grad_() for t in inputs(groups, masked=masked)]
        out = function(*leaves)
        out.square().sum().backward()
        gradients.append([out.detach(), *(t.grad for t in leaves if t is not None)])
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_the_definition(groups: int, masked: bool) -> None:
    """Of x, offsets, weight, bias and mask, against differences in float64; places may lie outside of the map."""
    values = inputs(groups, (3, 2), spread=1.0, masked=masked)
    leaves = [None if t is None else t[:1].double().requires_grad_() for t in values]
    assert torch.autograd.gradcheck(deform_conv2d_plain, leaves)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_operator_is_used_on_gpus() -> None:
    values = [None if t is None else t.cuda() for t in inputs(2, masked=True)]
    torch.testing.assert_close(
        deform_conv2d(*values).cpu(), deform_conv2d_plain(*values).cpu(), rtol=1e-4, atol=1e-4
    )


def test_a_broken_torchvision_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision.ops", None)
    assert deformable._torchvision.__wrapped__("meta") is None


def test_zero_offsets_are_a_convolution() -> None:
    x, offset, weight, bias, _ = inputs(2)
    found = deform_conv2d(x, torch.zeros_like(offset), weight, bias)
    torch.testing.assert_close(found, F.conv2d(x, weight, bias, padding=1), rtol=0, atol=1e-4)


def test_whole_offsets_read_a_shifted_window() -> None:
    """(dy, dx) = (1, 0) everywhere: the window starts in the row of its output instead of one above."""
    x, offset, weight, bias, _ = inputs(1)
    offset.zero_()[:, 0::2] = 1
    wanted = F.conv2d(F.pad(x, (1, 1, 0, 2)), weight, bias)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("modulated", [False, True])
def test_layer_starts_as_a_convolution_and_learns_to_move(modulated: bool) -> None:
    torch.manual_seed(0)
    layer, x = DeformableConv2d(8, 2, modulated), torch.randn(2, 8, 6, 6)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
    out = layer(x)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-4)
    out.square().sum().backward()
    assert all(p.grad.norm() > 0 for p in layer.parameters())


def test_frozen_layer_has_the_same_weights_and_never_moves() -> None:
    frozen, free = DeformableConv2d(8, 2, frozen=True), DeformableConv2d(8, 2)
    free.load_state_dict(frozen.state_dict())
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(frozen(x), free(x), rtol=0, atol=1e-4)
    frozen(x).sum().backward()
    assert frozen.offset.weight.grad is None


def test_places_are_exact_under_autocast() -> None:
    torch.manual_seed(0)
    x, offset, weight, bias, _ = inputs(2, (4, 300), spread=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = deform_conv2d(x, offset, weight, bias)
    wanted = deform_conv2d(x, offset, weight, bias)
    assert (found.float() - wanted).abs().max() < 0.05 * wanted.abs().max()
