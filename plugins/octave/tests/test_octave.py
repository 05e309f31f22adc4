"""Octave: sizes, the layers, cross-resolution estimation, information fidelity."""

from __future__ import annotations

import copy
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo_core as zoo
from zoo_core.entropy.coder import Coder
from zoo_core.errors import UsageError
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.model import CodecModel, bits, parameter_count
from zoo_core.testing.pictures import picture
from zoo_core.training.checkpoint import averaged
from zoo_core.training.data import RandomCrops
from zoo_core.training.loop import Trainer
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import Objective
from zoo_core.training.recipe import Recipe
from zoo_octave import BASE, PAPER_256, PAPER_PRESET
from zoo_octave.layers import Channels, GoConv, GoTConv, Pair, leaky
from zoo_octave.model import build, objective, start
from zoo_octave.objective import InformationFidelity

SMALL = {
    "widths": (8, 8, 8),
    "latent": 8,
    "cross_kernel": 3,
    "transposed_act": "post",
    "hyper": 8,
    "params": 16,
    "middle": 8,
    "estimate_z": (8, 8),
    "estimate_y": (8, 8),
    "hyper_kernel": 3,
}
SWITCHES = (
    {},
    {"octave": False},
    {"extra_hyper": False},
    {"crpe_y": False},
    {"crpe_z": False},
    {"hyper_skip": False},
    {"transposed_act": "pre"},
    {"cross_kernel": None},
    {"noise_downstream": False},
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

ROWS = {
    "transform.g_a": ((16_831_136, 288.155), (5_501_312, 95.120)),
    "transform.g_s": ((15_694_122, 365.456), (5_134_314, 120.656)),
    "entropy_model.h_a": ((11_843_328, 5.767), (3_867_648, 1.883)),
    "entropy_model.h_s": ((12_444_352, 9.355), (5_442_112, 4.672)),
    "entropy_model.h_a2": ((5_420_800, 0.579), (1_770_496, 0.189)),
    "entropy_model.h_s2": ((7_537_344, 0.702), (3_140_160, 0.310)),
    "entropy_model.high_z": ((1_254_624 + 988_288, 0.318), (409_728 + 705_664, 0.197)),
    "entropy_model.low_y": ((2_008_832 + 5_018_048, 5.298), (656_384 + 1_638_656, 1.730)),
    "entropy_model.high_y": (
        (1_254_624 + 1_456_000 + 1_131_648, 6.548),
        (409_728 + 475_648 + 787_584, 3.768),
    ),
}


@pytest.mark.parametrize(("preset", "column"), [(PAPER_PRESET, 0), (PAPER_256, 1)])
def test_modules_of_the_paper_presets(preset: dict, column: int) -> None:
    model = on_meta(**preset)
    costs = kmacs(model)
    assert parameter_count(model) == (82_910_474, 29_955_050)[column]
    assert costs.total() == pytest.approx((682.18, 228.52)[column], rel=0.01)
    for name, row in ROWS.items():
        parameters, cost = row[column]
        assert parameter_count(model.get_submodule(name)) == parameters, name
        assert below(costs, name) == pytest.approx(cost, abs=2e-3), name


def test_small_cross_paths_in_the_paper_presets() -> None:
    for preset, parameters in ((PAPER_PRESET, 66_993_274), (PAPER_256, 24_310_618)):
        assert parameter_count(on_meta(**{**preset, "cross_kernel": 3})) == parameters


def test_base_preset_keeps_to_the_budgets() -> None:
    model = on_meta(**BASE)
    costs = kmacs(model)
    encoder_only = below(costs, "entropy_model.h_a") + below(costs, "entropy_model.h_a2")
    assert below(costs, "entropy_model") - encoder_only < 6
    assert below(costs, "transform.g_a") < 80 and below(costs, "transform.g_s") < 80
    assert 2 * parameter_count(model) < 16 * 2**20


def test_shapes_of_the_paper_preset() -> None:
    model = on_meta(**PAPER_256)
    y = model.transform.analysis(torch.empty(1, 3, 256, 256, device="meta"))
    assert [tuple(t.shape[1:]) for t in y] == [(128, 16, 16), (128, 8, 8)]
    z = model.entropy_model.h_a(Pair(*y))
    w = model.entropy_model.h_a2(z)
    for pair in (z, w):
        assert [tuple(t.shape[1:]) for t in pair] == [(128, 4, 4), (128, 2, 2)]
    assert [tuple(t.shape[1:]) for t in model.entropy_model.h_s(z)] == [(256, 16, 16), (256, 8, 8)]
    assert [tuple(t.shape[1:]) for t in model.entropy_model.h_s2(w)] == [(256, 4, 4), (256, 2, 2)]
    assert model.transform.synthesis(y).shape == (1, 3, 256, 256)


# --- the layers -------------------------------------------------------------------------------------


def silence(layer: GoConv, *names: str) -> None:
    with torch.no_grad():
        for name in names:
            for parameter in getattr(layer, name).parameters():
                parameter.zero_()


def test_without_cross_paths_a_layer_is_two_convolutions() -> None:
    layer = GoConv(Channels(4, 4), Channels(6, 6), 5, 2, None)
    silence(layer, "hl", "lh")
    x = Pair(torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8))
    y = layer(x)
    assert torch.equal(y.high, layer.hh.conv(x.high)) and torch.equal(y.low, layer.ll.conv(x.low))


