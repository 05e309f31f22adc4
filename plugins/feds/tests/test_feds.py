"""FEDS: sizes of student and teacher, attention, the start, and distillation in three phases.

The figures of the presets `paper` and `paper-teacher` are those of our reconstruction, counted on a separate
implementation of it; no size of the paper's own could be read. Those of `base` and `base-teacher`, which are
ours alone, are pinned. Whole models are counted on torch's meta device.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo_core as zoo
from zoo_core.errors import UsageError, WrongWeightsError
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.images import Picture
from zoo_core.layers.residual16 import FEATURES
from zoo_core.model import CodecModel, bits, join, parameter_count, read_latents, write_latents
from zoo_core.testing.pictures import picture
from zoo_core.training.checkpoint import averaged
from zoo_core.training.data import RandomCrops
from zoo_core.training.export import export
from zoo_core.training.initial import fill
from zoo_core.training.loop import Trainer
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import Objective
from zoo_core.training.recipe import Recipe
from zoo_core.weights import write_tensors
from zoo_feds import PRESETS
from zoo_feds.features import RunningVariance, recorded
from zoo_feds.information import CALIBRATION, ChannelInformation, divergence, squared
from zoo_feds.model import build, objective, start
from zoo_feds.objective import Distillation
from zoo_feds.transform import SwinAttention

SMALL = PRESETS["base"] | {
    "widths": (12, 16, 16),
    "latent": 20,
    "hyper_latent": 6,
    "params": 8,
    "context": (8, 8),
}
SMALL_TEACHER = SMALL | {
    "swin": True,
    "extra_rb": 1,
    "wide_latent": 12,
    "widths": (12, 16, 32),
    "slices": 4,
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@functools.cache
def on_meta(name: str) -> CodecModel:
    return meta(name)


def meta(name: str, **switches: object) -> CodecModel:
    with torch.device("meta"):
        return build(**(PRESETS[name] | switches)).eval()


def batch(count: int, side: int = 64) -> Tensor:
    """Pictures (count, 3, side, side) in [0, 1]."""
    pictures = [torch.from_numpy(picture(side, side, seed)) for seed in range(count)]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 255


def photos(count: int = 3, side: int = 96) -> list[Tensor]:
    return [torch.from_numpy(picture(side, side, seed)).permute(2, 0, 1) for seed in range(count)]


def distillation(**settings: object) -> tuple[CodecModel, Distillation]:
    """A small student, and the objective with a small random teacher, whose channels one batch tells."""
    settings = {"calibration": 1, **settings}
    student, teacher = build(**SMALL).train(), build(**SMALL_TEACHER)
    return student, Distillation(student, teacher, **settings).train()


# --- sizes and costs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "g_a", "g_s", "h_a", "h_mean", "mean", "lrp", "prior", "total"),
    [
        (
            "paper-teacher",
            13_502_560,
            21_962_540,
            3_307_584,
            7_229_696,
            6_176_800,
            6_821_920,
            11_712,
            72_419_308,
        ),
        ("paper", 1_986_800, 5_965_836, 914_304, 2_746_816, 3_941_520, 4_356_240, 7_808, 26_607_660),
        ("base-teacher", 5_354_106, 8_686_166, 336_320, 705_792, 488_928, 511_968, 3_904, 17_289_200),
        ("base", 823_776, 3_124_540, 231_744, 631_936, 272_240, 287_600, 3_904, 6_286_636),
    ],
)
def test_modules_of_the_presets(name, g_a, g_s, h_a, h_mean, mean, lrp, prior, total) -> None:
    model = on_meta(name)
    entropy = model.entropy_model
    assert parameter_count(model.transform.g_a) == g_a and parameter_count(model.transform.g_s) == g_s
    assert parameter_count(entropy.h_a) == h_a and parameter_count(entropy.prior) == prior
    assert parameter_count(entropy.h_mean_s) == parameter_count(entropy.h_scale_s) == h_mean
    nets = entropy.low.slices
    assert len(nets) == (6 if name == "base-teacher" else 5)
    assert sum(parameter_count(net.mean) for net in nets) == mean
    assert sum(parameter_count(net.scale) for net in nets) == mean
    assert sum(parameter_count(net.lrp) for net in nets) == lrp
    assert parameter_count(model) == total


@pytest.mark.parametrize(
    ("name", "g_a", "g_s", "total"),
    [("paper-teacher", 843.3, 1040.8, 1972.2), ("paper", 165.4, 254.8, 472.4)],
)
def test_costs_of_the_paper_presets(name: str, g_a: float, g_s: float, total: float) -> None:
    costs = kmacs(on_meta(name))
    assert below(costs, "transform.g_a") == pytest.approx(g_a, abs=0.06)
    assert below(costs, "transform.g_s") == pytest.approx(g_s, abs=0.06)
    assert costs.total() == pytest.approx(total, abs=0.1)


@pytest.mark.parametrize(
    ("channels", "parameters"), [(128, 609_416), (160, 947_882), (192, 1_361_100), (320, 3_761_492)]
)
def test_parameters_of_the_attention(channels: int, parameters: int) -> None:
    assert parameter_count(SwinAttention(channels)) == parameters


def test_students_have_37_percent_of_their_teachers_parameters() -> None:
    sizes = {name: parameter_count(on_meta(name)) for name in PRESETS}
    assert sizes["base"] == 6_286_636 and sizes["base-teacher"] == 17_289_200
    for family in ("paper", "base"):
        assert 0.36 < sizes[family] / sizes[f"{family}-teacher"] < 0.385


@pytest.mark.parametrize(("family", "share"), [("paper", 0.2395), ("base", 0.3223)])
def test_a_students_share_of_the_multiplications(family: str, share: float) -> None:
    """24 % and 30 % (+-1) were planned; the sizes that `base` has now, other than planned, give 32.2 %."""
    student, teacher = (kmacs(on_meta(name)).total() for name in (family, f"{family}-teacher"))
    assert student / teacher == pytest.approx(share, abs=1e-4)


def test_base_preset_keeps_to_the_budgets() -> None:
    model = on_meta("base")
    costs = kmacs(model)
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") < 6
    assert below(costs, "transform.g_a") < 40 and below(costs, "transform.g_s") < 50
    tables = model.entropy_model.prior.frequencies.numel() * 4
    assert 2 * parameter_count(model) + tables < 14e6


@pytest.mark.parametrize(
    ("on", "off"),
    [
        ({"swin": True}, {"swin": False}),
        ({"extra_rb": 1}, {"extra_rb": 0}),
        ({"wide_latent": 80}, {"wide_latent": 0, "slices": 5, "swin": False}),
    ],
)
def test_every_enlargement_is_a_switch_of_its_own(on: dict, off: dict) -> None:
    """Each makes a student larger by itself, and its absence a teacher smaller; heads have 32 channels."""
    student = {"widths": (32, 64, 128), "latent": 320}
    assert parameter_count(meta("base", **student, **on)) > parameter_count(meta("base", **student))
    whole = {name: value for name, value in off.items() if name == "swin" and "swin" not in on}
    teacher = parameter_count(meta("base-teacher", **whole))
    assert parameter_count(meta("base-teacher", **off)) < teacher


@pytest.mark.parametrize("name", PRESETS)
def test_halves_join_to_the_whole(name: str) -> None:
    """The registered transform and entropy model of a preset are those of its codec."""
    with torch.device("meta"):
        joined = join("feds", "feds", name)
    shapes = {key: tensor.shape for key, tensor in on_meta(name).state_dict().items()}
    assert {key: tensor.shape for key, tensor in joined.state_dict().items()} == shapes


@pytest.mark.parametrize("size", [(256, 256), (512, 768), (333, 500)])
def test_shapes(size: tuple[int, int]) -> None:
    model = on_meta("base")
    height, width = (n + -n % model.downscale for n in size)
    assert model.downscale == 64
    x = torch.empty(1, 3, height, width, device="meta")
    (y,) = model.transform.analysis(x)
    assert y.shape == (1, 240, height // 16, width // 16)
    assert tuple(y.shape[1:]) == model.transform.latent_shapes(height, width)[0]
    assert model.entropy_model.h_a(y).shape == (1, 64, height // 64, width // 64)
    assert model.transform.synthesis((y,)).shape == x.shape


@pytest.mark.parametrize(
    ("name", "latent", "params", "slices"), [("base", 240, 128, 5), ("paper-teacher", 320, 320, 5)]
)
def test_shapes_inside_of_the_walk(name: str, latent: int, params: int, slices: int) -> None:
    """Features for means and scales at 1/16, and each slice's mean, scale and residual of equal width."""
    model = on_meta(name)
    hyper = ("entropy_model.h_mean_s", "entropy_model.h_scale_s")
    nets = [f"entropy_model.low.slices.{i}.{net}" for i in range(slices) for net in ("mean", "scale", "lrp")]
    with recorded(model, (*hyper, *nets)) as found:
        out = model(torch.empty(1, 3, 384, 512, device="meta"))
    assert set(found) == {*hyper, *nets}  # and so no slice more
    assert [tuple(found[name].shape) for name in hyper] == 2 * [(1, params, 24, 32)]
    assert {tuple(found[name].shape) for name in nets} == {(1, latent // slices, 24, 32)}
    assert out["likelihoods"]["y"].shape == (1, latent, 24, 32)
    assert len(model.entropy_model.low.slices) == slices


@pytest.mark.parametrize(("width", "height", "seed"), [(500, 333, 0), (333, 500, 1), (65, 127, 2)])
def test_latents_are_read_as_they_were_written(width: int, height: int, seed: int) -> None:
    codec = zoo.load("feds-q3")
    x = picture(width, height, seed)
    latents = codec.analyse(Picture(x))
    size = (height + -height % 64, width + -width % 64)
    payload, calibration, written = write_latents(codec.model, latents, 3.0)
    (again,) = read_latents(codec.model, payload, calibration, size, 3.0)
    assert torch.equal(again, written[0]) and again.shape == (1, 240, size[0] // 16, size[1] // 16)
    assert codec.decode(codec.encode(x)).size == (width, height)


# --- teacher ----------------------------------------------------------------------------------------


def test_attention_starts_without_its_swin_blocks() -> None:
    """At the start the gate sees the input itself, whatever the projections are."""
    attention = SwinAttention(32)
    x = torch.randn(1, 32, 11, 9)
    assert torch.equal(attention.gate[0](x), x)
    out = attention(x)
    nn.init.normal_(attention.gate[0].blocks[0].attn.proj.weight)
    assert torch.equal(attention(x), out)


@pytest.mark.parametrize("channels", [8, 31, 48, 240])
def test_attention_needs_whole_heads(channels: int) -> None:
    with pytest.raises(UsageError, match=f"over {channels} channels: choose multiples of 32") as found:
        SwinAttention(channels)
    assert "\n" not in str(found.value)


def test_a_teacher_with_the_students_latent_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="or swin=false"):
        meta("base-teacher", wide_latent=0)


def test_every_parameter_of_a_teacher_learns_from_the_third_step_on() -> None:
    """The Swin blocks are the identity at first, so what is inside of them gets no gradient yet."""
    teacher = build(**SMALL_TEACHER).train()
    with torch.no_grad():  # at first all of z rounds to zero, and a convolution of zeros has no gradient
        teacher.entropy_model.h_a[-1].weight.mul_(30)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-3)
    x, level = batch(6), torch.arange(1.0, 7)
    for _ in range(3):
        optimizer.zero_grad()
        rate_distortion(x, teacher(x, level), level)[0].mean().backward()
        optimizer.step()
    silent = [
        name
        for name, p in teacher.named_parameters()
        if not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
    ]
    assert not silent


@pytest.mark.parametrize("name", ["base", "base-teacher"])
def test_start_is_a_block_transform(name: str) -> None:
    model = build(**PRESETS[name]).eval()
    start(model, photos(side=128))
    x = batch(1, 128)
    with torch.inference_mode():
        restored = model.transform.synthesis(model.transform.analysis(x))
        out = model(x, torch.tensor([4.0]))
    for picture_hat, decibels in ((restored, 30), (out["x_hat"], 28)):
        error = (picture_hat - x)[..., 16:-16, 16:-16].square().mean()
        assert -10 * float(error.log10()) > decibels


# --- distances --------------------------------------------------------------------------------------


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    found = Distillation(build(**SMALL), build(**SMALL)).requires_grad_(False)
    found.information.observe(torch.rand(1, 20, 4, 4))
    features = {name: torch.randn(2, width, 4, 4) for name, width in feature_widths(SMALL).items()}
    assert float(found.feature_distance(features, features).max()) < 1e-10
    y = torch.randn(2, 20, 4, 4)
    assert float(found.channel_distance(y, y).max()) < 1e-10


def feature_widths(preset: dict) -> dict[str, int]:
    """Channels of the compared modules."""
    return dict(zip(FEATURES, (*preset["widths"], *preset["widths"][::-1]), strict=True))


def test_features_are_compared_in_units_of_the_teachers_variance() -> None:
    _, found = distillation()
    theirs = {name: 5 * torch.randn(2, n, 8, 8) for name, n in feature_widths(SMALL_TEACHER).items()}
    nothing = {name: torch.zeros(2, n, 8, 8) for name, n in feature_widths(SMALL).items()}
    # Adapters start as the identity on common channels: zeros miss all of the teacher's energy.
    with torch.no_grad():
        distance = found.feature_distance(nothing, theirs)
    assert float(distance.mean()) == pytest.approx(1.0, rel=0.05)


def test_the_most_informative_channels_are_matched() -> None:
    information = ChannelInformation(8, 3)
    information.observe(2.0 ** -torch.tensor([1.0, 7, 2, 5, 3, 7, 0.5, 4]).view(1, 8, 1, 1))
    assert information.selected.tolist() == [1, 3, 5]
    torch.testing.assert_close(information.weights, torch.tensor([7.0, 5, 7]) / 19)
    uniform = ChannelInformation(8, 3, weights="uniform")
    assert uniform.weights.tolist() == pytest.approx([1 / 3] * 3)
    inverse = ChannelInformation(8, 3, weights="inverse")
    inverse.bits.copy_(information.bits)
    torch.testing.assert_close(inverse.weights, torch.tensor([5.0, 7, 5]) / 17)
    assert ChannelInformation(8, 3, select="all").selected.tolist() == list(range(8))
    drawn = ChannelInformation(8, 3, select="random").selected.tolist()
    assert drawn == sorted(set(drawn)) == ChannelInformation(8, 3, select="random").selected.tolist()


def test_equal_bits_go_by_index() -> None:
    information = ChannelInformation(5, 2)
    information.observe(torch.full((1, 5, 2, 2), 0.25))
    assert information.selected.tolist() == [0, 1]


def test_information_is_a_mean_over_the_first_batches() -> None:
    information = ChannelInformation(1, 1)
    for k in range(CALIBRATION + 5):
        information.observe(torch.full((1, 1, 2, 2), 2.0 ** -(k % 2) if k < CALIBRATION else 1e-3))
    assert float(information.bits) == pytest.approx(0.5)


def test_weights_share_the_gradient() -> None:
    _, found = distillation()
    found.information.bits.copy_(torch.arange(32.0, 0, -1))
    y, theirs = torch.randn(2, 20, 4, 4, requires_grad=True), torch.randn(2, 32, 4, 4)
    found.channel_distance(y, theirs).sum().backward()
    error = (y - theirs[:, :20]).detach() / (theirs.var((0, 2, 3))[:20, None, None] + 1e-6)
    ratio = y.grad / error  # proportional to the weights
    torch.testing.assert_close(ratio[0, :, 0, 0] / ratio[0, 0, 0, 0], torch.arange(32.0, 12, -1) / 32)


def test_divergence_is_of_places_not_of_scale() -> None:
    y = torch.randn(1, 3, 4, 4)
    assert divergence(y, y).abs().max() < 1e-6 and divergence(-y, y).abs().max() < 1e-6
    p, q = (z.abs().flatten(2).softmax(-1) for z in (y, y.flip(2)))
    wanted = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(divergence(y.flip(2), y), wanted)
    error = squared(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0), torch.tensor([9.0]))
    assert float(error) == pytest.approx(1.0)


