"""WeConvene is the model of the paper: its sizes, its costs, its wavelets and its order of coding.

The published figures count a model without the three convolutions that the official code builds and never
calls (with them it has 107,147,148 parameters). Multiplications are those of convolutions and of the GDN's
product; activations, biases and wavelets are not counted. Whole models are counted on torch's meta
device, which computes shapes only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo_core as zoo
import zoo_weconvene.entropy
import zoo_weconvene.transform
from zoo_core.entropy.coder import Coder
from zoo_core.entropy.subbands import separate_slices
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.layers.gdn import GDN
from zoo_core.layers.rate import Gain
from zoo_core.layers.residual import StridedPointwise
from zoo_core.layers.skeleton import CoreDown
from zoo_core.layers.wavelet import WAVELETS
from zoo_core.model import CodecModel, bits, parameter_count
from zoo_core.testing.pictures import picture
from zoo_core.training.recipe import RunConfig
from zoo_weconvene import BASE, PAPER_PRESET
from zoo_weconvene.entropy import WeConveneEntropy
from zoo_weconvene.model import build, start
from zoo_weconvene.transform import WeCore

SMALL = {
    "stem": (6, 1),
    "stages": ((8, 1), (8, 1)),
    "top": 8,
    "latent": 6,
    "hyper": 8,
    "hyper_blocks": 1,
    "hyper_latent": 4,
    "params": 8,
    "slices": (2, 3),
    "attention": 16,
    "attention_units": 2,
    "context": (8, 8),
    "context_kernels": (3, 3, 3),
}
"""The graph of the paper with few channels."""

SIDE = 256
"""Of the picture on which multiplications are counted."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- sizes and costs --------------------------------------------------------------------------------