@pytest.mark.parametrize("kind", [GoConv, GoTConv])
def test_each_resolution_feeds_the_other(kind: type) -> None:
    layer = kind(Channels(4, 4), Channels(4, 4), 5, 2, leaky)
    x = Pair(torch.randn(1, 4, 16, 16), torch.randn(1, 4, 8, 8))
    y = layer(x)
    assert not torch.equal(layer(Pair(x.high, x.low + 1)).high, y.high)
    assert not torch.equal(layer(Pair(x.high + 1, x.low)).low, y.low)


def test_a_shift_of_both_inputs_shifts_both_outputs() -> None:
    layer = GoConv(Channels(2, 2), Channels(2, 2), 5, 2, None).double()
    x = Pair(torch.randn(1, 2, 64, 64).double(), torch.randn(1, 2, 32, 32).double())
    y = layer(x)
    moved = layer(Pair(x.high.roll(4, -1), x.low.roll(2, -1)))
    torch.testing.assert_close(moved.high[..., 8:-8], y.high.roll(2, -1)[..., 8:-8])
    torch.testing.assert_close(moved.low[..., 4:-4], y.low.roll(1, -1)[..., 4:-4])


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # x = -1 at both resolutions, all operators carry one sample: a(-1) = -0.2, a(-0.2) = -0.04
        (lambda: GoConv(Channels(1, 1), Channels(1, 1), 1, 1, leaky), (-0.24, -0.24)),
        (lambda: GoTConv(Channels(1, 1), Channels(1, 1), 1, 1, leaky, order="pre"), (-0.24, -0.24)),
        (lambda: GoTConv(Channels(1, 1), Channels(1, 1), 1, 1, leaky, order="post"), (-0.24, -0.24)),
    ],
)
def test_activations_of_negative_inputs(layer, expected: tuple[float, float]) -> None:
    """With weights of 1, order does not matter; with a bias in between it does, see the next test."""
    layer = layer()
    with torch.no_grad():
        for conv in (m for m in layer.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))):
            conv.weight.fill_(1)
            conv.bias.zero_()
    y = layer(Pair(-torch.ones(1, 1, 4, 4), -torch.ones(1, 1, 2, 2)))
    assert (float(y.high[0, 0, 0, 0]), float(y.low[0, 0, 0, 0])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: GoConv(Channels(1), Channels(1, 1), 1, 1, leaky), (0.5, 1.5)),
        (lambda: GoTConv(Channels(1), Channels(1, 1), 1, 1, leaky, order="pre"), (0.9, 1.9)),
        (lambda: GoTConv(Channels(1), Channels(1, 1), 1, 1, leaky, order="post"), (0.5, 1.5)),
    ],
)
def test_activation_before_or_after_the_operators(layer, expected: tuple[float, float]) -> None:
    """x = -0.5 and biases of 1: after, a(-0.5 + 1) = 0.5; before, a(-0.5) + 1 = 0.9."""
    layer = layer()
    with torch.no_grad():
        for conv in (m for m in layer.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))):
            conv.weight.fill_(1)
            conv.bias.fill_(1)
    y = layer(Pair(torch.full((1, 1, 4, 4), -0.5)))
    assert (float(y.high[0, 0, 0, 0]), float(y.low[0, 0, 0, 0])) == pytest.approx(expected)