# --- phases -----------------------------------------------------------------------------------------


def test_gradients_of_each_phase() -> None:
    """All of the student learns in each phase; adapters in theirs only; nothing of the teacher ever."""
    student, found = distillation()
    with torch.no_grad():
        student.entropy_model.h_a[-1].weight.mul_(30)
    x, level = batch(6), torch.arange(1.0, 7)
    for progress, learning in ((0.1, {"adapters"}), (0.5, {"latent_adapter"}), (0.9, set())):
        student.zero_grad(), found.zero_grad()
        found.begin(student, progress)
        found(student, x, level).loss.mean().backward()
        silent = [
            name
            for name, p in student.named_parameters()
            if not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
        ]
        assert not silent
        touched = {name.split(".")[0] for name, p in found.named_parameters() if p.grad is not None}
        assert touched == learning


def test_fine_tuning_is_plain() -> None:
    student, found = distillation()
    found.begin(student, 0.85)
    x, level = batch(2), torch.tensor([2.0, 5.0])
    losses = []
    for terms in (found, Objective()):
        torch.manual_seed(3)
        losses.append(terms(student, x, level).loss)
    assert torch.equal(*losses)


def test_terms_begin_with_their_share_of_the_loss() -> None:
    student, found = distillation(features=0.3, channels=0.5)
    x, level = batch(4), torch.tensor([1.0, 3.0, 4.0, 6.0])
    for progress, share in ((0.0, 0.3), (0.4, 0.53)):
        found.begin(student, progress)
        torch.manual_seed(0)
        loss = found(student, x, level).loss
        torch.manual_seed(0)
        plain = Objective()(student, x, level).loss
        assert float((loss / plain - 1).mean().detach()) == pytest.approx(
            share, rel=0.2 if progress else 0.01
        )


