"""Deformable-checkerboard: sizes, the two passes, the channel mask, mixture models, distillation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo_core as zoo
from zoo_core.entropy.coder import Coder
from zoo_core.entropy.mixture import MixtureParameters, mixture_likelihood
from zoo_core.entropy.stream import Encoder
from zoo_core.errors import UsageError
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.layers.checkerboard import merge
from zoo_core.layers.deformable import DeformableConv2d
from zoo_core.layers.residual import ResidualBlock
from zoo_core.model import CodecModel, bits, parameter_count, read_latents, write_latents
from zoo_core.testing.pictures import picture
from zoo_core.training.checkpoint import averaged
from zoo_core.training.data import RandomCrops
from zoo_core.training.loop import Trainer, _parameter_groups
from zoo_core.training.recipe import Recipe
from zoo_deformable_checkerboard import BASE, PAPER_128, PAPER_256, PAPER_STUDENT, sparsity
from zoo_deformable_checkerboard.estimation import MODELS
from zoo_deformable_checkerboard.model import build, objective, start
from zoo_deformable_checkerboard.objective import Distillation, Sparse
from zoo_deformable_checkerboard.transform import Attention, ConcatenatedBlocks, DeformableModule

SMALL = BASE | {
    "latent": 8,
    "widths": (8, 8, 8),
    "offset_groups": 2,
    "hyper_latent": 6,
    "context_channels": 8,
    "parameter_widths": (8, 8),
}
SWITCHES = (
    {},
    {"drm": "none"},
    {"drm": "frozen"},
    {"modulated": True},
    {"context": "none"},
    {"context": "shared"},
    {"models": ("gauss", "gauss")},
    {"models": ("gmm3", "gllmm")},
    {"models": ("gmm2", "gllmm1")},
    {"deformable_convs": 2, "concatenated": True},
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


@pytest.mark.parametrize(
    ("preset", "g_a", "g_s", "h_a", "h_s", "pe_a", "pe_n", "cost_a", "cost_s"),
    [
        (PAPER_128, 4_091_464, 6_185_044, 737_920, 1_291_136, 5_904_000, 2_624_512, 310.9, 356.1),
        (PAPER_256, 16_178_248, 24_526_932, 2_950_400, 5_162_752, 10_986_880, 4_427_904, 1233.9, 1409.6),
        (PAPER_STUDENT, 4_091_464, 3_487_024, 737_920, 1_291_136, 5_904_000, 2_624_512, 310.9, 138.7),
    ],
)
def test_paper_presets(preset, g_a, g_s, h_a, h_s, pe_a, pe_n, cost_a, cost_s) -> None:
    """The context's convolution has the 12 taps of 25 that are not always zero."""
    model = on_meta(**preset)
    entropy, width = model.entropy_model, preset["latent"]
    assert parameter_count(model.transform.g_a) == g_a and parameter_count(model.transform.g_s) == g_s
    assert parameter_count(entropy.h_a) == h_a and parameter_count(entropy.h_s) == h_s
    assert parameter_count(entropy.pe_anchors) == pe_a and parameter_count(entropy.pe_others) == pe_n
    assert parameter_count(entropy.context) == 12 * width * 2 * width + 2 * width
    assert parameter_count(entropy.prior) == 61 * width
    costs = kmacs(model)
    # Bilinear reading is not a product with a weight, and is left out here.
    assert below(costs, "transform.g_a") == pytest.approx(cost_a, rel=3e-3)
    assert below(costs, "transform.g_s") == pytest.approx(cost_s, rel=3e-3)


def test_blocks_have_the_predecessors_sizes() -> None:
    assert parameter_count(DeformableModule(128, 1, 2, False, False)) == 336_676
    assert parameter_count(DeformableModule(112, 4, 1, False, False)) == 298_664
    assert parameter_count(ConcatenatedBlocks(128)) == 590_336
    assert parameter_count(Attention(128)) == 337_536