def test_first_and_last_form() -> None:
    first, last = (
        GoConv(Channels(3), Channels(4, 4), 5, 2, leaky),
        GoTConv(Channels(4, 4), Channels(3), 5, 2, None),
    )
    x = torch.randn(1, 3, 32, 32)
    y = first(Pair(x))
    assert first.ll is None and first.lh is None
    assert torch.equal(y.low, first.hl(y.high))
    assert last.hl is None and last(y).low is None and last(y).high.shape == x.shape
    assert not torch.equal(last(Pair(y.high, y.low + 1)).high, last(y).high)


def test_unknown_order() -> None:
    with pytest.raises(ValueError, match="pre"):
        build(**{**SMALL, "transposed_act": "both"})


# --- order of coding --------------------------------------------------------------------------------


class Poisoned(Coder):
    """Rounds, notes whether the parameters of each step are finite, and poisons what one step returns."""

    def __init__(self, poisoned: str = ""):
        self.poisoned = poisoned
        self.finite: dict[str, bool] = {}

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        self.finite[name] = True
        return self._value(name, latent.round())

    def gaussian(self, name, latent, mean, scale, gain=None):
        self.finite[name] = bool(mean.isfinite().all() and scale.isfinite().all())
        return self._value(name, mean + (latent - mean).round())

    def _value(self, name: str, value: Tensor) -> Tensor:
        return value * float("nan") if name == self.poisoned else value


def walk(poisoned: str = "", side: int = 128, **switches: object) -> dict[str, bool]:
    model = build(**{**SMALL, **switches}).eval()
    latents = model.transform.analysis(torch.rand(1, 3, side, side))
    coder = Poisoned(poisoned)
    shapes = model.transform.latent_shapes(side, side)
    with torch.inference_mode():
        model.entropy_model.code(coder, latents, shapes, None)
    return coder.finite


@pytest.mark.parametrize("side", [128, 256])
def test_six_steps_for_any_size_and_low_before_high(side: int) -> None:
    assert list(walk(side=side)) == ["w_h", "w_l", "z_l", "z_h", "y_l", "y_h"]
    assert list(walk(side=side, extra_hyper=False)) == ["z_h", "z_l", "y_l", "y_h"]


def test_what_a_step_sees() -> None:
    assert all(walk("y_h").values())
    after_z_h = walk("z_h")
    assert after_z_h["z_l"] and after_z_h["z_h"] and not after_z_h["y_h"]
    assert not walk("y_l")["y_h"] and not walk("z_l")["z_h"]


def test_a_connection_that_is_off_carries_nothing() -> None:
    """With the switch off, the parameters do not depend on the LR latent; the size stays."""
    on, off = build(**SMALL).entropy_model, build(**{**SMALL, "crpe_y": False}).entropy_model
    assert parameter_count(on) == parameter_count(off)
    p, skip = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 2, 2)
    for model, equal in ((on, False), (off, True)):
        outs = [model.high_y(p, torch.randn(1, 4, 4, 4), skip) for _ in range(2)]
        assert torch.equal(outs[0][1], outs[1][1]) is equal
    for kind in (True, False):
        model = build(**{**SMALL, "hyper_skip": kind}).entropy_model
        low = torch.randn(1, 4, 4, 4)
        outs = [model.high_y(p, low, torch.randn(1, 8, 2, 2)) for _ in range(2)]
        assert torch.equal(outs[0][1], outs[1][1]) is not kind


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_trains_and_codes(switches: dict) -> None:
    model = build(**{**SMALL, **switches}, variable_rate=True).train()
    x = torch.rand(6, 3, 128, 128)
    terms = objective(model)(model, x, torch.arange(1.0, 7))
    terms.loss.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.update()
    model.prepare()
    coded = model.compress(x[:1], 2.0)
    assert model.decompress(coded["strings"], coded["shape"], 2.0)["x_hat"].shape == (1, 3, 128, 128)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (127, 129), (512, 768)])