def test_both_terms_at_once() -> None:
    student, found = distillation(staged=False)
    found.begin(student, 0.0)
    found(student, batch(2), torch.tensor([1.0, 6.0])).loss.mean().backward()
    touched = {name.split(".")[0] for name, p in found.named_parameters() if p.grad is not None}
    assert touched == {"adapters", "latent_adapter"}
    found.begin(student, 0.9)
    assert not any(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"ent_loss": "kl"},
        {"adapter_y": False},
        {"select": "all", "weights": "uniform"},
        {"select": "random", "weights": "inverse"},
        {"features": 0.0},
        {"channels": 0.0},
        {"phases": (0.0, 1.0)},
    ],
)
def test_every_switch_trains_and_codes(settings: dict, tmp_path: Path) -> None:
    student, found = distillation(**settings)
    trainer = _trainer(student, found, tmp_path, steps=3)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    losses = [trainer.train_step()[1] for _ in range(3)]
    assert all(loss.isfinite().all() for loss in losses)
    assert any(not torch.equal(before[name], p) for name, p in student.named_parameters())
    student.update()
    student.prepare()
    coded = student.compress(batch(1), 2.0)
    assert student.decompress(coded["strings"], coded["shape"], 2.0)["x_hat"].shape == (1, 3, 64, 64)


