"""S2LIC: sizes, the two contexts, what each pass sees, the start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo_core as zoo
from zoo_core.errors import UsageError
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.layers.checkerboard import split
from zoo_core.model import CodecModel, bits, parameter_count, read_latents, write_latents
from zoo_core.testing.pictures import picture
from zoo_core.testing.poison import Recorder, Step
from zoo_s2lic import BASE, PAPER_PRESET
from zoo_s2lic.context import MAX_SAMPLES, REACH, DeformableAttention, grid, grid_step
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
SWITCHES = (
    {},
    {"intra": "none"},
    {"intra": "query"},
    {"ac": "conv"},
    {"ac": "off"},
    {"ag": "fixed"},
    {"ag": "off", "intra": "query"},
    {"gates": False},
    {"lrp": False},
    {"prediction_kernel": 3},
    {"enhance": "plain"},
    {"enhance": "none"},
    {"swin_version": 1},
    {"norm": True},
)


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


def test_products_of_the_paper_preset() -> None:
    """The parameter networks run on halves, so they cost half of what they would on whole maps.

    Attention to samples is 0.72 a pass at this size.
    """
    costs = kmacs(on_meta(**PAPER_PRESET))
    rows = {
        "transform.enhance_a": 313.47,
        "transform.g_a": 228.81,
        "transform.g_s": 230.40,
        "entropy_model.h_a": 4.18,
        "entropy_model.h_s": 21.29,
    }
    for name, expected in rows.items():
        assert below(costs, name) == pytest.approx(expected, abs=6e-3), name
    parts = {
        "ac": 21.00,
        "ag": 61.39 + 2 * 0.72,
        "anchors": 13.88 / 2,
        "others": 14.68 / 2,
        "predictions": 2 * 50.58,
    }
    for name, expected in parts.items():
        found = sum(below(costs, f"entropy_model.slices.slices.{i}.{name}") for i in range(10))
        assert found == pytest.approx(expected, abs=2e-2), name
    encoder = sum(below(costs, name) for name in ("transform.enhance_a", "transform.g_a", "entropy_model"))
    assert below(costs, "transform.enhance_a") / encoder == pytest.approx(0.40, abs=0.01)


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


def test_without_offsets_the_samples_are_the_centres_of_cells() -> None:
    layer = DeformableAttention(16, 0, 8)
    nn.init.zeros_(layer.offset.out.weight)
    x = torch.randn(2, 16, 6, 8)
    query = layer.query(x).reshape(4, 8, 6, 8)
    torch.testing.assert_close(layer._samples(x, query), F.avg_pool2d(x, 2), rtol=1e-5, atol=1e-5)
    fixed = DeformableAttention(16, 0, 8, deformable=False)
    fixed.load_state_dict({k: v for k, v in layer.state_dict().items() if "offset" not in k})
    torch.testing.assert_close(fixed(x), layer(x))


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
    model = build(**SMALL).double().eval()
    context = model.entropy_model.slices.slices[1].ag
    before = torch.randn(1, 8, 32, 48, dtype=torch.float64)
    changed = before.clone()
    changed[..., 0, 0] += 3
    moved = (context(changed) - context(before)).detach()[..., -1, -1].abs().max()
    assert float(moved) > 1e-9


# --- order of coding --------------------------------------------------------------------------------


def steps(model: CodecModel, y: Tensor, poisoned: int | None = None) -> list[Step]:
    """What the walk asks for after z; pass `poisoned` returns NaN."""
    coder = Recorder(None if poisoned is None else poisoned + 1)
    with torch.inference_mode():
        model.entropy_model.code(coder, (y,), (tuple(y.shape[1:]),), torch.tensor([3.0]))
    return coder.steps[1:]


@pytest.mark.parametrize("intra", ["none", "local", "query"])
def test_what_a_pass_sees(intra: str) -> None:
    """Its own slice's anchors, unless switched off, and all slices before; nothing that comes later."""
    model = build(**SMALL | {"intra": intra}).eval()
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
    "wrong", [{"intra": "both"}, {"ac": "half"}, {"ag": "on"}, {"head": 5}, {"enhance": "x"}]
)
def test_unknown_choices(wrong: dict) -> None:
    with pytest.raises(UsageError):
        build(**SMALL | wrong)


# --- whole model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_trains_and_codes(switches: dict) -> None:
    model = build(**SMALL | switches).train()
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
