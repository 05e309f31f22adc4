"""Window attention against its definition, for windows that fit the map and windows that do not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.layers.swin import SwinStage, WindowAttention, WindowAttentionV1, WindowAttentionV2, axis

VERSIONS = {1: WindowAttentionV1, 2: WindowAttentionV2}


def attention(version: int, window: int = 8, dim: int = 16, heads: int = 2, seed: int = 0) -> WindowAttention:
    """Random weights, biases and temperatures that matter."""
    torch.manual_seed(seed)
    layer = VERSIONS[version](dim, heads, window).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def bias_of(layer: WindowAttention, dy: int, dx: int) -> Tensor:
    """Position bias of each head, from the definition."""
    side = layer.window
    if isinstance(layer, WindowAttentionV1):
        return layer.bias_table[(dy + side - 1) * (2 * side - 1) + dx + side - 1]
    spaced = [8 * d / max(side - 1, 1) for d in (dy, dx)]
    spaced = [math.copysign(math.log2(1 + abs(d)) / 3, d) for d in spaced]
    return 16 * torch.sigmoid(layer.bias_mlp(torch.tensor(spaced)))


def by_definition(layer: WindowAttention, x: Tensor, shift: int) -> Tensor:
    """Tokens meet if they lie in the same window of the grid that is shifted by `shift`: (H, W, C) stays."""
    height, width, dim = x.shape
    side, heads = layer.window, layer.heads
    down = shift if height > side else 0
    across = shift if width > side else 0
    q, k, v = layer.qkv(x[None])[0].view(height, width, 3, heads, dim // heads).unbind(2)
    if isinstance(layer, WindowAttentionV2):
        q = F.normalize(q, dim=-1) * layer.log_scale.view(heads, 1).clamp(max=math.log(100)).exp()
        k = F.normalize(k, dim=-1)
    else:
        q = q / math.sqrt(dim // heads)
    out = torch.empty(height, width, dim)
    places = [(row, column) for row in range(height) for column in range(width)]
    for row, column in places:
        window = ((row - down) // side, (column - across) // side)
        others = [(r, c) for r, c in places if ((r - down) // side, (c - across) // side) == window]
        logits = torch.stack(
            [(q[row, column] * k[o]).sum(-1) + bias_of(layer, row - o[0], column - o[1]) for o in others]
        )
        weights = logits.softmax(0)  # (others, heads)
        out[row, column] = sum(w[:, None] * v[o] for w, o in zip(weights, others, strict=True)).flatten()
    return layer.proj(out)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("window", "size"),
    [
        (8, (8, 8)),
        (8, (16, 24)),
        (8, (13, 21)),
        (8, (5, 9)),
        (8, (1, 1)),
        (8, (7, 30)),
        (8, (9, 17)),
        (4, (1, 1)),
        (4, (2, 2)),
        (4, (2, 3)),
        (4, (4, 6)),
    ],
)
@pytest.mark.parametrize("shifted", [False, True])
@torch.no_grad()
def test_attention_is_what_its_definition_says(version, window, size, shifted):
    layer = attention(version, window)
    shift = window // 2 * shifted
    x = torch.randn(2, *size, 16)
    found = layer(x, shift)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1], by_definition(layer, x[1], shift), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shift", [0, 4])
@torch.no_grad()
def test_padding_is_never_seen(version, shift, monkeypatch):
    layer = attention(version)
    x = torch.randn(1, 13, 21, 16)
    clean = layer(x, shift)
    pad = F.pad
    monkeypatch.setattr(F, "pad", lambda x, widths: pad(x, widths, value=7.0))
    assert torch.equal(layer(x, shift), clean)


@torch.no_grad()
def test_cosine_attention_ignores_the_length_of_queries():
    layer = attention(2)
    layer.q_bias.zero_()
    x = torch.randn(1, 8, 8, 16)
    before = layer(x, 0)
    layer.projections.weight[:16] *= 100
    torch.testing.assert_close(layer(x, 0), before, atol=1e-4, rtol=0)


@torch.no_grad()
def test_temperature_is_clamped():
    layer = attention(2)
    x = torch.randn(1, 8, 8, 16)
    layer.log_scale.fill_(math.log(100))
    at_most = layer(x, 0)
    layer.log_scale.fill_(10.0)
    assert torch.equal(layer(x, 0), at_most)


@torch.no_grad()
def test_masked_pairs_stay_apart_at_the_largest_temperature():
    layer = attention(2)
    layer.log_scale.fill_(10.0)
    x = torch.randn(1, 16, 16, 16)
    before = layer(x, 4)
    x[:, :4] += 10 * torch.randn(1, 4, 16, 16)  # the first rows share a rolled window with the last four
    assert torch.equal(layer(x, 4)[:, 12:], before[:, 12:])


def test_position_bias_of_version_2_has_its_range():
    layer = attention(2)
    bias = layer.position_bias()
    assert bias.min() > 0 and bias.max() < 16
    assert float(layer.offsets.abs().max()) == pytest.approx(math.log2(9) / 3)


@pytest.mark.parametrize("size", [(16, 16), (9, 5)])
def test_without_gain_a_stage_doubles_its_input(size):
    stage = SwinStage(16, depth=3, heads=2, post_norm_gain=0.0)
    x = torch.randn(2, 16, *size)
    assert torch.equal(stage(x), 2 * x)


@pytest.mark.parametrize(("version", "parameters"), [(2, 448_260), (1, 445_764)])
def test_parameters_of_a_block(version, parameters):
    stage = SwinStage(192, depth=1, heads=4, version=version)
    assert sum(p.numel() for p in stage.parameters()) == parameters


def test_windows_without_need_share_one_mask():
    found = axis(64, 8, 4)
    assert (found.plain, len(found.masks), found.shift) == (7, 1, 4)
    assert axis(57, 8, 4).plain == 6  # padding reaches the last window but one
    assert axis(5, 8, 4).shift == 0


def test_drop_path_leaves_whole_pictures_out_in_training_only():
    torch.manual_seed(0)
    stage = SwinStage(16, depth=1, heads=2, drop_path=(0.5,), residual=False)
    x = torch.randn(64, 16, 8, 8)
    unchanged = (stage(x) == x).flatten(1).all(1)
    assert 0 < unchanged.sum() < 64
    stage.eval()
    assert not (stage(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_parameter_learns_under_autocast(version):
    torch.manual_seed(0)
    stage = SwinStage(16, depth=2, heads=2, version=version)
    with torch.autocast("cpu", torch.bfloat16):
        stage(torch.randn(1, 16, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.parameters())


@pytest.mark.parametrize(("version", "own"), [(1, 0), (2, 3 * 16**2)])
@pytest.mark.parametrize(("size", "padded"), [((16, 16), 256), ((13, 21), 16 * 24)])
def test_products_of_attention(version, own, size, padded):
    """2 T C a token, padding included; version 2 projects without a layer that is counted by itself."""
    layer = attention(version)
    assert layer.products(torch.empty(3, *size, 16), 4) == 3 * padded * (2 * 64 * 16 + own)


@pytest.mark.parametrize(
    ("arguments", "reason"), [({"version": 3}, "version 3"), ({"heads": 3}, "3 heads do not divide 16")]
)
def test_stages_that_do_not_exist(arguments, reason):
    with pytest.raises(UsageError, match=reason):
        SwinStage(**{"dim": 16, "depth": 1, "heads": 2, **arguments})
