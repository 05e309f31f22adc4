"""S2LIC: sizes, the two contexts, what each pass sees, the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import zoo_core as zoo
from zoo_core import registry
from zoo_core.errors import UsageError
from zoo_core.evaluation.cost import below, cost, kmacs
from zoo_core.layers.checkerboard import split
from zoo_core.layers.enhancement import DenseBlock
from zoo_core.layers.swin import SwinStage, WindowAttention, WindowAttentionV1, WindowAttentionV2
from zoo_core.model import CodecModel, bits, parameter_count, read_latents, write_latents
from zoo_core.testing.conformance import zoo_picture
from zoo_core.testing.pictures import picture
from zoo_core.testing.poison import Recorder, Step
from zoo_s2lic import BASE, PAPER_PRESET
from zoo_s2lic.context import (
    MAX_SAMPLES,
    REACH,
    ChannelGate,
    DeformableAttention,
    SpaceGate,
    grid,
    grid_step,
)
from zoo_s2lic.model import build, start

SMALL = BASE | {
    "slices": (8, 8, 16),
    "widths": (16, 32, 32),
    "depths": (1, 1, 2),
    "heads": (1, 2, 2),
    "enhance_width": 8,
    "enhance_growth": 4,
    "hyper_latent": 8,
    "params": 12,
    "hyper_widths": (8, 8),
    "parameter_widths": (16,),
    "prediction_widths": (8, 8),
    "head": 8,
}
SWITCHES: tuple[tuple[dict, dict], ...] = (
    ({}, {}),
    ({"intra": "none"}, {"local": False}),
    ({"intra": "query"}, {"query": 16}),
    ({"ac": "conv"}, {"convolutions": 1}),
    ({"ac": "off"}, {"convolutions": 0, "gates": 2}),
    ({"ag": "fixed"}, {"offset": False}),
    ({"ag": "off", "intra": "query"}, {"ag": False, "offset": False, "query": 0, "gates": 2}),
    ({"gates": False}, {"gates": 0}),
    ({"lrp": False}, {"predictions": []}),
    ({"prediction_kernel": 3}, {"predictions": [3, 3]}),
    ({"enhance": "plain"}, {"enhance": [(0, 3)] * 2}),
    ({"enhance": "none"}, {"enhance": [(0, 0)] * 2}),
    ({"swin_version": 1}, {"attention": {WindowAttentionV1}}),
    ({"norm": True}, {"norms": 6}),
)
"""Switches, and what is another in the built model; see `built`."""


def built(model: CodecModel) -> dict:
    """What the switches change: in the second slice, in the enhancement, and in the windows."""
    part, transform = model.entropy_model.slices.slices[1], model.transform
    contexts = [context for context in (part.ac, part.ag) if context is not None]
    predictions = [[m for m in p.modules() if isinstance(m, nn.Conv2d)] for p in part.predictions]
    return {
        "local": part.local is not None,
        "query": 0 if part.ag is None else part.ag.attention.query.in_channels,
        "convolutions": 0 if part.ac is None else sum(isinstance(m, nn.Conv2d) for m in part.ac.attend),
        "ag": part.ag is not None,
        "offset": part.ag is not None and part.ag.attention.offset is not None,
        "gates": sum(isinstance(m, (SpaceGate, ChannelGate)) for c in contexts for m in c.modules()),
        "norms": sum(isinstance(m, nn.BatchNorm2d) for m in part.modules()),
        "predictions": [convs[0].kernel_size[0] for convs in predictions],
        "enhance": [
            tuple(sum(isinstance(m, kind) for m in part.modules()) for kind in (DenseBlock, nn.Conv2d))
            for part in (transform.enhance_a, transform.enhance_s)
        ],
        "attention": {type(m) for m in model.modules() if isinstance(m, WindowAttention)},
    }


BUILT = {
    "local": True,
    "query": 8,
    "convolutions": 2,
    "ag": True,
    "offset": True,
    "gates": 4,
    "norms": 0,
    "predictions": [1, 1],
    "enhance": [(2, 13)] * 2,
    "attention": {WindowAttentionV2},
}
"""Without any switch."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def on_meta(**arguments: object) -> CodecModel:
    with torch.device("meta"):
        return build(**arguments).eval()