def test_choices_that_do_not_fit() -> None:
    for settings, message in (
        ({"phases": (0.8, 0.4)}, "rising"),
        ({"ent_loss": "l1"}, "mse or kl"),
        ({"select": "best"}, "top, random or all"),
        ({"weights": "none"}, "uniform or inverse"),
        ({"select": "all", "adapter_y": False}, "adapter"),
        ({"features": "abc"}, "features=abc: give a share"),
        ({"features": True}, "features=True: give a share"),
        ({"channels": -1}, "channels=-1: give a share"),
        ({"channels": float("nan")}, "channels=nan: give a share"),
        ({"features": float("inf")}, "features=inf: give a share"),
        ({"calibration": 0}, "calibration=0: give a number of batches"),
        ({"calibration": 2.5}, "calibration=2.5: give a number of batches"),
    ):
        with pytest.raises(UsageError, match=message):
            distillation(**settings)


@pytest.mark.parametrize("settings", [{"phases": (0.0, 1.0)}, {"staged": False}])
def test_channels_are_chosen_once(settings: dict, tmp_path: Path) -> None:
    """No term of channels before the calibration is complete; from then on the same channels and weights."""
    student, found = distillation(calibration=3, **settings)
    trainer = _trainer(student, found, tmp_path, steps=7)
    used = []
    inner = found.channel_distance

    def spied(mine: Tensor, theirs: Tensor) -> Tensor:
        distance = inner(mine, theirs)
        used.append((trainer.step, found.information.selected, found.information.weights))
        return distance

    found.channel_distance = spied
    for _ in range(5):
        trainer.train_step()
    assert [step for step, *_ in used] == [2, 3, 4]  # the third batch completes the calibration
    for _, selected, weights in used:
        assert torch.equal(selected, used[0][1]) and torch.equal(weights, used[0][2])