class Shapes(Coder):
    """Rounds and notes the shape of every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        assert tuple(latent.shape[1:]) == shape
        self.seen.append((name, tuple(latent.shape[1:])))
        return latent.round()

    def gaussian(self, name, latent, mean, scale, gain=None):
        assert latent.shape == mean.shape == scale.shape
        self.seen.append((name, tuple(latent.shape[1:])))
        return mean + (latent - mean).round()


def on_meta(**arguments: object) -> CodecModel:
    with torch.device("meta"):
        return build(**arguments).eval()


def walk(model: CodecModel, height: int, width: int) -> tuple[tuple[Tensor, ...], Shapes, Tensor]:
    """Latents, steps and reconstruction of a picture of that size, on the meta device."""
    latents = model.transform.analysis(torch.empty(1, 3, height, width, device="meta"))
    coder, level = Shapes(), torch.empty(1, device="meta")
    shapes = model.transform.latent_shapes(height, width)
    return latents, coder, model.transform.synthesis(model.entropy_model.code(coder, latents, shapes, level))


@pytest.fixture(scope="module")
def paper() -> CodecModel:
    return on_meta(**PAPER_PRESET)


@pytest.fixture(scope="module")
def costs(paper: CodecModel) -> Counter[str]:
    return kmacs(paper)


def test_paper_preset(paper: CodecModel, costs: Counter[str]) -> None:
    assert parameter_count(paper) == 106_704_396
    assert costs.total() == pytest.approx(2342.766, rel=1e-3)


@pytest.mark.parametrize(
    ("module", "parameters", "cost"),
    [
        ("transform.g_a", 6_800_704, 1513.856),
        ("transform.g_s", 9_212_172, 528.000),
        ("entropy_model.h_a", 4_384_960, 2.918),
        ("entropy_model.h_mean_s", 5_771_264, 3.136),
        ("entropy_model.h_scale_s", 5_771_264, 3.136),
        ("entropy_model.prior", 11_712, 0),
        ("entropy_model.low", 29_606_880, 115.520),
        ("entropy_model.high", 45_145_440, 176.200),
        ("transform.g_a.0", 168_192, 167.680),
        ("transform.g_a.4", 1_803_520, 143.360),
        ("transform.g_a.8", 1_803_520, 35.840),
        ("transform.g_s.4", 2_820_096, 44.032),
        ("transform.g_s.8", 2_820_096, 176.128),
        ("entropy_model.h_a.0", 3_278_080, 2.000),
        ("entropy_model.h_mean_s.0", 3_409_920, 0.832),
    ],
)
def test_modules_of_the_paper_preset(
    paper: CodecModel, costs: Counter[str], module: str, parameters: int, cost: float
) -> None:
    assert parameter_count(paper.get_submodule(module)) == parameters
    assert below(costs, module) == pytest.approx(cost, abs=6e-4)


def test_slice_networks_of_the_paper_preset(paper: CodecModel) -> None:
    low, high = paper.entropy_model.low.slices, paper.entropy_model.high.slices
    tables = {
        "attention_mean": [
            [1010240, 1026688, 1043136, 1059584, 1076032],
            [1051200, 1100544, 1149888, 1199232, 1248576],
        ],
        "mean": [[977312, 1106336, 1235360, 1364384, 1493408], [1124896, 1511968, 1899040, 2286112, 2673184]],
        "lrp": [[1106336, 1235360, 1364384, 1493408, 1622432], [2157088, 2544160, 2931232, 3318304, 3705376]],
    }
    for net, (wanted_low, wanted_high) in tables.items():
        assert [parameter_count(nets.get_submodule(net)) for nets in low] == wanted_low
        assert [parameter_count(nets.get_submodule(net)) for nets in high] == wanted_high
    for nets in (*low, *high):
        assert parameter_count(nets.attention_scale) == parameter_count(nets.attention_mean)
        assert parameter_count(nets.scale) == parameter_count(nets.mean)


def test_share_of_the_slice_networks(paper: CodecModel, costs: Counter[str]) -> None:
    groups = ("entropy_model.low", "entropy_model.high")
    assert sum(parameter_count(paper.get_submodule(name)) for name in groups) == 74_752_320
    assert sum(below(costs, name) for name in groups) == pytest.approx(291.720, abs=1e-3)
    assert sum(below(costs, name) for name in groups) / costs.total() == pytest.approx(0.125, abs=5e-4)


def test_every_convolution_is_called(paper: CodecModel, costs: Counter[str]) -> None:
    """The official code's dead convolutions are left out: 3 x 147,584 parameters."""
    built = {name for name, module in paper.named_modules() if isinstance(module, (nn.Conv2d, GDN))}
    assert built == set(costs)
    assert parameter_count(paper) + 3 * 147_584 == 107_147_148


@pytest.mark.parametrize(
    ("switches", "parameters", "cost"),
    [
        ({"weconv": False}, 96_377_100, 2188.446),
        ({"wecharm": False}, 60_330_156, 2535.896),
        ({"weconv": False, "wecharm": False}, 50_002_860, 2379.416),
        ({"wavelet": "poly", "entropy_wavelet": "poly"}, 106_704_396, 2342.766),
    ],
)
def test_ablations(switches: dict[str, object], parameters: int, cost: float) -> None:
    model = on_meta(**PAPER_PRESET, **switches)
    assert parameter_count(model) == parameters
    assert kmacs(model).total() == pytest.approx(cost, rel=1e-3)


def test_networks_that_decide_tables_stay_small_in_the_base_preset() -> None:
    """They run in float64 on both sides, so they must cost little; the transforms keep to their budget too."""
    costs = kmacs(on_meta(**BASE))
    exact = below(costs, "entropy_model") - below(costs, "entropy_model.h_a")
    assert exact < 6.5
    assert below(costs, "transform.g_a") < 80 and below(costs, "transform.g_s") < 80


# --- shapes -----------------------------------------------------------------------------------------


def test_shapes_of_the_paper_preset(paper: CodecModel) -> None:
    latents, coder, x_hat = walk(paper, 128, 192)
    assert [tuple(y.shape) for y in latents] == [(1, 320, 16, 24)]
    low, high = [("y", (64, 8, 12))] * 5, [("y", (192, 8, 12))] * 5
    assert coder.seen == [("z", (192, 2, 3)), *low, *high]
    assert x_hat.shape == (1, 3, 128, 192)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (63, 65), (768, 512)])
