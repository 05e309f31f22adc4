"""3DM-WeConvene: sizes, the 3-D wavelet domain, order of coding, two-step training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_3dm_weconvene import BASE, PAPER_PRESET
from zoo_3dm_weconvene.entropy import NAMES, Bands3D
from zoo_3dm_weconvene.model import build, objective, start
from zoo_3dm_weconvene.objective import TwoStep
from zoo_3dm_weconvene.transform import Core3D
from zoo_core import registry
from zoo_core.entropy.coder import Estimator
from zoo_core.errors import UsageError
from zoo_core.evaluation.cost import below, cost, kmacs
from zoo_core.images import Picture
from zoo_core.layers.gdn import GDN
from zoo_core.layers.wavelet import WAVELETS, dwt, dwt2, dwt_channels
from zoo_core.model import CodecModel, bits, parameter_count, read_latents, write_latents
from zoo_core.testing.pictures import picture
from zoo_core.testing.poison import Recorder
from zoo_core.training.data import RandomCrops
from zoo_core.training.loop import Trainer
from zoo_core.training.objective import Objective, Terms, build_objective
from zoo_core.training.recipe import Recipe, RunConfig

SMALL = {
    "stages": ((8, 1), (12, 1)),
    "top": 12,
    "latent": 8,
    "hyper": 8,
    "hyper_latent": 6,
    "params": 8,
    "low_slices": 4,
    "attention": 8,
    "attention_units": 1,
    "context": (8, 8),
    "context_kernels": (1, 3, 1),
}


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
    ("module", "parameters", "cost"),
    [
        ("transform.g_a", 4_279_104, 1401.856),
        ("transform.g_s", 6_690_572, 416.000),
        ("entropy_model.h_a", 3_124_160, 2.568),
        ("entropy_model.h_mean_s", 4_510_464, 2.786),
        ("entropy_model.h_scale_s", 4_510_464, 2.786),
        ("entropy_model.prior", 11_712, 0),
        ("entropy_model.low", 23_825_920, 92.964),
        ("entropy_model.high", 47_646_720, 186.084),
        ("transform.g_a.4", 542_720, None),
        ("transform.g_s.4", 1_559_296, None),
        ("entropy_model.h_a.0", 2_017_280, None),
    ],
)
def test_modules_of_the_paper_preset(module: str, parameters: int, cost: float | None) -> None:
    model = on_meta(**PAPER_PRESET)
    assert parameter_count(model.get_submodule(module)) == parameters
    if cost is not None:
        assert below(kmacs(model), module) == pytest.approx(cost, abs=1e-3)


def test_slice_networks_of_the_paper_preset() -> None:
    entropy = on_meta(**PAPER_PRESET).entropy_model
    low, high = entropy.low.slices, entropy.high.slices
    assert [parameter_count(n.attention_mean) for n in low] == [1010240, 1030800, 1051360, 1071920]
    assert [parameter_count(n.mean) for n in low] == [995760, 1157040, 1318320, 1479600]
    assert [parameter_count(n.lrp) for n in low] == [1157040, 1318320, 1479600, 1640880]
    assert [parameter_count(n.mean) for n in high] == [1733120, 2055680, 2378240, 2700800, 3023360, 3345920]
    assert [parameter_count(n.lrp) for n in high] == [2055680, 2378240, 2700800, 3023360, 3345920, 3668480]


@pytest.mark.parametrize(
    ("switches", "parameters", "cost"),
    [
        ({}, 94_599_116, 2105.044),
        ({"levels": 1}, 93_561_548, 2108.902),
        ({"hf_kernel": 3}, 102_856_652, 2220.784),
        ({"channel_dwt": False}, 97_236_940, 2137.194),
        ({"weconv": False}, 93_097_420, 2175.774),
        ({"wecharm": False}, 45_723_596, 2217.472),
        ({"hf_attention": True}, 100_705_676, 2128.756),
    ],
)
def test_paper_preset_and_its_ablations(switches: dict, parameters: int, cost: float) -> None:
    model = on_meta(**PAPER_PRESET, **switches)
    assert parameter_count(model) == parameters
    assert kmacs(model).total() == pytest.approx(cost, rel=1e-3)


def test_figures_of_the_base_preset() -> None:
    """As the card has them."""
    found = cost(registry.find("3dm-weconvene", "codec"))
    assert found.parameters == 3_633_548
    assert (found.analysis, found.synthesis) == pytest.approx((13.200, 34.432), abs=1e-3)
    h_a = below(kmacs(on_meta(**BASE)), "entropy_model.h_a")  # in float32, only the encoder's
    assert found.entropy_model - h_a == pytest.approx(5.961, abs=1e-3)


def test_networks_that_decide_tables_stay_small_in_the_base_preset() -> None:
    costs = kmacs(on_meta(**BASE))
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") < 6
    assert below(costs, "transform.g_a") < 80 and below(costs, "transform.g_s") < 80
    assert 2 * parameter_count(on_meta(**BASE)) < 16 * 2**20


# --- the 3-D wavelet domain -------------------------------------------------------------------------


def neutral(core: nn.Module) -> nn.Module:
    """Convolutions that copy, normalisations that do nothing; float64."""
    core.double()  # first: the square root of 1 + 2^-36 is 1 in float32
    with torch.no_grad():
        for module in core.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
                rows, middle = torch.arange(module.out_channels), module.kernel_size[0] // 2
                module.weight[rows, rows, middle, middle] = 1
            if isinstance(module, GDN):
                module.gamma.zero_()
                module.beta.fill_((1 + 2.0**-36) ** 0.5)
    return core


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("switches", [{}, {"levels": 1}, {"levels": 3}, {"channel_dwt": False}])
def test_neutral_core_is_the_identity(wavelet: str, switches: dict) -> None:
    core = neutral(Core3D(6, False, wavelet, **switches))
    for height, width in ((9, 14), (1, 1), (2, 2), (3, 5), (7, 9), (16, 16)):
        x = torch.randn(1, 6, height, width, dtype=torch.float64)
        torch.testing.assert_close(core(x), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_flat_single_level_haar_is_weconvenes_core(inverse: bool) -> None:
    """Without the channel axis: one level, 3x3 on high bands."""
    transform = pytest.importorskip("zoo_weconvene.transform")
    core = Core3D(4, inverse, "haar", levels=1, hf_kernel=3, channel_dwt=False)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    other = transform.WeCore(4, "haar", inverse)
    names = {k: k.removeprefix("halves.0.").replace("high.0.", "high.") for k in core.state_dict()}
    other.load_state_dict({names[k]: v for k, v in core.state_dict().items()})
    x = torch.randn(1, 4, 10, 7)
    assert torch.equal(core(x), other(x))


def test_kernels_and_own_weights_of_each_half() -> None:
    core = Core3D(8, False)
    assert [half.conv_low.kernel_size for half in core.halves] == [(3, 3), (3, 3)]
    assert {conv.kernel_size for half in core.halves for conv in half.conv_high} == {(1, 1)}
    assert [len(half.conv_high) for half in core.halves] == [2, 2]  # seven bands a channel


@pytest.mark.parametrize("wavelet", [w for w in WAVELETS if w != "poly"])
def test_a_constant_along_channels_has_no_high_half(wavelet: str) -> None:
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64).expand(1, 6, 5, 4)
    for split in (dwt(x, 1, wavelet), dwt_channels(x, wavelet)):
        assert split[1].abs().max() < 1e-12 < split[0].abs().max()


def test_haar_along_channels_keeps_energy() -> None:
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    for split in (dwt(x, 1, "haar"), dwt_channels(x, "haar")):
        assert float(torch.cat(split).square().sum() / x.square().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("lf_def", ["spatial_ll", "channel_low_ll"])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_bands_join_to_the_latent(wavelet: str, lf_def: str) -> None:
    bands = Bands3D(80, wavelet, lf_def)
    y = torch.randn(1, 80, 9, 14, dtype=torch.float64)
    low, high = bands.split(y)
    assert low.shape == (1, bands.low, 5, 7) and high.shape == (1, bands.high, 5, 7)
    torch.testing.assert_close(bands.join(low, high, (9, 14)), y, rtol=0, atol=1e-12)


def test_high_slices_are_subbands() -> None:
    """LH, HL, HH, each of the low channel half first; the low group is LL of both halves."""
    y = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    low, high = Bands3D(8, "9/7").split(y)
    of_low, of_high = (dwt2(part, "9/7") for part in dwt(y, 1, "9/7"))
    assert torch.equal(low, torch.cat([of_low[0], of_high[0]], 1))
    for j, band in enumerate(high.split(4, 1)):
        assert torch.equal(band, (of_low, of_high)[j % 2][1 + j // 2])
    model = build(**SMALL).entropy_model
    assert [nets.width for nets in model.high.slices] == [4] * 6


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lf_def": "both"}, "lf_def='both': choose spatial_ll or channel_low_ll"),
        ({"wavelet": "db4"}, "wavelet='db4': choose from haar, 5/3, 9/7, poly"),
        ({"wavelet": "db4", "weconv": False}, "wavelet='db4'"),
        ({"wavelet": "db4", "wecharm": False}, "wavelet='db4'"),
        ({"levels": 0}, "levels=0: choose 1 or more"),
        ({"levels": -1}, "levels=-1: choose 1 or more"),
        ({"hf_kernel": 2}, "hf_kernel=2: choose an odd size"),
        ({"hf_kernel": -1}, "hf_kernel=-1: choose an odd size"),
        ({"latent": 7, "low_slices": 1}, "latent=7: .* choose an even number"),
        ({"low_slices": 3}, "low_slices=3 does not divide the 8 channels of the low group"),
        ({"low_slices": 0}, "low_slices=0 does not divide"),
        ({"latent": 7, "wecharm": False}, "low_slices=4 does not divide the 7 channels"),
        ({"stages": ((8, 1), (11, 1))}, "a width of 11 has no two halves .* channel_dwt=false"),
        ({"hyper": 7}, "a width of 7 has no two halves"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        build(**{**SMALL, **settings})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("settings", [{"wavelet": "haar"}, {"lf_def": "channel_low_ll"}])
def test_words_of_the_command_line_are_settings(settings: dict) -> None:
    assert isinstance(RunConfig("3dm-weconvene", settings=settings).build(), CodecModel)


# --- order of coding --------------------------------------------------------------------------------


@pytest.mark.parametrize("poisoned", range(1, 11))
def test_causality(poisoned: int) -> None:
    """z, then four low slices, then six high ones; each slice reaches all later ones and no other."""
    model = build(**SMALL).entropy_model.double().eval()
    y = 4 * torch.randn(1, SMALL["latent"], 8, 8, dtype=torch.float64)
    recorded = []
    for k in (None, poisoned):
        coder = Recorder(k)
        with torch.inference_mode():
            model.code(coder, (y,), (tuple(y.shape[1:]),), None)
        recorded.append([(step.mean, step.scale) for step in coder.steps[1:]])
    reached = [
        [not torch.equal(before, after) for before, after in zip(*pairs, strict=True)]
        for pairs in zip(*recorded, strict=True)
    ]
    assert reached == [[k > poisoned] * 2 for k in range(1, 11)]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (63, 65), (768, 512)])
def test_latents_are_read_as_they_were_written(width: int, height: int) -> None:
    """Of every picture, and in about as many bytes as estimated."""
    codec = zoo.load("3dm-weconvene-q3")
    x = picture(width, height)
    latents = codec.analyse(Picture(x))
    size = (height + -height % 64, width + -width % 64)
    payload, calibration, written = write_latents(codec.model, latents, 3.0)
    again = read_latents(codec.model, payload, calibration, size, 3.0)
    assert [y.shape for y in again] == [(1, 96, size[0] // 8, size[1] // 8)]
    assert torch.equal(again[0], written[0])
    coder = Estimator(training=False)
    with torch.inference_mode():
        shapes, level = codec.model.transform.latent_shapes(*size), torch.tensor([3.0], dtype=torch.float64)
        codec.model.entropy_model.code(coder, tuple(y.double() for y in latents), shapes, level)
    estimate = float(bits(coder.likelihoods)) / 8
    assert abs(len(payload) + len(calibration) - estimate) < 0.01 * estimate + 200
    assert codec.decode(codec.encode(x)).size == (width, height)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"weconv": False},
        {"wecharm": False},
        {"levels": 1},
        {"levels": 3},
        {"hf_kernel": 3},
        {"channel_dwt": False},
        {"wavelet": "haar"},
        {"wavelet": "5/3"},
        {"wavelet": "poly"},
        {"hf_attention": True},
        {"lf_def": "channel_low_ll"},
    ],
)
def test_every_switch_trains_and_codes(switches: dict) -> None:
    model = build(**SMALL, **switches, variable_rate=True).train()
    with torch.no_grad():  # at first all of z rounds to zero, and a convolution of zeros has no gradient
        model.entropy_model.h_a[-1].weight.mul_(30)
        model.entropy_model.h_a[-1].bias.mul_(30)
    # Smaller, and the hyper transform's last level has one sample.
    side = 32 * 2 ** switches.get("levels", 2)
    x = torch.rand(6, 3, side, side)
    out = model(x, torch.arange(1.0, 7))
    (bits(out["likelihoods"]).mean() + 1e4 * (out["x_hat"] - x).square().mean()).backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
    ]
    assert not silent
    model.update()
    model.prepare()
    with torch.inference_mode():
        latents = model.transform.analysis(x[:1])
    payload, calibration, written = write_latents(model, latents, 2.0)
    again = read_latents(model, payload, calibration, (side, side), 2.0)
    # Not equal for Haar: single samples leave z in another memory format on one side.
    torch.testing.assert_close(again, written, rtol=0, atol=1e-12)


@pytest.mark.parametrize("switches", [{}, {"levels": 1}, {"levels": 3}, {"channel_dwt": False}])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_start_is_a_block_transform(wavelet: str, switches: dict) -> None:
    sizes = {"stages": ((16, 1), (48, 1)), "top": 64, "latent": 64}
    model = build(**{**SMALL, **sizes, **switches}, wavelet=wavelet).eval()
    x = picture(96, 64)
    photo = torch.from_numpy(x).permute(2, 0, 1)
    start(model, [photo])
    with torch.inference_mode():
        restored = model.transform.synthesis(model.transform.analysis(photo[None].float() / 255))
    error = (restored[0, :, 8:-8, 8:-8] * 255 - photo[:, 8:-8, 8:-8]).square().mean()
    assert 10 * np.log10(255**2 / float(error)) > 30


def test_cores_leave_autocast() -> None:
    """Under bfloat16, details of the start would drown below its low bands."""
    model = build(**BASE).eval()
    photo = torch.from_numpy(picture(128, 128)).permute(2, 0, 1)
    start(model, [photo])
    x = photo[None].float() / 255
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        x_hat = model.transform.synthesis(model.transform.analysis(x)).float()
    assert -10 * np.log10(float((x_hat - x)[..., 16:-16, 16:-16].square().mean())) > 32


# --- two-step training ------------------------------------------------------------------------------


class Coded(nn.Module):
    """In the place of a model: perfect pictures, and as many bits of z, low and high as told, (3, B)."""

    def __init__(self, spent: list[list[float]]):
        super().__init__()
        names = ("z", "y_low", "y_high")
        self.likelihoods = {
            n: 2.0 ** -torch.tensor(b)[:, None, None, None] for n, b in zip(names, spent, strict=True)
        }

    def forward(self, x, level):
        return {"x_hat": x, "likelihoods": self.likelihoods}


def spend(two_step: TwoStep, level: list[float], spent: list[list[float]], progress: float = 0.0) -> Terms:
    """One step of training on pictures of one pixel."""
    model = Coded(spent)
    two_step.begin(model, progress)
    return two_step(model, torch.zeros(len(level), 3, 1, 1), torch.tensor(level))


def test_likelihoods_of_the_two_groups() -> None:
    found = build(**SMALL).eval()(torch.rand(1, 3, 64, 64))["likelihoods"]
    assert NAMES == ("y_low", "y_high")
    assert {name: part.shape[1] for name, part in found.items()} == {"z": 6, "y_low": 8, "y_high": 24}


@pytest.mark.parametrize("rho", [1.0, 1.25])
def test_equal_weights_are_the_plain_loss(rho: float) -> None:
    """Bit for bit, gradients included: of the control at any time, and of all runs before the switch."""
    model = build(**SMALL, variable_rate=True).train()
    two_step = TwoStep(rho=rho)
    two_step.rates.copy_(torch.tensor([0.1, 0.6]))  # shares whose sum is not 1 in float32
    assert float(two_step.shares()[0].sum()) != 1
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([2.0, 5.0])
    found = []
    for either in (two_step, Objective()):
        either.begin(model, 0.9 if rho == 1 else 0.7)
        torch.manual_seed(1)
        model.zero_grad()
        terms = either(model, x, level)
        terms.loss.sum().backward()
        found.append([*terms, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) > 100
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_loss_of_the_second_step() -> None:
    """The plain loss, and (w_L - 1) R_LF + (w_H - 1) R_HF; rates are reported in true bits."""
    two_step = TwoStep(rho=1.25)
    spend(two_step, [2.0], [[7.0], [3.0], [1.0]])
    terms = spend(two_step, [2.0], [[5.0], [4.0], [2.0]], progress=0.8)
    low = 1 / (0.75 + 1.25 * 0.25)
    assert float(terms.loss) == pytest.approx(5 + low * 4 + 1.25 * low * 2, rel=1e-6)
    assert float(terms.bpp) == pytest.approx(11, rel=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_shares_are_running_means_of_each_level_until_the_switch(autocast: bool) -> None:
    two_step = TwoStep(rho=1.25)
    assert torch.equal(two_step.shares(), torch.full((6, 2), 0.5))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        spend(two_step, [2.0, 5.0, 2.0], [[9.0, 9.0, 9.0], [1.001, 7.0, 3.0], [5.0, 3.0, 2.0]])
        spend(two_step, [2.0], [[9.0], [4.0], [1.0]])
        low, high = 0.99 * 2.0005 * (1 - 0.99**2) + 0.01 * 4, 0.99 * 3.5 * (1 - 0.99**2) + 0.01 * 1
        wanted = torch.full((6, 2), 0.5)
        wanted[1] = torch.tensor([low, high]) / (low + high)
        wanted[4] = torch.tensor([0.7, 0.3])
        torch.testing.assert_close(two_step.shares(), wanted, rtol=0, atol=1e-6)
        before = two_step.shares()
        spend(two_step, [2.0, 5.0], [[9.0, 9.0], [9.0, 1.0], [1.0, 9.0]], progress=0.8)
        assert torch.equal(two_step.shares(), before)


def test_what_is_not_finite_leaves_no_trace_in_the_shares() -> None:
    nan, inf = float("nan"), float("inf")
    clean, broken = TwoStep(rho=1.25), TwoStep(rho=1.25)
    spend(clean, [2.0, 3.0], [[9.0, 9.0], [4.0, 3.0], [1.0, 5.0]])
    spend(
        broken, [2.0, 2.0, 2.0, 3.0, 6.0], [[9.0] * 5, [nan, 4.0, inf, 3.0, 1.0], [1.0, 1.0, 1.0, 5.0, nan]]
    )
    assert torch.equal(broken.rates, clean.rates)
    terms = spend(broken, [2.0, 3.0, 6.0], [[1.0] * 3, [2.0] * 3, [3.0] * 3], progress=0.9)
    assert terms.loss.isfinite().all()


@pytest.mark.parametrize("rho", [0.8, 1.25])
def test_weights_of_the_second_step(rho: float) -> None:
    two_step = TwoStep(rho=rho)
    spend(two_step, [2.0, 5.0], [[1.0, 1.0], [3.0, 4.0], [7.0, 1.0]])
    level = torch.tensor([5.0, 2.0])
    two_step.begin(build(**SMALL), 0.79)
    assert torch.equal(two_step.weights(level), torch.ones(2, 2))
    two_step.begin(build(**SMALL), 0.8)
    low, high = two_step.weights(level)
    shares = torch.tensor([[0.8, 0.2], [0.3, 0.7]]).T
    torch.testing.assert_close(shares[0] * low + shares[1] * high, torch.ones(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(high / low, torch.full((2,), rho), rtol=1e-6, atol=0)


def test_checkpoints_keep_the_rates() -> None:
    """Those up to version 0.4.0 have one pair of shares, which then serves for every level."""
    first, later = TwoStep(rho=1.1), TwoStep(rho=1.1)
    spend(first, [2.0], [[1.0], [3.0], [7.0]])
    later.load_state_dict(first.state_dict())
    assert torch.equal(later.rates, first.rates) and first.rates.any()
    later.load_state_dict({"shares": torch.tensor([0.3, 0.7])})
    torch.testing.assert_close(later.shares(), torch.tensor([[0.3, 0.7]]).expand(6, 2))


def trained(folder: Path, rho: float, steps: int) -> CodecModel:
    """After `steps` of a run whose second step begins at the fourth of five."""
    torch.manual_seed(0)
    model = build(**SMALL, variable_rate=True)
    photos = [torch.from_numpy(picture(96, 96)).permute(2, 0, 1).contiguous()]
    recipe = Recipe(steps=5, batch=2, crop=64, bf16=False, warmup=1)
    trainer = Trainer(model, RandomCrops(photos, 64, 1.0, 0), recipe, folder, objective=TwoStep(rho=rho))
    for _ in range(steps):
        trainer.train_step()
    return model


def test_control_and_two_step_runs_part_at_the_switch(tmp_path: Path) -> None:
    for steps, equal in ((4, True), (5, False)):
        control, two_step = (trained(tmp_path / str(rho), rho, steps).state_dict() for rho in (1.0, 1.25))
        assert all(torch.equal(control[k], two_step[k]) for k in control) is equal


def test_objective_fits_the_model() -> None:
    plain = build(**SMALL, wecharm=False)
    assert isinstance(objective(build(**SMALL), rho=1.1), TwoStep)
    assert type(objective(plain)) is Objective
    assert objective(plain, transform_rate=0.5).transform_rate == 0.5
    entry = registry.find("3dm-weconvene", "codec")
    with pytest.raises(UsageError, match="has one rate only: leave rho and switch out"):
        build_objective(entry, plain, {"switch": 0.5, "rho": 1.1})
    for model in (plain, build(**SMALL)):
        with pytest.raises(UsageError, match="does not take roh=1"):
            build_objective(entry, model, {"roh": 1})


@pytest.mark.parametrize("rho", [-1, 0, float("nan"), float("inf")])
def test_ratios_that_make_no_sense(rho: float) -> None:
    with pytest.raises(UsageError, match="rho must be above 0"):
        TwoStep(rho=rho)


def test_a_second_step_needs_a_first() -> None:
    with pytest.raises(UsageError, match=r"rho=1\.1, switch=0: .* choose a switch above 0"):
        TwoStep(rho=1.1, switch=0)
    TwoStep(rho=1, switch=0)


def test_convolutions_are_all_called() -> None:
    model = on_meta(**PAPER_PRESET)
    built = Counter(name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, GDN)))
    assert set(built) == set(kmacs(model))