def test_without_calibration_there_are_no_channels(caplog: pytest.LogCaptureFixture) -> None:
    """A run that is too short to choose channels aligns features alone, and says so once."""
    student, found = distillation(calibration=4, phases=(0.0, 0.8))
    plain = Distillation(student, found.teacher, (0.0, 0.8), channels=0.0)
    x, level = batch(2), torch.tensor([2.0, 5.0])
    losses = []
    for terms in (found, plain):
        terms.begin(student, 0.1)
        torch.manual_seed(3)
        losses.append(terms(student, x, level).loss)
    assert torch.equal(*losses)
    with caplog.at_level(logging.WARNING):
        for terms in (found, plain, found):
            terms.begin(student, 0.9)
    assert caplog.messages == [
        "no channels were distilled: 1 batches before phase 3 are too few for calibration=4"
    ]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("progress", [0.1, 0.5])
def test_a_broken_batch_is_forgotten(progress: float, broken: float) -> None:
    """What one batch that is not finite leaves in the objective: nothing, as the first batch and as a later one."""
    student, found = distillation(calibration=3)
    found.begin(student, progress)
    found.information.batches.fill_(2 if progress == 0.5 else 0)
    found.information.bits.copy_(torch.arange(32.0))
    x, level = batch(2), torch.tensor([2.0, 5.0])
    bad = x.clone()
    bad[1, 0, 5, 5] = broken
    for _ in range(2):
        before = {name: tensor.clone() for name, tensor in found.state_dict().items()}
        assert not found(student, bad, level).loss.isfinite().all()
        assert all(torch.equal(before[name], tensor) for name, tensor in found.state_dict().items())
        assert found(student, x, level).loss.isfinite().all()
        assert int(found.variances[0].batches) == 1 + int(before["variances.0.batches"])


