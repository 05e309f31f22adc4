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
from zoo_core.errors import UsageError
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.layers.gdn import GDN
from zoo_core.layers.wavelet import WAVELETS, dwt, dwt2, idwt2
from zoo_core.model import CodecModel, bits, parameter_count
from zoo_core.testing.pictures import picture
from zoo_core.testing.poison import Recorder
from zoo_core.training.data import RandomCrops
from zoo_core.training.loop import Trainer
from zoo_core.training.loss import rate_distortion
from zoo_core.training.recipe import Recipe

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


def test_networks_that_decide_tables_stay_small_in_the_base_preset() -> None:
    costs = kmacs(on_meta(**BASE))
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") < 6
    assert below(costs, "transform.g_a") < 80 and below(costs, "transform.g_s") < 80
    assert 2 * parameter_count(on_meta(**BASE)) < 16 * 2**20


# --- the 3-D wavelet domain -------------------------------------------------------------------------


def neutral(core: nn.Module) -> nn.Module:
    """Convolutions that copy, normalisations that do nothing; float64."""
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
    return core.double()


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("switches", [{}, {"levels": 1}, {"levels": 3}, {"channel_dwt": False}])
def test_neutral_core_is_the_identity(wavelet: str, switches: dict) -> None:
    core = neutral(Core3D(6, False, wavelet, **switches))
    for height, width in ((9, 14), (1, 1), (2, 2), (3, 5), (7, 9), (16, 16)):
        x = torch.randn(1, 6, height, width, dtype=torch.float64)
        torch.testing.assert_close(core(x), x, rtol=0, atol=1e-9)


def test_flat_single_level_haar_is_weconvenes_core() -> None:
    """Without the channel axis: one level, 3x3 on high bands; computed here from its definition."""
    core = Core3D(4, False, "haar", levels=1, hf_kernel=3, channel_dwt=False)
    half, x = core.halves[0], torch.randn(1, 4, 10, 6)
    ll, *high = dwt2(x, "haar")
    low = half.gdn_low(half.conv_low(ll))
    bands = half.gdn_high[0](half.conv_high[0](torch.cat(high, 1))).chunk(3, 1)
    assert torch.equal(core(x), idwt2(low, *bands, x.shape[-2:], "haar"))


def test_kernels_and_own_weights_of_each_half() -> None:
    core = Core3D(8, False)
    assert [half.conv_low.kernel_size for half in core.halves] == [(3, 3), (3, 3)]
    assert {conv.kernel_size for half in core.halves for conv in half.conv_high} == {(1, 1)}
    assert [len(half.conv_high) for half in core.halves] == [2, 2]  # seven bands a channel


@pytest.mark.parametrize("wavelet", [w for w in WAVELETS if w != "poly"])
def test_a_constant_along_channels_has_no_high_half(wavelet: str) -> None:
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64).expand(1, 6, 5, 4)
    assert dwt(x, 1, wavelet)[1].abs().max() < 1e-9


@pytest.mark.parametrize("lf_def", ["spatial_ll", "channel_low_ll"])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_bands_join_to_the_latent(wavelet: str, lf_def: str) -> None:
    bands = Bands3D(80, wavelet, lf_def)
    y = torch.randn(1, 80, 10, 14, dtype=torch.float64)
    low, high = bands.split(y)
    assert low.shape == (1, bands.low, 5, 7) and high.shape == (1, bands.high, 5, 7)
    torch.testing.assert_close(bands.join(low, high, (10, 14)), y, rtol=0, atol=1e-11)


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


def test_unknown_definition_of_low_frequencies() -> None:
    with pytest.raises(UsageError, match="spatial_ll or channel_low_ll"):
        Bands3D(8, "haar", "both")


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
def test_pictures_of_any_size(width: int, height: int) -> None:
    codec = zoo.load("3dm-weconvene-q3")
    assert codec.decode(codec.encode(picture(width, height))).size == (width, height)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"weconv": False},
        {"wecharm": False},
        {"levels": 1},
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
    x = torch.rand(6, 3, 128, 128)  # smaller, and the hyper transform's second level has one sample
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
    coded = model.compress(x[:1], 2.0)
    assert model.decompress(coded["strings"], coded["shape"], 2.0)["x_hat"].shape == (1, 3, 128, 128)


def test_start_is_a_block_transform() -> None:
    sizes = {"stages": ((16, 1), (48, 1)), "top": 64, "latent": 64}
    model = build(**{**SMALL, **sizes}).eval()
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


def test_equal_weights_are_the_plain_loss() -> None:
    model = build(**SMALL, variable_rate=True).train()
    x, level = torch.rand(2, 3, 64, 64), torch.tensor([2.0, 5.0])
    two_step = TwoStep(rho=1.0)
    two_step.begin(model, 0.9)
    torch.manual_seed(1)
    terms = two_step(model, x, level)
    torch.manual_seed(1)
    out = model(x, level)
    loss, bpp, _ = rate_distortion(x, out, level)
    torch.testing.assert_close(terms.loss, loss, rtol=1e-6, atol=0)
    assert set(out["likelihoods"]) == {"z", *NAMES}
    parts = sum(bits({k: v}) for k, v in out["likelihoods"].items())
    torch.testing.assert_close(parts / 64**2, bpp)


@pytest.mark.parametrize("rho", [0.8, 1.25])
def test_weights_of_the_second_step(rho: float) -> None:
    two_step = TwoStep(rho=rho)
    two_step.shares.copy_(torch.tensor([0.3, 0.7]))
    two_step.begin(build(**SMALL), 0.79)
    assert torch.equal(two_step.weights(), torch.ones(2))
    two_step.begin(build(**SMALL), 0.8)
    low, high = two_step.weights().tolist()
    assert 0.3 * low + 0.7 * high == pytest.approx(1, abs=1e-6)
    assert high / low == pytest.approx(rho)


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
    assert isinstance(objective(build(**SMALL), rho=1.1), TwoStep)
    assert not isinstance(objective(build(**SMALL, wecharm=False)), TwoStep)
    with pytest.raises(UsageError, match="rho"):
        objective(build(**SMALL), rho=-1)


def test_convolutions_are_all_called() -> None:
    model = on_meta(**PAPER_PRESET)
    built = Counter(name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, GDN)))
    assert set(built) == set(kmacs(model))