def test_the_specifications_base() -> None:
    """Narrower than ours: the parameters of each part in the table of the specification."""
    attentions = {
        "latent": 112,
        "hyper_latent": 80,
        "context_channels": 224,
        "parameter_widths": (320, 384),
        "attention_units": 3,
        "variable_rate": False,
    }
    model = on_meta(**BASE | attentions)
    transform, entropy = model.transform, model.entropy_model
    teacher = on_meta(**BASE | attentions | {"synthesis": BASE["teacher"]}).transform.g_s
    found = [
        parameter_count(part) for part in (transform.g_a, transform.g_s, teacher, entropy.h_a, entropy.h_s)
    ]
    assert found == [1_336_584, 1_863_060, 2_276_612, 311_440, 573_744]
    found = [parameter_count(part) for part in (entropy.pe_anchors, entropy.pe_others, entropy.prior)]
    assert found == [583_344, 655_024, 4_880]


@pytest.mark.parametrize(
    ("preset", "total"),
    [(BASE, 6_711_644), (PAPER_128, 21_235_356), (PAPER_STUDENT, 18_537_336), (PAPER_256, 65_822_108)],
)
def test_totals_of_the_card(preset: dict, total: int) -> None:
    assert parameter_count(on_meta(**preset)) == total


@pytest.mark.parametrize(("width", "height"), [(256, 256), (768, 512), (512, 384)])
@pytest.mark.parametrize("preset", [BASE, PAPER_128])
def test_shapes(preset: dict, width: int, height: int) -> None:
    """Of y, z, phi, c, psi of anchors, psi of the others; halves have half the columns."""
    model, shapes = on_meta(**preset), []
    entropy = model.entropy_model
    parts = (entropy.h_a, entropy.h_s, entropy.pe_anchors.last, entropy.context, entropy.pe_others.last)
    for part in parts:
        part.register_forward_hook(lambda part, inputs, out: shapes.append(tuple(out.shape[1:])))
    entropy.h_a.register_forward_pre_hook(lambda part, inputs: shapes.append(tuple(inputs[0].shape[1:])))
    model(torch.empty(1, 3, height, width, device="meta"), torch.empty(1, device="meta"))
    latent, (h, w) = preset["latent"], (height // 16, width // 16)
    psi_a, psi_n = (sum(MODELS[name].sizes) for name in preset["models"])
    assert shapes == [
        (latent, h, w),
        (preset["hyper_latent"], h // 4, w // 4),
        (2 * latent, h, w),
        (psi_a, latent, h, w // 2),
        (preset["context_channels"], h, w // 2),
        (psi_n, latent, h, w // 2),
    ]


def test_share_of_the_deformable_convolutions() -> None:
    """With what predicts their offsets, as the specification counts; a module's second convolution is plain."""
    model = on_meta(**BASE)
    costs = kmacs(model)
    names = [name for name, part in model.named_modules() if isinstance(part, DeformableConv2d)]
    assert len(names) == 2
    share = sum(costs[name] + below(costs, name) for name in names) / costs.total()
    assert 0.06 < share < 0.10 and share == pytest.approx(0.0839, abs=5e-4)


def test_base_preset_keeps_to_the_budgets() -> None:
    model = on_meta(**BASE)
    costs = kmacs(model)
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") < 6
    assert below(costs, "transform.g_a") < 80 and below(costs, "transform.g_s") < 80
    assert 2 * parameter_count(model) < 16 * 2**20


def test_a_module_without_offsets_is_a_residual_block() -> None:
    module, block = DeformableModule(8, 2, 1, False, False), ResidualBlock(8, 0.2)
    for mine, theirs in ((module.conv1, block.conv1), (module.conv2, block.conv2)):
        theirs.weight.data, theirs.bias.data = mine.weight.data, mine.bias.data
    x = torch.randn(1, 8, 7, 9)
    torch.testing.assert_close(module(x), block(x), rtol=1e-4, atol=1e-5)


# --- order of coding --------------------------------------------------------------------------------


class Passes(Coder):
    """Rounds, keeps the mixtures of both passes, and changes one element of what a pass returns."""

    def __init__(self, changed: tuple[int, int, int] | None = None):
        self.changed = changed  # pass, row, column within the half
        self.mixtures: list[MixtureParameters] = []

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        return latent.round()

    def gaussian(self, name, latent, mean, scale, gain=None):
        raise AssertionError("no Gaussian step here")

    def channels(self, name, latent, count, gain=None):
        return torch.ones(count, dtype=torch.bool)

    def mixture(self, name, latent, parameters, gain=None):
        value = latent.round()
        if self.changed is not None and self.changed[0] == len(self.mixtures):
            value[:, :, self.changed[1], self.changed[2]] += 3
        self.mixtures.append(parameters)
        return value


def passes(model: CodecModel, y: Tensor, changed: tuple[int, int, int] | None) -> list[MixtureParameters]:
    coder = Passes(changed)
    with torch.inference_mode():
        model.entropy_model.code(coder, (y,), (tuple(y.shape[1:]),), None)
    return coder.mixtures


def moves(before: MixtureParameters, after: MixtureParameters) -> Tensor:
    """Where (B, C, H, W/2) weight, mean or scale of any component differ."""
    return torch.stack(
        [(getattr(before, k) != getattr(after, k)).any(1) for k in ("weight", "mean", "scale")]
    ).any(0)


def test_an_anchor_moves_the_mixtures_of_twelve_others_and_of_nothing_else() -> None:
    model = build(**{**SMALL, "variable_rate": False}).double().eval()
    y = 3 * torch.randn(1, 8, 12, 12, dtype=torch.float64)
    clean = passes(model, y, None)
    assert len(clean) == 2
    moved = passes(model, y, (0, 6, 3))  # row 6, column 6 of the board
    assert not moves(clean[0], moved[0]).any()
    change = moves(clean[1], moved[1]).any(1)[0]  # (H, W/2)
    board = merge(torch.zeros_like(change)[None, None], change[None, None])[0, 0]
    where = board.nonzero().tolist()
    assert len(where) == 12 and all(abs(i - 6) <= 2 and abs(j - 6) <= 2 and (i + j) % 2 for i, j in where)
    last = passes(model, y, (1, 6, 3))
    assert not any(moves(a, b).any() for a, b in zip(clean, last, strict=True))


def test_each_pass_has_networks_of_its_own() -> None:
    model = build(**{**SMALL, "variable_rate": False}).double().eval()
    y = 3 * torch.randn(1, 8, 8, 8, dtype=torch.float64)
    clean = passes(model, y, None)
    for net, touched in (("pe_anchors", 0), ("pe_others", 1)):
        other = build(**{**SMALL, "variable_rate": False}).double().eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            getattr(other.entropy_model, net).last.weight.zero_()
        changed = [bool(moves(a, b).any()) for a, b in zip(clean, passes(other, y, None), strict=True)]
        assert changed == [k == touched for k in range(2)]
    shared = build(**{**SMALL, "context": "shared"}).entropy_model
    assert shared.pe_anchors is shared.pe_others


def test_two_passes_of_any_size() -> None:
    model = build(**{**SMALL, "variable_rate": False}).eval()
    for side in (4, 24):
        assert len(passes(model, torch.randn(1, 8, side, side), None)) == 2


# --- channel mask -----------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [[], [3], [0, 7], list(range(8))])
def test_empty_channels_are_not_coded(used: list[int]) -> None:
    """Nothing, one channel, some, and all: the latent comes back exactly, empty channels as zeros."""
    model = build(**SMALL)
    model.update()
    model.prepare()
    y = torch.zeros(1, 8, 8, 8)
    y[:, used] = 4 * torch.randn(1, len(used), 8, 8)
    payload, _, (known,) = write_latents(model, (y,), 3.0)
    step = model.entropy_model.gains(torch.tensor([3.0], dtype=torch.float64)).step
    assert sorted({int(c) for c in (known != 0).nonzero()[:, 1]}) == used
    assert (known / step - (known / step).round()).abs().max() < 1e-9
    (again,) = read_latents(model, payload, b"", (128, 128), 3.0)
    assert torch.equal(known, again)


@pytest.mark.parametrize("used", [2, 6])
def test_the_mask_saves_bytes_and_changes_nothing(used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the channels empty, or more: the mask saves more than it costs."""
    model = build(**SMALL)
    model.update()
    model.prepare()
    y = 2 * torch.randn(1, 8, 16, 16)
    y[:, used:] *= 0.01  # rounds to zero
    short, _, (masked,) = write_latents(model, (y,), 4.0)
    monkeypatch.setattr(
        Encoder, "channels", lambda self, name, latent, count, gain=None: torch.ones(count).bool()
    )
    long, _, (full,) = write_latents(model, (y,), 4.0)
    torch.testing.assert_close(masked, full)
    assert len(short) < len(long)


def test_selected_rows_are_the_full_ones() -> None:
    net = build(**SMALL).entropy_model.pe_others
    x, channels = torch.randn(1, net.hidden1.in_channels, 4, 4), torch.tensor([1, 6])
    some, full = net(x, channels), net(x, None)
    for a, b in ((some.mean, full.mean), (some.scale, full.scale), (some.weight, full.weight)):
        torch.testing.assert_close(a, b[:, :, channels], rtol=1e-5, atol=1e-5)


# --- mixture models ---------------------------------------------------------------------------------


def test_components_of_the_models() -> None:
    sizes = {name: sum(model.sizes) for name, model in MODELS.items()}
    assert sizes == {"gauss": 2, "gmm2": 6, "gmm3": 9, "gllmm1": 9, "gllmm": 30}


@pytest.mark.parametrize("family", [0, 1, 2])
def test_a_mixture_of_one_family_and_equal_components_is_that_distribution(family: int) -> None:
    raw = torch.zeros(1, 30, 1, 5, 5)
    raw[:, 9 + family] = 30.0
    raw[:, 9 + (family + 1) % 3] = raw[:, 9 + (family + 2) % 3] = -30.0
    raw[:, 12:21], raw[:, 21:] = 0.3, 1.7
    x = torch.arange(-12.0, 13).view(1, 1, 5, 5)
    one = MixtureParameters(
        (MODELS["gllmm"].families[family],),
        torch.ones(1, 1, 1, 5, 5),
        torch.full((1, 1, 1, 5, 5), 0.3),
        torch.full((1, 1, 1, 5, 5), 1.7),
    )
    likelihood = mixture_likelihood(x, MODELS["gllmm"].parameters(raw))
    torch.testing.assert_close(likelihood, mixture_likelihood(x, one), rtol=0, atol=1e-6)


def test_unknown_choices() -> None:
    for switches, message in (
        ({"offset_groups": 3}, "offset_groups=3: .* divides the 8 channels"),
        ({"offset_groups": 0}, "offset_groups=0"),
        ({"deformable_convs": 3}, "deformable_convs=3: choose 1 or 2"),
        ({"models": ("gmm9", "gmm3")}, "gllmm1"),
        ({"context": "three"}, "shared"),
        ({"drm": "half"}, "frozen"),
    ):
        with pytest.raises(UsageError, match=message):
            build(**{**SMALL, **switches})


# --- whole model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_trains_and_codes(switches: dict) -> None:
    wide = SMALL | {"latent": 24, "widths": (16, 16, 16)}  # a few ReLUs would all be silent
    model = build(**{**wide, **switches}).train()
    with torch.no_grad():  # at first all of z rounds to zero, and a convolution of zeros has no gradient
        model.entropy_model.h_a[-1].weight.mul_(30)
    x = torch.rand(6, 3, 64, 64)
    out = model(x, torch.arange(1.0, 7))
    (bits(out["likelihoods"]).mean() + 1e3 * (out["x_hat"] - x).square().mean()).backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
    ]
    assert not silent
    model.update()
    model.prepare()
    coded = model.compress(x[:1], 2.0)
    assert model.decompress(coded["strings"], coded["shape"], 2.0)["x_hat"].shape == (1, 3, 64, 64)


def test_what_the_switches_build() -> None:
    def modules(**switches: object) -> list[DeformableModule]:
        model = build(**{**SMALL, **switches})
        return [part for part in model.modules() if isinstance(part, DeformableModule)]

    plain = modules()
    assert len(plain) == 2 and not any(m.conv1.frozen or m.conv1.modulated for m in plain)
    assert all(m.conv1.offset.out_channels == 18 * 2 for m in plain)
    assert all(not isinstance(m.conv2, DeformableConv2d) for m in plain)
    assert all(isinstance(m.conv2, DeformableConv2d) for m in modules(deformable_convs=2))
    assert modules(drm="none") == []
    frozen = modules(drm="frozen")
    assert len(frozen) == 2 and all(m.conv1.frozen for m in frozen)
    assert [parameter_count(m) for m in frozen] == [parameter_count(m) for m in plain]
    assert all(m.conv1.offset.out_channels == 27 * 2 for m in modules(modulated=True))
    assert all(m.conv1.offset.out_channels == 18 * 4 for m in modules(offset_groups=4))


def test_what_the_switches_of_the_context_build() -> None:
    none, shared, two = (
        build(**{**SMALL, "context": context}).entropy_model for context in ("none", "shared", "two")
    )
    assert none.context is None and none.pe_others is none.pe_anchors
    assert none.pe_anchors.hidden1.in_channels == 2 * 8
    assert shared.context is not None and shared.pe_others is shared.pe_anchors
    assert shared.pe_anchors.hidden1.in_channels == 2 * 8 + 8
    assert two.context is not None and two.pe_others is not two.pe_anchors
    assert (two.pe_anchors.hidden1.in_channels, two.pe_others.hidden1.in_channels) == (2 * 8, 2 * 8 + 8)
    assert (two.pe_anchors.model, two.pe_others.model) == (MODELS["gllmm1"], MODELS["gmm3"])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (500, 333)])
def test_pictures_of_any_size(width: int, height: int) -> None:
    codec = zoo.load("deformable-checkerboard-q3")
    assert codec.decode(codec.encode(picture(width, height))).size == (width, height)


def test_start_is_a_block_transform() -> None:
    model = build(**BASE).eval()
    photos = [torch.from_numpy(picture(128, 128, seed)).permute(2, 0, 1) for seed in range(3)]
    start(model, photos)
    x = photos[0][None].float() / 255
    with torch.inference_mode():
        restored = model.transform.synthesis(model.transform.analysis(x))
    error = float((255 * (restored - x))[..., 16:-16, 16:-16].square().mean())
    assert 10 * np.log10(255**2 / error) > 28


# --- distillation -----------------------------------------------------------------------------------


def trained(folder: Path, **settings: object) -> tuple[list[dict[str, Tensor]], Trainer]:
    """States after the start and after the steps 3, 4 and 5 of five; phases 2 and 3 take one step each."""
    model = build(**SMALL)
    photos = [torch.from_numpy(picture(96, 96)).permute(2, 0, 1).contiguous()]
    recipe = Recipe(steps=5, batch=2, crop=64, bf16=False, warmup=1, learning_rate=1e-3)
    trainer = Trainer(
        model, RandomCrops(photos, 64, 1.0, 0), recipe, folder, objective=objective(model, **settings)
    )
    states = [{k: v.clone() for k, v in model.state_dict().items()}]
    for step in range(1, 6):
        trainer.train_step()
        if step >= 3:
            states.append({k: v.clone() for k, v in model.state_dict().items()})
    return states, trainer


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parts of the model of which something changed."""
    return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}


def test_what_learns_in_each_phase(tmp_path: Path) -> None:
    (first, one, two, three), trainer = trained(tmp_path)
    assert {"transform.g_a", "entropy_model.h_s", "entropy_model.pe_anchors"} <= changed(first, one)
    assert changed(one, two) == {"transform.g_s"}
    assert {"transform.g_s", "entropy_model.h_s", "entropy_model.pe_others"} <= changed(two, three)
    assert not {"transform.g_a", "entropy_model.gains"} & changed(one, three)
    quantiles = "entropy_model.prior.quantiles"
    assert not torch.equal(first[quantiles], one[quantiles])
    assert not torch.equal(two[quantiles], three[quantiles])  # let go again
    published = averaged(trainer.model, trainer.model.state_dict(), trainer.average)
    assert set(published) == set(build(**SMALL).state_dict())  # no teacher, no adapters


def test_latents_are_the_same_before_and_after_a_phase(tmp_path: Path) -> None:
    """Of phases 2 and 3 for y, which teacher and student share; of phase 2 for all that is coded."""
    states, _ = trained(tmp_path)
    x, model, seen = torch.rand(1, 3, 64, 64), build(**SMALL).train(), []  # in training all channels count
    with torch.no_grad():
        for state in states[1:]:
            model.load_state_dict(state)
            seen.append((model.transform.analysis(x)[0], model.estimate(x)[1].values))
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][0], seen[2][0])
    assert all(torch.equal(seen[0][1][name], seen[1][1][name]) for name in ("y", "z"))


PAPERS_SYNTHESES = {name: PAPER_STUDENT[name] for name in ("synthesis", "teacher")}


@pytest.mark.parametrize("switches", [{}, {"concatenated": True}, {"concatenated": True} | PAPERS_SYNTHESES])
def test_the_teacher_begins_with_the_students_picture(switches: dict) -> None:
    """Blocks that it alone has pass through, and what they enlarge is divided away again."""
    model, y = build(**SMALL | switches).eval(), torch.randn(1, 8, 4, 4)
    student, weights = model.transform.g_s, {k: v.clone() for k, v in model.state_dict().items()}
    distillation = objective(model)
    assert dict(distillation.teacher.named_children()).keys() > dict(student.named_children()).keys()
    with torch.no_grad():
        wanted, found = student.with_hints(y), distillation.teacher.with_hints(y)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    distillation.begin(model, 0.0)
    assert not changed(weights, model.state_dict())


def test_the_teacher_learns_at_the_rates_of_the_synthesis() -> None:
    model = build(**SMALL)
    distillation = objective(model, transform_rate=0.25, teacher_width=2.0)
    groups = _parameter_groups(model, distillation)
    rates = {id(p): factor for factor, parameters in groups.items() for p in parameters}
    for name, parameter in distillation.teacher.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.025 if ".offset." in name else 0.25), name
    assert any(".offset." in name for name, _ in distillation.teacher.named_parameters())
    assert all(rates[id(parameter)] == 1 for parameter in distillation.adapters.parameters())


def test_the_student_begins_as_the_teachers_equal_parts() -> None:
    model = build(**SMALL)
    distillation = objective(model)
    distillation.begin(model, 0.0)
    teacher, student = (
        dict(distillation.teacher.named_parameters()),
        dict(model.transform.g_s.named_parameters()),
    )
    assert set(student) < set(teacher)
    assert all(torch.equal(student[name], teacher[name]) for name in student)


def test_features_of_the_teacher_count_and_fade() -> None:
    model = build(**SMALL).train()
    distillation = objective(model, features=1.0)
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([2.0, 5.0])

    def loss(progress: float, features: float) -> float:
        distillation.features = features
        distillation.begin(model, progress)
        torch.manual_seed(0)
        return float(distillation(model, x, level).loss.sum())

    with torch.no_grad():
        for parameter in model.transform.g_s.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    early, late = (loss(p, 1.0) - loss(p, 0.0) for p in (0.8, 0.95))
    assert loss(0.7, 1.0) - loss(0.7, 0.0) > 0
    assert late == pytest.approx(early / 4, rel=0.02)
    assert loss(0.3, 1.0) == loss(0.3, 0.0)


def test_a_wider_teacher_is_adapted() -> None:
    model = build(**SMALL)
    distillation = objective(model, teacher_width=2.0)
    assert all(isinstance(a, nn.Conv2d) for a in distillation.adapters.values())
    distillation.begin(model, 0.9)
    terms = distillation(model, torch.rand(2, 3, 64, 64), torch.tensor([2.0, 5.0]))
    assert terms.loss.isfinite().all()


def test_which_objective() -> None:
    assert isinstance(objective(build(**SMALL)), Distillation)
    assert type(objective(build(**SMALL), distillation=False)) is Sparse
    plain = build(**{**SMALL, "teacher": None})
    assert type(objective(plain)) is Sparse
    with pytest.raises(UsageError, match="no teacher"):
        objective(plain, distillation=True)
    with pytest.raises(UsageError, match="rising"):
        objective(build(**SMALL), phases=(0.8, 0.6))
    for settings in (
        {"beta": -0.1},
        {"beta": -0.1, "distillation": False},
        {"features": -1.0},
        {"transform_rate": -1.0},
        {"teacher_width": 0},
    ):
        with pytest.raises(UsageError, match=f"^{next(iter(settings))}="):
            objective(build(**SMALL), **settings)


def test_magnitude_of_the_latent_is_charged() -> None:
    """That of y before it is rounded, so that what rounds to zero is still drawn to it."""
    model = build(**{**SMALL, "teacher": None}).train()
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([2.0, 5.0])
    losses = []
    for beta in (0.0, 1e4):
        torch.manual_seed(0)
        losses.append(Sparse(beta)(model, x, level).loss)
    with torch.no_grad():
        steps = model.transform.analysis(x)[0] * model.entropy_model.gains(level).scale
    assert (steps.abs() < 0.5).float().mean() > 0
    wanted = 1e4 * steps.abs().sum((1, 2, 3)) / 64**2
    torch.testing.assert_close(losses[1] - losses[0], wanted, rtol=1e-4, atol=0)
    assert not model.entropy_model.h_a._forward_pre_hooks


def test_offsets_learn_slowly() -> None:
    sparse = Sparse(transform_rate=1.0)
    names = [name for name, _ in build(**SMALL).named_parameters()]
    slow = [name for name in names if sparse.learning_rate_factor(name) == pytest.approx(0.1)]
    assert slow and all(".offset." in name for name in slow)


def test_the_least_weight_is_part_of_the_weights() -> None:
    """Files are read as they were written: the weights' value counts, and those without one have none."""
    model, other = build(**SMALL), build(**SMALL | {"least_weight": 1 / 8})
    assert float(model.entropy_model.least_weight) == 1 / 1024 == BASE["least_weight"]
    other.load_state_dict(model.state_dict())
    assert float(other.entropy_model.least_weight) == 1 / 1024
    none = build(**SMALL | {"least_weight": 0})  # as a command line gives it
    assert none.entropy_model.least_weight.dtype == torch.float32
    none.load_state_dict(model.state_dict())
    assert float(none.entropy_model.least_weight) == 1 / 1024
    older = {k: v for k, v in model.state_dict().items() if not k.endswith("least_weight")}
    assert len(older) == len(model.state_dict()) - 1
    model.load_state_dict(older)
    assert float(model.entropy_model.least_weight) == 0


def test_a_least_weight_that_could_leave_no_component_is_refused() -> None:
    with pytest.raises(UsageError, match="less than 1/3"):
        build(**SMALL | {"least_weight": 1 / 3})


def test_components_below_the_least_weight_are_not_coded_with() -> None:
    model = build(**SMALL | {"least_weight": 0.3})
    model.update()
    model.prepare()
    seen = []

    class Watching(Encoder):
        def mixture(self, name, latent, parameters, gain=None):
            seen.append(parameters.weight)
            return super().mixture(name, latent, parameters, gain)

    y = 20 * torch.randn(1, 8, 4, 4, dtype=torch.float64)
    model.entropy_model.code(Watching(), (y,), ((8, 4, 4),), torch.tensor([3.0], dtype=torch.float64))
    assert len(seen) == 2
    for weight in seen:
        assert bool((weight == 0).any())
        torch.testing.assert_close(weight.sum(1), torch.ones_like(weight[:, 0]))


# --- what is left out -------------------------------------------------------------------------------


def test_what_a_model_leaves_out_is_counted() -> None:
    model = build(**SMALL | {"least_weight": 0.3}).prepare()
    model.update()
    with torch.no_grad():
        model.transform.g_a.attend16.gate[-1].bias.fill_(-30)  # y is what the convolution before it returns
        model.transform.g_a.down16.weight.mul_(10)[2:] = 0
        for net in (model.entropy_model.pe_anchors, model.entropy_model.pe_others):
            net.last.weight.mul_(10)  # some components of some elements are light
    photo = torch.from_numpy(picture(100, 70)).permute(2, 0, 1)
    found = sparsity.count(model, photo, 6.0)
    assert found["empty"] == 6
    assert 0 < found["slots"] < found["slots_of_all"] and 0 < found["bytes"] != found["bytes_of_all"]
    assert float(model.entropy_model.least_weight) == pytest.approx(0.3)


def test_the_command_that_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(70, 80)).save(tmp_path / "photo.png")
    assert sparsity.main([str(tmp_path), "--quality", "1"]) == 0
    row, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert total == {"sum of all": row} and 0 < row["empty"] < BASE["latent"]
    assert 0 < row["slots"] < row["slots_of_all"]
    assert sparsity.main([str(tmp_path / "none")]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1