def test_units_wait_for_a_finite_distance() -> None:
    _, found = distillation()
    for kind in (0, 1):
        assert not found._relative(kind, torch.tensor([1.0, float("nan")])).isfinite().all()
        found._relative(kind, torch.tensor([2.0, 4.0]))
        found._relative(kind, torch.tensor([float("inf"), 1.0]))
    assert found.units.tolist() == [3.0, 3.0]


def test_averages_leave_out_what_is_not_finite() -> None:
    variance, information = RunningVariance(2), ChannelInformation(2, 1, calibration=2)
    good = torch.randn(1, 2, 4, 4)
    bad = good.clone()
    bad[0, 1, 0, 0] = float("nan")
    for x in (bad, good, bad):
        variance(x)
        information.observe(x.abs().clamp(0.1, 1))
    assert int(variance.batches) == 1 and int(information.batches) == 1 and not information.complete
    torch.testing.assert_close(variance.value, good.var((0, 2, 3)))
    torch.testing.assert_close(information.bits, -good.abs().clamp(0.1, 1).log2().mean((0, 2, 3)))


# --- runs -------------------------------------------------------------------------------------------


def _trainer(model: CodecModel, found: Objective, folder: Path, steps: int = 5) -> Trainer:
    recipe = Recipe(steps=steps, batch=2, crop=64, bf16=False, warmup=1, learning_rate=1e-3)
    return Trainer(model, RandomCrops(photos(1), 64, 1.0, 0), recipe, folder, objective=found)


def test_a_run_leaves_the_student_alone(tmp_path: Path) -> None:
    """The teacher is untouched after the three phases, and neither it nor the adapters are exported."""
    student, found = distillation()
    before = {name: tensor.clone() for name, tensor in found.teacher.state_dict().items()}
    trainer = _trainer(student, found, tmp_path)
    trainer.run()
    assert int(found.phase) == 3
    assert all(torch.equal(before[name], t) for name, t in found.teacher.state_dict().items())
    state = averaged(student, student.state_dict(), trainer.average)
    export(student, state, tmp_path / "weights.safetensors")
    again = build(**SMALL)
    fill(again, tmp_path / "weights.safetensors")
    assert set(state) == set(again.state_dict())