# --- sizes and costs --------------------------------------------------------------------------------

MASKED_TAPS = 10 * 13 * 32 * 64
"""Weights of a full 5x5 convolution that its checkerboard form does not have, in ten slices."""

SPECIFIED_BASE = PAPER_PRESET | {
    "slices": (32,) * 5,
    "widths": (48, 48, 48),
    "depths": (1, 2, 2),
    "heads": (2, 3, 3),
    "mlp_ratio": 2,
    "enhance_width": 24,
    "enhance_growth": 12,
    "enhance_fold": 4,
    "drop_path": 0.0,
    "hyper_latent": 80,
    "params": 160,
    "hyper_widths": (96, 128),
    "parameter_widths": (160, 128, 96),
    "prediction_widths": (64, 48),
    "norm": False,
    "intra": "local",
}

PAPER = {"none": 73_928_884, "local": 74_646_324 - MASKED_TAPS, "query": 74_692_404 - MASKED_TAPS}


@pytest.mark.parametrize("intra", PAPER)
def test_parameters_of_the_paper_preset(intra: str) -> None:
    model = on_meta(**PAPER_PRESET | {"intra": intra})
    entropy, transform = model.entropy_model, model.transform
    parts = entropy.slices.slices
    assert parameter_count(model) == PAPER[intra]
    assert parameter_count(transform.enhance_a) == parameter_count(transform.enhance_s) == 313_987
    assert parameter_count(transform.g_a) == 3_943_940 and parameter_count(transform.g_s) == 3_949_968
    assert parameter_count(entropy.h_a) == 1_881_024 and parameter_count(entropy.h_s) == 16_685_600
    assert parameter_count(entropy.prior) == 11_712
    assert [parameter_count(p.ac) for p in parts[1:4]] == [21_365, 80_169, 176_477]
    assert parameter_count(parts[9].ac) == 1_541_909
    extra = 32 * 32 if intra == "query" else 0
    assert [parameter_count(p.ag) - i * extra for i, p in enumerate(parts[1:4], 1)] == [
        31_509,
        120_073,
        266_621,
    ]
    assert [parameter_count(p.anchors) for p in parts[:2]] == [328_448, 359_168]
    around = 0 if intra == "none" else 64 * 320
    assert [parameter_count(p.others) for p in parts[:2]] == [328_448 + around, 359_168 + around]
    for index, part in enumerate(parts):
        assert [parameter_count(net) for net in part.predictions] == [1_004_928 + 64_512 * index] * 2


ENCODER = {"none": 735.07, "local": 735.95, "query": 767.58}
"""kMAC per pixel of analysis and entropy model."""


@pytest.mark.parametrize("intra", ENCODER)
def test_products_of_the_paper_preset(intra: str) -> None:
    """The parameter networks run on halves, so they cost half of what they would on whole maps.

    So does the convolution of the anchors, with 12 of its 25 taps. At this size attention to samples is 0.72 a
    pass, and the depthwise convolution of its offsets 0.035.
    """
    costs = kmacs(on_meta(**PAPER_PRESET | {"intra": intra}))
    rows = {
        "transform.enhance_a": 313.47,
        "transform.g_a": 228.81,
        "transform.g_s": 230.40,
        "entropy_model.h_a": 4.18,
        "entropy_model.h_s": 21.29,
    }
    for name, expected in rows.items():
        assert below(costs, name) == pytest.approx(expected, abs=6e-3), name
    local = 0 if intra == "none" else 1
    parts = {
        "ac": 21.00,
        "ag": 61.39 + 2 * 0.755 if intra == "query" else 30.52 + 0.755,
        "local": local * 2 * 12 / 25 / 2,
        "anchors": 13.88 / 2,
        "others": (13.88 + local * 0.8) / 2,
        "predictions": 2 * 50.58,
    }
    for name, expected in parts.items():
        found = sum(below(costs, f"entropy_model.slices.slices.{i}.{name}") for i in range(10))
        assert found == pytest.approx(expected, abs=1e-2), name
    offsets = sum(value for name, value in costs.items() if name.endswith("attention.offset"))
    assert offsets == pytest.approx(1440 * 25 / 4 / 256 / 1000 * (2 if intra == "query" else 1))
    entropy_model = below(costs, "entropy_model")
    encoder = below(costs, "transform.enhance_a") + below(costs, "transform.g_a") + entropy_model
    assert encoder == pytest.approx(ENCODER[intra], abs=6e-3)
    if intra == "query":
        slices = entropy_model - rows["entropy_model.h_a"] - rows["entropy_model.h_s"]
        assert below(costs, "transform.enhance_a") / encoder == pytest.approx(0.40, abs=0.01)
        assert slices / encoder == pytest.approx(0.27, abs=0.01)