def test_pictures_of_any_size(width: int, height: int) -> None:
    codec = zoo.load("octave-q3")
    assert codec.decode(codec.encode(picture(width, height))).size == (width, height)


def test_start_is_a_block_transform() -> None:
    model = build(**BASE).eval()
    photos = [torch.from_numpy(picture(128, 128, seed)).permute(2, 0, 1) for seed in range(3)]
    start(model, photos)
    x = photos[0][None].float() / 255
    with torch.inference_mode():
        restored = model.transform.synthesis(model.transform.analysis(x))
    error = float((255 * (restored - x))[..., 32:-32, 32:-32].square().mean())
    assert 10 * np.log10(255**2 / error) > 28


@pytest.mark.parametrize("switches", [{"octave": False}, {"transposed_act": "pre"}, {"widths": (48, 64, 64)}])
def test_start_refuses_what_does_not_fit(switches: dict) -> None:
    with pytest.raises(UsageError, match="two resolutions"):
        start(build(**{**BASE, **switches}), [])


# --- information fidelity ---------------------------------------------------------------------------


def test_gradients_reach_all_parameters_and_the_helpers_only_while_weighted() -> None:
    model = build(**SMALL, variable_rate=True).train()
    fidelity = objective(model)
    with torch.no_grad():  # at first all of w rounds to zero, and a convolution of zeros has no gradient
        model.entropy_model.h_a2[-1].hh.conv.weight.mul_(30)
        model.entropy_model.h_a2[-1].ll.conv.weight.mul_(30)
    x, level = torch.rand(6, 3, 128, 128), torch.arange(1.0, 7)
    fidelity.begin(model, 0.0)
    fidelity(model, x, level).loss.mean().backward()
    silent = [
        name
        for name, p in [*model.named_parameters(), *fidelity.named_parameters()]
        if not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
    ]
    assert not silent
    fidelity.zero_grad(set_to_none=True)
    fidelity.begin(model, 0.5)
    fidelity(model, x, level).loss.mean().backward()
    assert all(p.grad is None for p in fidelity.parameters())


def test_schedule_and_size_of_the_helpers() -> None:
    fidelity = objective(on_meta(**PAPER_256))
    assert parameter_count(fidelity) == 819_456
    for progress, weight in ((0.0, 1.0), (0.149, 1.0), (0.15, 0.0), (1.0, 0.0)):
        fidelity.begin(on_meta(**SMALL), progress)
        assert fidelity.weight == weight
    assert not isinstance(objective(build(**{**SMALL, "octave": False})), InformationFidelity)
    assert type(objective(build(**{**SMALL, "octave": False}))) is Objective
    with pytest.raises(UsageError, match="until"):
        objective(build(**SMALL), until=2)


def test_helpers_learn_in_a_run_and_are_not_published(tmp_path: Path) -> None:
    model = build(**SMALL, variable_rate=True)
    fidelity = objective(model)
    photos = [torch.from_numpy(picture(160, 160)).permute(2, 0, 1).contiguous()]
    before = {k: v.clone() for k, v in fidelity.state_dict().items()}
    recipe = Recipe(steps=4, batch=2, crop=128, bf16=False, warmup=1)
    trainer = Trainer(model, RandomCrops(photos, 128, 1.0, 0), recipe, tmp_path, objective=fidelity)
    trainer.train_step()
    assert any(not torch.equal(before[k], v) for k, v in fidelity.state_dict().items())
    published = averaged(model, model.state_dict(), trainer.average)
    assert set(published) == set(build(**SMALL, variable_rate=True).state_dict())