def test_the_optimiser_forgets_at_each_border(tmp_path: Path) -> None:
    student, found = distillation()
    trainer = _trainer(student, found, tmp_path)
    parameter = student.transform.g_a.down16.weight
    seen = []
    for _ in range(5):
        trainer.train_step()
        seen.append(int(trainer.optimizer.state[parameter]["step"]))
    assert seen == [1, 2, 1, 2, 1]  # phases 2 and 3 begin with the third and the fifth step


@pytest.mark.parametrize("settings", [{}, {"phases": (0.0, 0.8), "calibration": 3}, {"staged": False}])
def test_resuming_changes_nothing(settings: dict, tmp_path: Path) -> None:
    """At the borders of phases, and in the middle of the calibration."""
    losses: dict[str, list[Tensor]] = {"whole": [], "parts": []}
    for name in losses:
        torch.manual_seed(1)
        trainer = _trainer(*distillation(**settings), tmp_path / name)
        for step in range(5):
            if name == "parts" and step in (2, 4):
                trainer.save()
                torch.manual_seed(100 + step)
                trainer = _trainer(*distillation(**settings), tmp_path / name)
                assert trainer.resume()
            losses[name].append(trainer.train_step()[1])
    torch.testing.assert_close(losses["whole"], losses["parts"], rtol=1e-6, atol=0)


def test_features_come_closer() -> None:
    student, found = distillation()
    for adapter in found.adapters:
        adapter.reset_parameters()
    x, level = batch(1), torch.tensor([2.0])
    optimizer = torch.optim.Adam([*student.parameters(), *found.adapters.parameters()], 5e-3)
    found.begin(student, 0.0)
    distances = []
    inner = found.feature_distance
    found.feature_distance = lambda *maps: distances.append(inner(*maps)) or distances[-1]
    for _ in range(40):
        optimizer.zero_grad()
        found(student, x, level).loss.mean().backward()
        optimizer.step()
    first, last = (float(distances[k].detach().mean()) for k in (0, -1))
    assert last < 0.5 * first


# --- which objective --------------------------------------------------------------------------------


def test_which_objective(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student = build(**SMALL)
    path = tmp_path / "teacher.safetensors"
    write_tensors(build(**SMALL_TEACHER).state_dict(), path)
    differing = {key: value for key, value in SMALL_TEACHER.items() if PRESETS["base-teacher"][key] != value}
    found = objective(student, str(path), teacher_settings=differing, features=0.1)
    assert isinstance(found, Distillation) and found.shares[0] == 0.1
    assert not found.train().teacher.training
    assert type(objective(student, str(path), distillation=False)) is Objective
    with pytest.raises(WrongWeightsError, match="does not fit"):
        objective(student, str(path))
    with pytest.raises(UsageError, match="no preset"):
        objective(student, str(path), teacher_preset="huge")
    with pytest.raises(UsageError, match="teacher=FILE"):
        objective(student, distillation=True)
    with caplog.at_level(logging.WARNING):
        assert type(objective(build(**SMALL_TEACHER))) is Objective
        assert not caplog.messages
        assert type(objective(student)) is Objective
    assert "learns alone" in caplog.text


@pytest.mark.parametrize("way", [{"swin": True}, {"extra_rb": 1}, {"wide_latent": 80}])
def test_a_teacher_is_larger_in_any_one_way(way: dict, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody asks for the teacher of a teacher, even where an ablation took its attention away."""
    sizes = {"widths": (32, 32, 32), "latent": 320}
    with caplog.at_level(logging.WARNING):
        objective(meta("base", **sizes, **way))
        assert not caplog.messages
        objective(meta("base", **sizes))
    assert "learns alone" in caplog.text


def test_the_student_without_distillation_is_any_codec() -> None:
    model = build(**SMALL).train()
    out = model(batch(2), torch.tensor([1.0, 6.0]))
    assert set(out["likelihoods"]) == {"z", "y"}
    assert bool((bits(out["likelihoods"]) > 0).all())