def test_pictures_of_any_size(width: int, height: int) -> None:
    codec = zoo.load("weconvene-q3")
    x = picture(width, height)
    image = codec.decode(codec.encode(x))
    assert image.size == (width, height)
    assert np.square(np.asarray(image).astype(float) - x).mean() < 255**2 / 10**2.4  # 24 dB


# --- wavelet convolution ----------------------------------------------------------------------------


def neutral(core: WeCore) -> WeCore:
    """Convolutions that copy, normalisations that do nothing."""
    with torch.no_grad():
        for conv in (core.conv_low, core.conv_high):
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
        for gdn in (core.gdn_low, core.gdn_high):
            gdn.beta.fill_(1)
            gdn.gamma.fill_(0)
    return core


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (8, 8)])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_neutral_core_is_the_identity(wavelet: str, size: tuple[int, int], inverse: bool) -> None:
    core = neutral(WeCore(4, wavelet, inverse))
    x = torch.randn(2, 4, *size)
    assert (core(x) - x).abs().max() < 1e-5


def test_neutral_block_is_convolution_and_skip() -> None:
    block = CoreDown(3, 4, WeCore(4, "9/7", inverse=False))
    neutral(block.core)
    x = torch.randn(1, 3, 10, 12)
    wanted = nn.functional.leaky_relu(block.conv1(x), 0.01) + block.skip(x)
    torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-5)
    assert isinstance(block.skip, StridedPointwise) and block(x).shape == (1, 4, 5, 6)


def test_core_works_in_the_wavelet_domain() -> None:
    """Without its high-band convolution a core leaves the local means of a picture and nothing else."""
    core = neutral(WeCore(2, "haar", inverse=False))
    with torch.no_grad():
        core.conv_high.weight.zero_()
    x = torch.randn(1, 2, 8, 6)
    means = nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(core(x), means, rtol=1e-5, atol=1e-5)


def transforms_counted(monkeypatch: pytest.MonkeyPatch, **switches: object) -> Counter[str]:
    """How often a small model transforms to the wavelet domain in convolutions and in its entropy model."""
    found: Counter[str] = Counter()
    for module in (zoo_weconvene.transform, zoo_weconvene.entropy):
        real = module.dwt2

        def counted(x: Tensor, wavelet: str, real=real, name: str = module.__name__) -> tuple[Tensor, ...]:
            found[f"{name}:{wavelet}"] += 1
            return real(x, wavelet)

        monkeypatch.setattr(module, "dwt2", counted)
    with torch.inference_mode():
        found["symbols"] = (
            build(**SMALL, **switches).eval()(torch.rand(1, 3, 64, 128))["likelihoods"]["y"].numel()
        )
    return found