def test_fidelity_is_the_mean_square_of_what_low_does_not_tell() -> None:
    fidelity = InformationFidelity({"y": (2, 2)}, 3)
    values = {"y_l": torch.randn(2, 2, 4, 4), "y_h": torch.randn(2, 2, 8, 8)}
    difference = fidelity.upsample["y"](values["y_l"]) - values["y_h"]
    torch.testing.assert_close(fidelity.fidelity(values), difference.square().mean((1, 2, 3)))
    values["y_h"] = fidelity.upsample["y"](values["y_l"])
    assert float(fidelity.fidelity(values).detach().max()) == 0


def fidelity_after_training(weight: float, folder: Path) -> float:
    """L_IF of six crops after 150 steps, by helpers that are fitted to the latents anew."""
    torch.manual_seed(0)
    model = build(**SMALL, variable_rate=True)
    fidelity = objective(model, weight=weight, until=1.0)
    assert isinstance(fidelity, InformationFidelity)
    photo = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
    recipe = Recipe(steps=150, batch=2, crop=128, bf16=False, warmup=10)
    trainer = Trainer(model, RandomCrops([pixels], 128, 1.0, 0), recipe, folder, objective=fidelity)
    for _ in range(recipe.steps):
        trainer.train_step()
    crops = torch.stack([pixels[:, y : y + 256, x : x + 256] for y in (0, 200, 344) for x in (0, 256)])
    with torch.no_grad():
        _, coder = model.eval().estimate(crops / 255, torch.full((6,), 3.0))
    values = {name: value.detach() for name, value in coder.values.items()}
    optimiser = torch.optim.Adam(fidelity.parameters(), 1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        loss = fidelity.fidelity(values).mean()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def test_fidelity_pulls_the_resolutions_together(tmp_path: Path) -> None:
    with_loss, without = (fidelity_after_training(weight, tmp_path / str(weight)) for weight in (1.0, 0.0))
    assert with_loss < 0.5 * without


def test_rates_of_all_six_latents_are_reported() -> None:
    model = build(**SMALL, variable_rate=True).eval()
    with torch.inference_mode():
        out = model(torch.rand(1, 3, 128, 128), torch.tensor([6.0]))
    assert list(out["likelihoods"]) == ["w_h", "w_l", "z_l", "z_h", "y_l", "y_h"]
    assert float(bits(out["likelihoods"])) > 0


# --- trained weights ---------------------------------------------------------------------------------


def cost(model: CodecModel, level: float) -> tuple[dict[str, float], float]:
    """Bits of every step, and rate and distortion together, for 512x512 pixels of a photo."""
    photo = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    x = torch.from_numpy(np.array(photo.crop((0, 0, 512, 512)))).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        out = model(x, torch.tensor([level]))
    loss, _, _ = rate_distortion(x, out, torch.tensor([level]))
    return {name: float(bits({name: p})) for name, p in out["likelihoods"].items()}, float(loss)


@pytest.mark.parametrize("level", [3.0, 6.0])
def test_trained_weights_use_both_resolutions(level: float) -> None:
    """A collapse on either side, or an estimate that does not help, would be an error in the wiring.

    Bits alone would not tell at level y: where the scale is small and the mean is wrong, the skipped symbols
    cost quality instead.
    """
    codec = zoo.load("octave-q3")
    assert codec.weights is not None
    model = copy.deepcopy(codec.model)
    sizes, loss = cost(model, level)
    low = sum(size for name, size in sizes.items() if name.endswith("_l"))
    assert 0.03 < low / sum(sizes.values()) < 0.8
    for name in ("high_y", "high_z"):
        up = model.entropy_model.get_submodule(f"{name}.up_low")
        blind = up.register_forward_hook(lambda module, inputs, out: torch.zeros_like(out))
        blind_sizes, blind_loss = cost(model, level)
        blind.remove()
        if name == "high_y":
            assert blind_loss > 1.1 * loss
        else:
            assert blind_sizes["z_h"] > 2 * sizes["z_h"]