def test_rates_of_stochastic_depth_of_the_presets() -> None:
    """Up to 0.1 over eight blocks, of which the transforms have the first and the last six."""
    assert PAPER_PRESET["drop_path"] == 0.1
    for preset, largest in ((PAPER_PRESET, 0.1), (BASE, 0)):
        transform = on_meta(**preset).transform
        for g, rates in ((transform.g_a, range(6)), (transform.g_s, range(2, 8))):
            found = [b.drop_path for stage in g if isinstance(stage, SwinStage) for b in stage.blocks]
            assert found == pytest.approx([largest * i / 7 for i in rates][: len(found)])


def test_parameters_of_the_specified_base() -> None:
    """The small graph that the reference counts were made for; ours has no masked taps."""
    model = on_meta(**SPECIFIED_BASE)
    entropy, transform = model.entropy_model, model.transform
    slices = entropy.slices.slices
    masked = 5 * 13 * 32 * 64
    assert parameter_count(model) == 7_184_544 - masked == 7_051_424
    assert parameter_count(transform.enhance_a) == parameter_count(transform.enhance_s) == 105_072
    assert parameter_count(transform.g_a) == 223_918 and parameter_count(transform.g_s) == 225_354
    assert parameter_count(entropy.h_a) == 346_000 and parameter_count(entropy.h_s) == 1_471_392
    assert parameter_count(entropy.prior) == 4_880
    sums = {"ac": 587_540, "ag": 888_596, "local": 256_320 - masked, "anchors": 514_240, "others": 565_440}
    for name, expected in sums.items():
        nets = [getattr(part, name) for part in slices]
        assert sum(parameter_count(net) for net in nets if net is not None) == expected, name
    assert sum(parameter_count(part.predictions) for part in slices) == 2 * 945_360


@pytest.mark.parametrize(
    ("preset", "parameters", "rows", "precise"),
    [
        ("base", 4_376_172, (23.7, 24.0, 6.4), 5.4),
        ("paper", 74_426_164, (542.3, 543.9, 225.3), 221.1),
    ],
)
def test_costs_of_the_card(preset: str, parameters: int, rows: tuple, precise: float) -> None:
    found = cost(registry.find("s2lic", "codec"), preset)
    assert found.parameters == parameters
    assert (found.analysis, found.synthesis, found.entropy_model) == pytest.approx(rows, abs=0.05)
    costs = kmacs(on_meta(**{"base": BASE, "paper": PAPER_PRESET}[preset]))
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") == pytest.approx(
        precise, abs=0.05
    )


def test_base_preset_keeps_to_the_budgets() -> None:
    model = on_meta(**BASE)
    costs = kmacs(model)
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") < 6
    assert below(costs, "transform") < 60
    assert 2 * parameter_count(model) < 10 * 2**20