@pytest.mark.parametrize(
    ("switches", "in_convolutions", "of_latent"),
    [
        ({}, {"haar": 7}, {"haar": 1}),  # two in each of g_a and g_s, one in each of h_a, h_mean_s, h_scale_s
        ({"wavelet": "9/7", "entropy_wavelet": "5/3"}, {"9/7": 7}, {"5/3": 1}),
        ({"weconv": False}, {}, {"haar": 1}),
        ({"wecharm": False}, {"haar": 7}, {}),
        ({"weconv": False, "wecharm": False}, {}, {}),
    ],
)
def test_switches_decide_where_wavelets_are(
    switches: dict[str, object],
    in_convolutions: dict[str, int],
    of_latent: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = transforms_counted(monkeypatch, **switches)
    assert found.pop("symbols") == SMALL["latent"] * 64 * 128 // 64
    assert found == {
        **{f"zoo_weconvene.transform:{name}": count for name, count in in_convolutions.items()},
        **{f"zoo_weconvene.entropy:{name}": count for name, count in of_latent.items()},
    }


@pytest.mark.parametrize("settings", [{"wavelet": "5/3"}, {"entropy_wavelet": "5/3"}])
def test_words_of_the_command_line_are_settings(settings: dict[str, object]) -> None:
    assert isinstance(RunConfig("weconvene", settings=settings).build(), CodecModel)


# --- order of coding --------------------------------------------------------------------------------


class Perturbed(Coder):
    """Rounds, notes the parameters of every step, and disturbs what one step returns."""

    def __init__(self, disturbed: int | None = None):
        self.disturbed = disturbed
        self.steps: list[Tensor] = []

    def factorized(self, name, latent, prior, shape, gain=None, level=None):
        return latent.round()

    def gaussian(self, name, latent, mean, scale, gain=None):
        value = mean + (latent - mean).round()
        if self.disturbed == len(self.steps):
            value = value + 3
        self.steps.append(torch.stack([mean, scale]))
        return value


def parameters_of_steps(model: WeConveneEntropy, y: Tensor, disturbed: int | None) -> list[Tensor]:
    coder = Perturbed(disturbed)
    with torch.inference_mode():
        model.code(coder, (y,), (tuple(y.shape[1:]),), None)
    return coder.steps


@pytest.mark.parametrize("disturbed", range(5))
def test_causality(disturbed: int) -> None:
    """A slice reaches all later ones and no other: low slices 0, 1, then high slices 2, 3, 4."""
    torch.manual_seed(0)
    model = build(**SMALL).entropy_model.double().eval()
    y = 4 * torch.randn(1, SMALL["latent"], 8, 8, dtype=torch.float64)
    before, after = (parameters_of_steps(model, y, k) for k in (None, disturbed))
    assert len(before) == sum(SMALL["slices"])
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [k > disturbed for k in range(5)]
    for a, b in list(zip(before, after, strict=True))[disturbed + 1 :]:
        assert (a != b).flatten(1).any(1).all()  # mean and scale both


@pytest.mark.parametrize("step", [None, 2.5])
def test_residual_prediction_is_bounded_by_half_a_step(step: float | None) -> None:
    torch.manual_seed(0)
    group = separate_slices([4], inputs=8, support=8, attention=(8, 1), context=((8, 8), (3, 3, 3)))
    with torch.no_grad():
        group.slices[0].lrp[-1].weight.mul_(1e4)
    returned: list[Tensor] = []

    class Noting(Perturbed):
        def gaussian(self, *args, **kwargs):
            returned.append(super().gaussian(*args, **kwargs))
            return returned[-1]

    gain = None if step is None else Gain(torch.full((1, 4, 1, 1), 1 / step), torch.full((1, 4, 1, 1), step))
    supports = (torch.randn(1, 8, 6, 6), torch.randn(1, 8, 6, 6))
    with torch.inference_mode():
        out = group.code(Noting(), "y", torch.randn(1, 4, 6, 6), supports, gain)
    correction = (out - returned[0]).abs().max()
    assert float(correction) == pytest.approx(0.5 * (step or 1), rel=1e-5)  # reached, and not exceeded


# --- training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [{}, {"variable_rate": True}])
@pytest.mark.parametrize("switches", [{}, {"weconv": False}, {"wecharm": False}])
def test_gradients_reach_every_parameter(switches: dict[str, bool], rate: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model = build(**SMALL, **switches, **rate).train()
    with torch.no_grad():  # at first all of z rounds to zero, and a convolution of zeros has no gradient
        model.entropy_model.h_a[-1].weight.mul_(10)
        model.entropy_model.h_a[-1].bias.mul_(10)
    x = torch.rand(6, 3, 64, 64)
    out = model(x, torch.arange(1.0, 7))
    (bits(out["likelihoods"]).mean() + 1e4 * (out["x_hat"] - x).square().mean()).backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
    ]
    assert not silent


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_start_is_transform_coding(wavelet: str) -> None:
    """Every photo passes through the untrained transforms with the quality of its principal components."""
    torch.manual_seed(0)
    model = build(**BASE, wavelet=wavelet)
    photos = [torch.from_numpy(picture(96, 96, seed)).permute(2, 0, 1) for seed in range(4)]
    start(model, photos)
    for photo in photos:
        x = photo[None, :, :64, :64].float() / 255
        with torch.inference_mode():
            error = model.transform.synthesis(model.transform.analysis(x)) - x
        assert -10 * math.log10(float(error.square().mean())) > 35
