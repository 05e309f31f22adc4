"""Layers against closed forms and against the libraries whose definitions they follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from zoo_core.compressai_bridge import import_compressai
from zoo_core.constants import LAMBDAS
from zoo_core.errors import UsageError
from zoo_core.layers import residual
from zoo_core.layers.bound import lower_bound, round_ste
from zoo_core.layers.depthwise import DepthwiseConv2d
from zoo_core.layers.gdn import GDN
from zoo_core.layers.rate import RateAffine, RateGains, interpolate
from zoo_core.layers.wavelet import WAVELETS, dwt, dwt2, dwt_channels, idwt2, idwt_channels

SIZES = [(1, 1), (1, 6), (2, 3), (7, 9), (8, 8), (33, 64)]
FILTERS = ("haar", "5/3", "9/7")
"""Wavelets proper; poly only sorts samples."""


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- wavelets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_wavelets_are_inverted(wavelet: str, size: tuple[int, int]) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x = noise(2, 3, *size, dtype=dtype)
        bands = dwt2(x, wavelet)
        assert {band.shape for band in bands} == {(2, 3, math.ceil(size[0] / 2), math.ceil(size[1] / 2))}
        assert (idwt2(*bands, size, wavelet) - x).abs().max() < tolerance


@pytest.mark.parametrize("wavelet", FILTERS)
def test_constants_have_no_high_band(wavelet: str) -> None:
    ll, *high = dwt2(torch.full((1, 1, 9, 12), 3.0, dtype=torch.float64), wavelet)
    assert max(band.abs().max() for band in high) < 1e-6
    assert (ll - 6).abs().max() < 1e-6


def test_ramps_have_no_high_band_inside_for_long_filters() -> None:
    ramp = torch.arange(32, dtype=torch.float64).view(1, 1, 1, -1)
    inner = {wavelet: dwt(ramp, -1, wavelet)[1][..., 3:-3].abs().max() for wavelet in FILTERS}
    assert inner["5/3"] < 1e-12 and inner["9/7"] < 1e-9
    assert inner["haar"] == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize(("wavelet", "name"), [("haar", "haar"), ("5/3", "bior2.2"), ("9/7", "bior4.4")])
def test_wavelets_are_pywavelets(wavelet: str, name: str) -> None:
    """Away from the border, up to the sign of the high band."""
    pywt = pytest.importorskip("pywt")
    x = noise(64)
    lo, hi = (band.numpy() for band in dwt(x, -1, wavelet))
    reference = pywt.dwt(x.numpy(), name, mode="periodization")
    for ours, theirs in zip((lo, hi), reference, strict=True):
        # Its periodic transform starts at another sample, so the whole band may be rotated.
        differences = [
            np.abs(sign * np.roll(theirs, shift) - ours)[4:-4].max()
            for shift in (-2, -1, 0, 1, 2)
            for sign in (1, -1)
        ]
        assert min(differences) < 1e-9


def test_haar_is_its_block_formula() -> None:
    a, b, c, d = (torch.tensor(value, dtype=torch.float64) for value in (0.3, -1.7, 4.1, 2.2))
    x = torch.stack([a, b, c, d]).view(1, 1, 2, 2)
    wanted = ((a + b + c + d) / 2, (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2)
    for band, value in zip(dwt2(x, "haar"), wanted, strict=True):
        assert band.item() == pytest.approx(value.item(), abs=1e-14)


def test_poly_only_sorts_samples() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    ll, lh, hl, hh = dwt2(x, "poly")
    assert torch.equal(ll, x[..., ::2, ::2]) and torch.equal(lh, x[..., 1::2, ::2])
    assert torch.equal(hl, x[..., ::2, 1::2]) and torch.equal(hh, x[..., 1::2, 1::2])


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_axes_count_from_both_ends(wavelet: str) -> None:
    x = noise(2, 6, 4)
    for ours, theirs in zip(dwt(x, 1, wavelet), dwt(x, -2, wavelet), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_channels_are_an_axis_like_others(wavelet: str) -> None:
    x = noise(2, 10, 3, 4)
    bands = dwt_channels(x, wavelet)
    for ours, lifted in zip(bands, dwt(x, 1, wavelet), strict=True):
        assert (ours - lifted).abs().max() < 1e-12
    assert (idwt_channels(*bands, wavelet) - x).abs().max() < 1e-12


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("size", [(7, 9), (8, 6)])
def test_wavelets_keep_the_memory_format(wavelet: str, size: tuple[int, int]) -> None:
    x = noise(2, 4, *size)
    packed = x.to(memory_format=torch.channels_last)
    bands, packed_bands = dwt2(x, wavelet), dwt2(packed, wavelet)
    back = idwt2(
        *(band.contiguous(memory_format=torch.channels_last) for band in packed_bands), size, wavelet
    )
    for ours, theirs in zip(packed_bands, bands, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(back, idwt2(*bands, size, wavelet))
    assert back.stride(1) == 1


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_wavelets_pass_gradients(wavelet: str) -> None:
    x = noise(1, 4, 5, 6).requires_grad_()
    torch.autograd.gradcheck(lambda x: dwt2(x, wavelet), x)
    torch.autograd.gradcheck(lambda x: idwt2(*dwt2(x, wavelet), (5, 6), wavelet), x)
    torch.autograd.gradcheck(lambda x: idwt_channels(*dwt_channels(x, wavelet), wavelet), x)


# --- memory used again -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        lambda: GDN(4),
        lambda: GDN(4, inverse=True),
        lambda: residual.ResidualBlock(4),
        lambda: residual.ResidualBlockWithStride(4, 4, 1),
        lambda: residual.ResidualBlockWithStride(4, 6),
        lambda: residual.ResidualBlockUpsample(4, 4),
    ],
)
def test_blocks_without_gradients_give_the_same_and_leave_their_input(block: Callable[[], nn.Module]) -> None:
    layer, x = block().double(), noise(2, 4, 6, 8)
    wanted, before = layer(x).detach(), x.clone()
    with torch.inference_mode():
        assert torch.equal(layer.requires_grad_(False)(x), wanted)
    assert torch.equal(x, before)


# --- depthwise convolutions --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 9)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_is_a_grouped_convolution(size: tuple[int, int], kernel: int) -> None:
    conv, x = DepthwiseConv2d(4, kernel).double(), noise(2, 4, *size)
    wanted = torch.nn.functional.conv2d(x, conv.weight, conv.bias, 1, kernel // 2, groups=4)
    torch.testing.assert_close(conv(x), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(conv.float()(x.float()), wanted.float(), rtol=0, atol=1e-5)


# --- CompressAI's layers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers() -> ModuleType:
    try:
        import_compressai()
    except UsageError as error:
        pytest.skip(str(error))
    from compressai import layers

    return layers


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_compressais(layers: ModuleType, inverse: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = GDN(6, inverse), layers.GDN(6, inverse)
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(dict(ours.named_parameters())[name], value)
    with torch.no_grad():  # away from the start, and some values below their bounds
        theirs.beta.add_(torch.randn(6))
        theirs.gamma.add_(0.2 * torch.randn(6, 6))
    assert (theirs.gamma < 0).any()
    ours.load_state_dict({name: theirs.state_dict()[name] for name in ("beta", "gamma")})
    _assert_same(ours, theirs, noise(2, 6, 5, 4, dtype=torch.float32), {})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ResidualBlock", (5,)),
        ("ResidualBlockWithStride", (3, 5, 2)),
        ("ResidualBlockWithStride", (3, 5, 1)),
        ("ResidualBlockWithStride", (5, 5, 1)),
        ("ResidualBlockUpsample", (3, 5, 2)),
        ("ResidualBlockUpsample", (3, 5, 1)),
    ],
)
def test_residual_blocks_are_compressais(layers: ModuleType, name: str, arguments: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours = getattr(residual, name)(*arguments)
    theirs = getattr(layers, name)(*(arguments * 2 if name == "ResidualBlock" else arguments))
    names = {"subpel": "subpel_conv", "skip": "upsample"} if name == "ResidualBlockUpsample" else {}
    state = theirs.state_dict()
    with torch.no_grad():
        for key, value in ours.state_dict().items():
            first, _, rest = key.partition(".")
            value.copy_(state[f"{names.get(first, first)}.{rest}"])
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    _assert_same(ours, theirs, noise(2, arguments[0], 6, 4, dtype=torch.float32), names)


def _assert_same(ours: nn.Module, theirs: nn.Module, x: torch.Tensor, names: dict[str, str]) -> None:
    """Equal outputs, and equal gradients of the input and of every parameter."""
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(value) for module, value in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    for out in outputs:
        (out * noise(*out.shape, dtype=torch.float32, seed=1)).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    reference = dict(theirs.named_parameters())
    for key, p in ours.named_parameters():
        first, _, rest = key.partition(".")
        other = reference[".".join(filter(None, (names.get(first, first), rest)))]
        torch.testing.assert_close(p.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_strided_pointwise_is_a_strided_convolution() -> None:
    ours, theirs = residual.StridedPointwise(3, 4, 2), nn.Conv2d(3, 4, 1, 2)
    theirs.load_state_dict(ours.state_dict())
    x = noise(1, 3, 7, 6, dtype=torch.float32)
    torch.testing.assert_close(ours(x), theirs(x))


# --- bounds -----------------------------------------------------------------------------------------


def test_lower_bound_lets_gradients_raise_the_value() -> None:
    for direction, wanted in ((1.0, [0.0, 1.0]), (-1.0, [-1.0, -1.0])):
        x = torch.tensor([-2.0, 3.0], requires_grad=True)
        out = lower_bound(x, 0.5)
        (direction * out).sum().backward()
        assert out.tolist() == [0.5, 3.0] and x.grad.tolist() == wanted


def test_straight_through_rounding() -> None:
    x = torch.tensor([0.4, 1.6, -2.7], requires_grad=True)
    out = round_ste(x)
    out.sum().backward()
    assert out.tolist() == [0, 2, -3] and x.grad.tolist() == [1, 1, 1]


# --- rates ------------------------------------------------------------------------------------------


def test_tables_are_interpolated_between_levels() -> None:
    table = torch.tensor([[0.0, 1], [10, 2], [20, 4], [30, 8], [40, 16], [50, 32]])
    found = interpolate(table, torch.tensor([1.0, 2.0, 3.25, 5.5, 6.0]))
    assert found.tolist() == [[0, 1], [10, 2], [22.5, 5], [45, 24], [50, 32]]


def test_gains_are_geometric_between_levels() -> None:
    gains = RateGains(3)
    with torch.no_grad():
        gains.log_scale.add_(noise(6, 3, dtype=torch.float32))
        gains.log_step.add_(noise(6, 3, dtype=torch.float32, seed=1))
    low, middle, high = (gains(torch.tensor([level])) for level in (4.0, 4.5, 5.0))
    for a, b, c in zip(low, middle, high, strict=True):
        assert a.shape == (1, 3, 1, 1)
        torch.testing.assert_close(b, (a * c).sqrt())
    batch = gains(torch.tensor([4.0, 4.5, 5.0]))
    torch.testing.assert_close(batch.scale, torch.cat([low.scale, middle.scale, high.scale]))
    part = batch.narrow(1, 2)
    assert torch.equal(part.scale, batch.scale[:, 1:]) and torch.equal(part.step, batch.step[:, 1:])


def test_gains_start_at_the_root_of_lambda() -> None:
    scale, step = (factor.detach() for factor in RateGains(2)(torch.arange(1.0, 7)))
    torch.testing.assert_close(scale * step, torch.ones_like(scale))
    ratio = scale[:, 0, 0, 0] / scale[0, 0, 0, 0]
    torch.testing.assert_close(ratio, (torch.tensor(LAMBDAS) / LAMBDAS[0]).sqrt())
    assert float(scale[:, 0].log().sum()) == pytest.approx(0, abs=1e-5)


def test_affine_starts_as_the_identity_and_tells_levels_apart() -> None:
    affine, x = RateAffine(2), noise(2, 2, 3, 3, dtype=torch.float32)
    level = torch.tensor([1.0, 5.5])
    assert torch.equal(affine(x, level), x)
    with torch.no_grad():
        affine.weight[5], affine.bias[4] = 2.0, torch.tensor([1.0, 3.0])
    out = affine(x, level)
    assert torch.equal(out[0], x[0])
    torch.testing.assert_close(out[1], 2 * x[1] + torch.tensor([0.5, 1.5])[:, None, None])


def test_precise_convolution_ignores_autocast() -> None:
    from zoo_core.layers.residual import PreciseConv2d

    torch.manual_seed(0)
    conv, x = PreciseConv2d(4, 4, 3, 1, 1), torch.randn(1, 4, 8, 8)
    plain = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, plain, rtol=1e-6, atol=1e-6)