# --- attention to samples ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (32, 48), (128, 96)])
def test_the_grid_has_few_cells_and_offsets_stay_near(size: tuple[int, int]) -> None:
    layer = DeformableAttention(16, 0, 8)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = 10 * torch.randn(1, 16, *size)
    read: list[Tensor] = []
    sample = F.grid_sample

    def watched(maps: Tensor, places: Tensor, **how: object) -> Tensor:
        read.append(places)
        return sample(maps, places, **how)

    F.grid_sample = watched
    try:
        assert layer(x).isfinite().all()
    finally:
        F.grid_sample = sample
    (places,) = read
    _, rows, columns, _ = places.shape
    step = grid_step(*size)
    assert (rows, columns) == tuple(-(-n // step) for n in size) and rows * columns <= MAX_SAMPLES
    cells = (places - grid(rows, columns, x)).abs() * torch.tensor([columns, rows]) / 2
    assert 0 < float(cells.detach().max()) <= REACH + 1e-4


def at_centres(x: Tensor, rows: int, columns: int) -> Tensor:
    """A map between its elements, at the centres of `rows` x `columns` cells that cover it."""

    def weights(size: int, cells: int) -> Tensor:
        """(cells, size): of a linear interpolation, whose ends go on as the border."""
        where = ((torch.arange(cells) + 0.5) * size / cells - 0.5).clamp(0, size - 1)
        return (1 - (where[:, None] - torch.arange(size)).abs()).clamp(min=0)

    return weights(x.shape[2], rows) @ x @ weights(x.shape[3], columns).T


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_without_offsets_the_samples_are_the_centres_of_cells(size: tuple[int, int]) -> None:
    layer = DeformableAttention(16, 0, 8)
    nn.init.zeros_(layer.offset.out.weight)
    x = torch.randn(2, 16, *size)
    found = layer._samples(x, layer.query(x).reshape(4, 8, *size))
    torch.testing.assert_close(found, at_centres(x, 3, 4), rtol=1e-5, atol=1e-5)
    if size == (6, 8):
        torch.testing.assert_close(found, F.avg_pool2d(x, 2), rtol=1e-5, atol=1e-5)
    fixed = DeformableAttention(16, 0, 8, deformable=False)
    fixed.load_state_dict({k: v for k, v in layer.state_dict().items() if "offset" not in k})
    torch.testing.assert_close(fixed(x), layer(x))


def test_attention_never_holds_all_weights() -> None:
    """Flash attention takes what it is given, and it is attention: softmax of queries with keys, by values."""
    layer = DeformableAttention(16, 8, 8).double().eval()
    x = torch.randn(1, 16, 6, 8, dtype=torch.float64)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = layer(x, x[:, :8])
        query = layer.query(torch.cat([x, x[:, :8]], 1)).reshape(2, 8, 48)
        samples = layer._samples(x, query.reshape(2, 8, 6, 8))
        keys, values = (net(samples).reshape(2, 8, 12) for net in (layer.key, layer.value))
        weights = (query.mT @ keys / 8**0.5).softmax(-1)
    torch.testing.assert_close(found.reshape(2, 8, 48), (weights @ values.mT).mT)


def test_attention_to_a_constant_gives_its_value() -> None:
    layer = DeformableAttention(16, 0, 8)
    x = torch.randn(1, 16, 1, 1).expand(1, 16, 5, 7).contiguous()
    torch.testing.assert_close(layer(x), layer.value(x), rtol=1e-5, atol=1e-5)


def test_a_head_reads_its_own_channels_with_x_before_y() -> None:
    """An offset to the right reads what lies to the right, in the head that asks for it and in no other."""
    layer = DeformableAttention(16, 0, 8)
    with torch.no_grad():
        layer.offset.conv.weight.zero_()
        layer.offset.conv.bias.fill_(10)
        layer.offset.out.weight[0], layer.offset.out.weight[1] = 10, 0
    x = torch.arange(12.0).expand(1, 16, 8, 12).contiguous()
    found = layer._samples(x, torch.zeros(2, 8, 8, 12))
    assert found[0, 0, 0].tolist() == pytest.approx([4.5, 6.5, 8.5, 10.5, 11.0, 11.0])


def test_a_corner_reaches_the_opposite_one() -> None:
    """By attention itself: the gates pool over the whole map, so that AG moves a little without it."""
    model = build(**SMALL).double().eval()
    context = model.entropy_model.slices.slices[1].ag.attention
    before = torch.randn(1, 8, 32, 48, dtype=torch.float64)
    changed = before.clone()
    changed[..., 0, 0] += 3
    moved = (context(changed) - context(before)).detach()[..., -1, -1].abs().max()
    assert float(moved) > 1e-5


# --- order of coding --------------------------------------------------------------------------------


def steps(model: CodecModel, y: Tensor, poisoned: int | None = None) -> list[Step]:
    """What the walk asks for after z; pass `poisoned` returns NaN."""
    coder = Recorder(None if poisoned is None else poisoned + 1)
    with torch.inference_mode():
        model.entropy_model.code(coder, (y,), (tuple(y.shape[1:]),), torch.tensor([3.0]))
    return coder.steps[1:]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("intra", ["none", "local", "query"])
def test_what_a_pass_sees(intra: str, kernel: int) -> None:
    """Its own slice's anchors, unless switched off, and all slices before; nothing that comes later."""
    model = build(**SMALL | {"intra": intra, "prediction_kernel": kernel}).eval()
    y = 3 * torch.randn(1, 32, 8, 8)
    for k in range(6):
        moved = [bool(step.mean.isnan().any() or step.scale.isnan().any()) for step in steps(model, y, k)]
        same_slice = [intra != "none"] if k % 2 == 0 else []
        assert moved == [False] * (k + 1) + same_slice + [True] * (5 - k - len(same_slice))


def test_two_passes_for_each_slice_at_any_size() -> None:
    assert len(on_meta(**PAPER_PRESET).entropy_model.slices.slices) == 10
    model = build(**SMALL).eval()
    for size in ((4, 4), (24, 16)):
        assert len(steps(model, torch.randn(1, 32, *size))) == 6


def test_queries_see_the_anchors_in_the_second_pass_only() -> None:
    model = build(**SMALL | {"intra": "query"}).double().eval()
    part = model.entropy_model.slices.slices[1]
    context = torch.randn(1, 24 + 8, 8, 8, dtype=torch.float64)
    support = part.support(context)
    zeros, anchors = torch.zeros(1, 8, 8, 4).double(), split(torch.randn(1, 8, 8, 8).double())[0]
    assert torch.equal(part.refreshed(support, context, zeros), support)
    moved = part.refreshed(support, context, anchors) != support
    assert not moved[:, :16].any() and moved[:, 16:24].any() and not moved[:, 24:].any()


def test_a_context_that_is_off_leaves_zeros_in_its_place() -> None:
    context = torch.randn(1, 32, 8, 8)
    for switch, silent in (("ac", slice(0, 16)), ("ag", slice(16, 24))):
        part = build(**SMALL | {switch: "off"}).entropy_model.slices.slices[1]
        full = build(**SMALL).entropy_model.slices.slices[1]
        assert parameter_count(part.anchors) == parameter_count(full.anchors)
        off, on = part.support(context), full.support(context)
        assert off.shape == on.shape and not off[:, silent].any() and on[:, silent].any()


def test_gates_are_crossed() -> None:
    """AC gates its convolutions by place and its local branch by channel; AG the other way round."""
    part = build(**SMALL).entropy_model.slices.slices[1]
    x = torch.randn(1, 8, 8, 8)
    main, local = part.ac.attend(x), part.ac.local(x)
    gates = part.ac.gates
    torch.testing.assert_close(
        part.ac(x), part.ac.out(main * gates.space(local) + local * gates.channel(main))
    )
    main, local, gates = part.ag.mix(part.ag.attention(x)), part.ag.local(x), part.ag.gates
    torch.testing.assert_close(
        part.ag(x), part.ag.out(main * gates.channel(local) + local * gates.space(main))
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"intra": "both"}, "choose query, local, none"),
        ({"ac": "half"}, "choose full, conv, off"),
        ({"ag": "on"}, "choose full, fixed, off"),
        ({"head": 5}, "multiples of head=5"),
        ({"enhance": "x"}, "choose dense, plain or none"),
        ({"enhance_fold": 3}, "choose 1, 2, 4, 8, 16"),
        ({"prediction_kernel": 2}, "choose an odd number"),
        ({"local_channels": 0}, "choose at least 1, or intra=none"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(**SMALL | wrong)


def test_channels_of_the_anchors_convolution() -> None:
    for channels, found in ((None, [16, 16, 32]), (12, [12, 12, 12]), (20, [16, 16, 20])):
        slices = build(**SMALL | {"local_channels": channels}).entropy_model.slices.slices
        assert [part.local.conv.out_channels for part in slices] == found


# --- whole model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("switches", "changes"), SWITCHES, ids=str)
def test_every_switch_changes_what_it_says_trains_and_codes(switches: dict, changes: dict) -> None:
    model = build(**SMALL | switches).train()
    assert built(model) == BUILT | changes
    with torch.no_grad():  # at first all of z rounds to zero, and a convolution of zeros has no gradient
        model.entropy_model.h_a[-1].weight.mul_(30)
    x = torch.rand(6, 3, 64, 64)
    out = model(x, torch.arange(1.0, 7))
    (bits(out["likelihoods"]).mean() + 1e3 * (out["x_hat"] - x).square().mean()).backward()
    ignored: tuple[str, ...] = ("quantiles",)
    if "norm" in switches:  # takes away what the bias before it adds
        ignored += ("local.0.bias", "channel.1.bias", "space.0.bias")
    silent = [
        name
        for name, p in model.named_parameters()
        if not name.endswith(ignored) and (p.grad is None or not p.grad.abs().any())
    ]
    assert not silent
    model.update()
    model.prepare()
    coded = model.compress(x[:1], 2.0)
    assert model.decompress(coded["strings"], coded["shape"], 2.0)["x_hat"].shape == (1, 3, 64, 64)


@pytest.fixture(scope="module")
def started() -> CodecModel:
    torch.manual_seed(0)
    model = build(**BASE)
    start(model, [torch.from_numpy(picture(256, 256, seed)).permute(2, 0, 1) for seed in range(4)])
    model.update()
    return model.prepare()


def test_start_is_a_block_transform(started: CodecModel) -> None:
    x = torch.from_numpy(picture(256, 256, 0)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        (y,) = started.transform.analysis(x)
        error = (started.transform.synthesis((y,)) - x).square().mean()
        whole = (started(x, torch.tensor([3.0]))["x_hat"] - x).square().mean()
    assert -10 * float(error.log10()) > 34
    assert -10 * float(whole.log10()) > 30


def test_large_picture_there_and_back_at_the_estimated_size(started: CodecModel) -> None:
    x = torch.from_numpy(picture(512, 512, 1)).permute(2, 0, 1)[None].float() / 255
    level = torch.tensor([4.0])
    with torch.inference_mode():
        latents, coder = started.estimate(x, level)
        y = started.transform.analysis(x)
    payload, calibration, known = write_latents(started, y, 4.0)
    again = read_latents(started, payload, calibration, (512, 512), 4.0)
    assert torch.equal(known[0], again[0])
    assert torch.equal(known[0].float(), latents[0])
    assert len(payload) == pytest.approx(float(bits(coder.likelihoods)) / 8, rel=0.01, abs=64)
    assert len(payload) > 1000


@pytest.mark.parametrize(("width", "height"), [(1, 1), (500, 333)])
def test_pictures_of_any_size(width: int, height: int) -> None:
    codec = zoo.load("s2lic-q3")
    assert codec.decode(codec.encode(picture(width, height))).size == (width, height)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (192, 128), (75, 50)])
def test_pixels_of_a_file_are_those_that_the_encoder_knows(width: int, height: int) -> None:
    codec = zoo.load("s2lic-q3")
    latents = codec.analyse(zoo_picture(width, height))
    *_, known = write_latents(codec.model, latents, 3.0)
    decoded = np.asarray(codec.decode(codec.encode(picture(width, height))))
    assert np.array_equal(decoded, codec.reconstruct(known, (height, width), False))
