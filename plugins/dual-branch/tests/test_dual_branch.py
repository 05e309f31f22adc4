"""The dual-branch codec: sizes, independence of the branches, order of coding, start and objective.

The figures of the preset `paper` are those of our reconstruction, counted on a separate implementation of
it, as are those of `DESIGN`; no size of the paper's own could be read. Whole models are counted on torch's meta
device.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from zoo_core import registry
from zoo_core.cli import exits
from zoo_core.codec import Codec, load
from zoo_core.entropy.coder import Estimator
from zoo_core.errors import UsageError, WrongWeightsError, ZooError
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.model import CodecModel, bits, parameter_count, read_latents, write_latents
from zoo_core.testing.pictures import picture
from zoo_core.testing.poison import Recorder, Step
from zoo_core.training.data import RandomCrops
from zoo_core.training.loop import Trainer
from zoo_core.training.loss import distortion, rate_distortion
from zoo_core.training.objective import Objective, build_objective
from zoo_core.training.recipe import Recipe
from zoo_core.weights import WeightsFile, write_tensors
from zoo_dual_branch import PRESETS, branches, walks
from zoo_dual_branch.entropy import ORDERS
from zoo_dual_branch.model import build, objective, start
from zoo_dual_branch.objective import PHASE

BASE, PAPER = PRESETS["base"], PRESETS["paper"]

DESIGN = PAPER | {
    "widths": (48, 96, 128),
    "lr_widths": (64, 96, 128),
    "lr_blocks": 1,
    "slices": (16, 16, 32, 64),
    "lr_slices": (16, 16, 32),
    "hyper_latent": 64,
    "lr_hyper_latent": 48,
    "params": 96,
    "lr_params": 64,
    "condition": 48,
    "parameter_net": ((96, 96), (3, 1, 1)),
    "lrp_net": ((48,), (1, 1)),
}
"""The small model of the reconstruction, with latents at 1/16 and 1/32; `base` replaced it."""

SMALL = PAPER | {
    "widths": (8, 8, 8),
    "lr_widths": (8, 8, 8),
    "slices": (4, 4, 6),
    "lr_slices": (4, 6),
    "hyper_latent": 6,
    "lr_hyper_latent": 4,
    "params": 8,
    "lr_params": 6,
    "condition": 5,
    "parameter_net": ((8, 8), (3, 3, 3)),
    "lrp_net": ((8,), (3, 3)),
}
"""The graph of the preset `paper` with few channels."""


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def small(**switches: object) -> CodecModel:
    return build(**(SMALL | switches))


def on_meta(preset: dict, **switches: object) -> CodecModel:
    with torch.device("meta"):
        return build(**(preset | switches)).eval()


def batch(count: int, side: int = 64) -> Tensor:
    """Pictures (count, 3, side, side) in [0, 1]."""
    pictures = [torch.from_numpy(picture(side, side, seed)) for seed in range(count)]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 255


def photos(count: int = 4, side: int = 96) -> list[Tensor]:
    return [torch.from_numpy(picture(side, side, seed)).permute(2, 0, 1) for seed in range(count)]


def leaves(side: int, seed: int) -> Tensor:
    """Discs of random colour that hide each other, radii of density 1 / r^3; uint8 (3, side, side).

    "Dead leaves" (Lee, Mumford and Huang, IJCV 2001): nearer to photographs than `picture`, which has little
    detail and no structure at several sizes.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    pixels = np.zeros((side, side, 3))
    for _ in range(12 * side):
        radius = 2 / math.sqrt(random.uniform(4 / side**2, 1))  # 2 to `side`
        across, down = random.uniform(-radius, side + radius, 2)
        disc = (x - across) ** 2 + (y - down) ** 2 < radius**2
        pixels[disc] = random.uniform(30, 225) + random.uniform(-30, 30, 3)
    return torch.from_numpy(pixels.round().astype(np.uint8)).permute(2, 0, 1)


# --- sizes and costs --------------------------------------------------------------------------------


MODULES = {
    # of PAPER                                      of DESIGN
    "transform.g_a_h": ((4_119_712, 370.008), (1_100_928, 45.160)),
    "transform.g_a_l": ((3_193_632, 39.470), (1_077_824, 13.672)),
    "transform.g_s_l": ((2_927_232, 7.824), (787_968, 2.112)),
    "transform.g_s": ((8_820_300, 469.800), (2_711_180, 64.784)),
    "entropy_model.hr.h_a": ((940_608, 1.485), (147_648, 0.333)),
    "entropy_model.hr.h_s": ((3_209_024, 3.780), (350_816, 0.396)),
    "entropy_model.lr.h_a": ((332_032, 0.216), (48_480, 0.032)),
    "entropy_model.lr.h_s": ((959_296, 0.504), (110_848, 0.047)),
    "entropy_model.condition": ((332_032, 0.324), (76_128, 0.074)),
    "entropy_model.hr.charm": ((8_112_960, 31.680), (527_424, 2.055)),
    "entropy_model.lr.charm": ((10_140_480, 9.900), (397_200, 0.387)),
}
"""Parameters and kMAC per pixel."""


@pytest.mark.parametrize(("preset", "column"), [(PAPER, 0), (DESIGN, 1)])
def test_modules_of_the_reconstruction(preset: dict, column: int) -> None:
    model = on_meta(preset)
    costs = kmacs(model)
    for name, figures in MODULES.items():
        parameters, cost = figures[column]
        assert parameter_count(model.get_submodule(name)) == parameters, name
        assert below(costs, name) == pytest.approx(cost, abs=6e-4), name


@pytest.mark.parametrize(
    ("preset", "order", "modules"),
    [
        (PAPER, "lh", {"condition": 885_376, "hr.charm": 10_140_480, "lr.charm": 8_112_960}),
        (PAPER, "none", {"hr.charm": 8_112_960, "lr.charm": 8_112_960}),
        (DESIGN, "lh", {"condition": 131_568, "hr.charm": 702_528, "lr.charm": 265_872}),
        (DESIGN, "none", {"hr.charm": 527_424, "lr.charm": 265_872}),
    ],
)
def test_modules_of_the_other_orders(preset: dict, order: str, modules: dict[str, int]) -> None:
    entropy_model = on_meta(preset, order=order).entropy_model
    assert {name: parameter_count(entropy_model.get_submodule(name)) for name in modules} == modules
    assert (entropy_model.condition is None) == (order == "none")


def exact(model: CodecModel) -> float:
    """kMAC per pixel of the walk: everything in the entropy model but the hyper-analysis."""
    costs = kmacs(model)
    hyper = sum(below(costs, f"entropy_model.{branch}.h_a") for branch in ("hr", "lr"))
    return below(costs, "entropy_model") - hyper


@pytest.mark.parametrize(
    ("preset", "order", "parameters", "cost", "walk"),
    [
        (PAPER, "hl", 43_106_828, 934.99, 46.19),
        (PAPER, "lh", 43_660_172, 941.90, 53.10),
        (PAPER, "none", 40_747_276, 932.69, 43.88),
        (DESIGN, "hl", 7_343_276, 129.05, 2.96),
        (DESIGN, "lh", 7_442_492, 129.72, 3.63),
        (DESIGN, "none", 7_135_820, 128.85, 2.76),
    ],
)
def test_orders_of_the_reconstruction(
    preset: dict, order: str, parameters: int, cost: float, walk: float
) -> None:
    model = on_meta(preset, order=order)
    assert parameter_count(model) == parameters
    priors = model.entropy_model.hr.prior, model.entropy_model.lr.prior
    assert sum(parameter_count(prior) for prior in priors) == (19_520 if preset is PAPER else 6_832)
    assert kmacs(model).total() == pytest.approx(cost, abs=6e-3)
    assert exact(model) == pytest.approx(walk, abs=6e-3)


@pytest.mark.parametrize(
    ("order", "parameters", "cost", "walk"),
    [("hl", 3_243_420, 90.80, 4.79), ("lh", 3_274_492, 91.94, 5.93), ("none", 3_150_428, 90.44, 4.42)],
)
def test_orders_of_the_base_preset(order: str, parameters: int, cost: float, walk: float) -> None:
    """Networks that decide tables run in float64 on both sides, so they must cost little: under 6 kMAC."""
    model = on_meta(BASE, order=order)
    assert parameter_count(model) == parameters
    assert kmacs(model).total() == pytest.approx(cost, abs=6e-3)
    assert exact(model) == pytest.approx(walk, abs=6e-3)


@pytest.mark.parametrize(
    ("preset", "parts"),
    [
        (BASE, (26.6, 11.4, 4.5, 42.7, 0.7, 4.8)),
        (BASE | {"order": "lh"}, (26.6, 11.4, 4.5, 42.7, 0.7, 5.9)),
        (BASE | {"order": "none"}, (26.6, 11.4, 4.5, 42.7, 0.7, 4.4)),
        (PAPER, (370.0, 39.5, 7.8, 469.8, 1.7, 46.2)),
    ],
)
def test_costs_of_the_card(preset: dict, parts: tuple[float, ...]) -> None:
    """kMAC per pixel: both analyses, LR and joint synthesis, both hyper-analyses, the exact walk."""
    model = on_meta(preset)
    costs = kmacs(model)
    nets = [below(costs, f"transform.{name}") for name in ("g_a_h", "g_a_l", "g_s_l", "g_s")]
    hyper = sum(below(costs, f"entropy_model.{branch}.h_a") for branch in ("hr", "lr"))
    assert [round(part, 1) for part in (*nets, hyper, exact(model))] == list(parts)


def test_cost_of_the_single_branch_of_the_card() -> None:
    single = on_meta(BASE, lr_off=True, widths=(40, 104), slices=(8, 16, 24, 48))
    assert round(kmacs(single).total(), 1) == 91.9 and round(kmacs(on_meta(BASE)).total(), 1) == 90.8


@pytest.mark.parametrize(
    ("switches", "wanted"),
    [
        (
            DESIGN,
            {
                "y_h": (128, 16, 16),
                "y_l": (64, 8, 8),
                "z_h": (64, 4, 4),
                "z_l": (48, 4, 4),
                "phi_h": (96, 16, 16),
                "phi_l": (64, 8, 8),
                "c": (48, 8, 8),
                "f_l": (128, 16, 16),
                "x_hat": (3, 256, 256),
                "aux": (3, 32, 32),
            },
        ),
        (DESIGN | {"order": "lh"}, {"c": (48, 16, 16)}),
        (
            BASE,
            {
                "y_h": (88, 32, 32),
                "y_l": (32, 16, 16),
                "z_h": (48, 4, 4),
                "z_l": (32, 4, 4),
                "phi_h": (48, 32, 32),
                "phi_l": (48, 16, 16),
                "c": (32, 16, 16),
                "f_l": (96, 32, 32),
                "x_hat": (3, 256, 256),
                "aux": (3, 32, 32),
            },
        ),
        (BASE | {"order": "lh"}, {"c": (32, 32, 32)}),
        (
            PAPER,
            {
                "y_h": (160, 16, 16),
                "y_l": (160, 8, 8),
                "z_h": (192, 4, 4),
                "z_l": (128, 4, 4),
                "phi_h": (320, 16, 16),
                "phi_l": (320, 8, 8),
                "c": (128, 8, 8),
                "f_l": (192, 16, 16),
                "x_hat": (3, 256, 256),
                "aux": (3, 32, 32),
            },
        ),
        (PAPER | {"order": "lh"}, {"c": (128, 16, 16)}),
    ],
)
def test_shapes(switches: dict, wanted: dict[str, tuple[int, ...]]) -> None:
    """Of a picture of 256x256."""
    model = on_meta(switches)
    transform, entropy_model = model.transform, model.entropy_model
    with torch.device("meta"):
        head = objective(model, aux=0.25).head
    networks = {
        "y_h": transform.g_a_h,
        "y_l": transform.g_a_l,
        "z_h": entropy_model.hr.h_a,
        "z_l": entropy_model.lr.h_a,
        "phi_h": entropy_model.hr.h_s,
        "phi_l": entropy_model.lr.h_s,
        "c": entropy_model.condition,
        "f_l": transform.g_s_l,
        "x_hat": transform.g_s,
    }
    seen: dict[str, tuple[int, ...]] = {}
    for name, net in networks.items():
        net.register_forward_hook(lambda _net, _in, out, name=name: seen.update({name: tuple(out.shape[1:])}))
    x = torch.empty(1, 3, 256, 256, device="meta")
    latents, _ = model.estimate(x, torch.empty(1, device="meta"))
    model.transform.synthesis(latents)
    seen["aux"] = tuple(head(latents[1]).shape[1:])
    assert {name: seen[name] for name in wanted} == wanted
    assert model.transform.latent_shapes(256, 256) == (seen["y_h"], seen["y_l"])


def test_head_is_of_training_only() -> None:
    for preset, parameters in ((PAPER, 69_168), (DESIGN, 27_696), (BASE, 3_468)):
        with torch.device("meta"):
            model = build(**preset)
            assert parameter_count(objective(model, aux=0.25)) == parameters
        assert not any("head" in name for name in model.state_dict())


def walk_of(model: CodecModel, size: tuple[int, int] = (64, 64)) -> list[str]:
    """Names of the coding steps of a picture of `size` = (H, W); the model is on meta."""
    coder, x = Recorder(), torch.empty(1, 3, *size, device="meta")
    shapes = model.transform.latent_shapes(*size)
    model.entropy_model.code(coder, model.transform.analysis(x), shapes, torch.empty(1, device="meta"))
    return [step.name for step in coder.steps]


@pytest.mark.parametrize(("preset", "steps"), [(BASE, 9), (PAPER, 12), (DESIGN, 9)])
@pytest.mark.parametrize("size", [(64, 64), (768, 1024)])
def test_number_of_steps_does_not_depend_on_the_size(preset: dict, steps: int, size: tuple[int, int]) -> None:
    assert len(walk_of(on_meta(preset), size)) == steps


def test_passes_of_the_walks_that_are_timed() -> None:
    """Of y_h and y_l, as the card says: 4 + 3, 10, and 8 + 3 where HR slices take two passes each."""
    walks_of = {name: walk_of(on_meta(BASE, **switches)) for name, switches in walks.WALKS.items()}
    passes = [(steps.count("y_h"), steps.count("y_l")) for steps in walks_of.values()]
    assert passes == [(4, 3), (10, 0), (8, 3)]
    assert all(steps.count("z_h") == 1 for steps in walks_of.values())


# --- two branches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "changed"), [("g_a_h", 0), ("g_a_l", 1)])
def test_branches_see_the_picture_independently(net: str, changed: int) -> None:
    transform = small().transform.eval()
    x = batch(1)
    with torch.no_grad():
        before = transform.analysis(x)
        for p in transform.get_submodule(net).parameters():
            p.add_(0.1)
        after = transform.analysis(x)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [changed != 0, changed != 1]


def test_branches_are_one_octave_apart() -> None:
    with pytest.raises(UsageError, match="lr_widths"):
        small(lr_widths=(8, 8))


def test_single_branch() -> None:
    """`lr_off` leaves out the LR branch and nothing else."""
    both, single = small(), small(lr_off=True)
    assert isinstance(objective(single), Objective) and objective(single, aux=0.25).state_dict() == {}
    assert single.transform.latent_shapes(64, 64) == ((14, 4, 4),)
    assert single.entropy_model.latent_channels == (14,) and single.entropy_model.condition is None
    kept = {name: tensor.shape for name, tensor in single.state_dict().items()}
    whole = {name: tensor.shape for name, tensor in both.state_dict().items()}
    assert set(whole) - set(kept) == {
        name for name in whole if any(part in name for part in ("_l.", ".lr.", ".condition."))
    }
    assert {name for name in kept if kept[name] != whole[name]} == {"transform.g_s.0.weight"}


# --- order of coding --------------------------------------------------------------------------------


def steps(model: CodecModel, latents: tuple[Tensor, ...], poisoned: int | None = None) -> list[Step]:
    coder = Recorder(poisoned)
    shapes = tuple(tuple(y.shape[1:]) for y in latents)
    with torch.inference_mode():
        model.entropy_model.double().code(coder, latents, shapes, None)
    return coder.steps


def some_latents(scale: float = 4) -> tuple[Tensor, Tensor]:
    return tuple(scale * torch.randn(1, c, s, s).double() for c, s in ((14, 8), (10, 4)))


def has_nan(step: Step) -> list[bool]:
    """Of mean and scale: all of it, or none."""
    found = [x.isnan() for x in (step.mean, step.scale)]
    assert all(x.all() or not x.any() for x in found)
    return [bool(x.all()) for x in found]


_WALKS = {
    "hl": ["z_h", *["y_h"] * 3, "z_l", *["y_l"] * 2],
    "lh": ["z_l", *["y_l"] * 2, "z_h", *["y_h"] * 3],
    "none": ["z_h", *["y_h"] * 3, "z_l", *["y_l"] * 2],
}


@pytest.mark.parametrize("order", ORDERS)
def test_causality(order: str) -> None:
    """A step reaches the later slices of its own latent and, through the condition, those of the second."""
    model, latents = small(order=order).eval(), some_latents()
    walk = _WALKS[order]
    assert [step.name for step in steps(model, latents)] == walk
    first = walk[0][-1]
    for k, poisoned in enumerate(walk):
        for i, step in enumerate(steps(model, latents, k)):
            if step.mean is None:
                continue
            own = i > k and poisoned[-1] == step.name[-1]
            conditioned = order != "none" and poisoned[-1] == first != step.name[-1]
            assert has_nan(step) == [own or conditioned] * 2, (poisoned, i)


@pytest.mark.parametrize(
    ("order", "spoiled", "clean"),
    [("hl", 1, "y_h"), ("lh", 0, "y_l"), ("none", 0, "y_l"), ("none", 1, "y_h")],
)
def test_a_spoiled_latent_stays_out_of_the_other(order: str, spoiled: int, clean: str) -> None:
    model, latents = small(order=order).eval(), list(some_latents())
    latents[spoiled] = torch.full_like(latents[spoiled], math.nan)
    for step in steps(model, tuple(latents)):
        if step.mean is not None:
            assert has_nan(step) == [step.name != clean] * 2


def test_without_the_last_layer_of_the_condition_hr_has_no_influence() -> None:
    model, (y_h, y_l) = small().eval(), some_latents()

    def of_lr(y_h: Tensor) -> list[Tensor]:
        return [torch.stack([s.mean, s.scale]) for s in steps(model, (y_h, y_l)) if s.name == "y_l"]

    def same() -> list[bool]:
        return [torch.equal(a, b) for a, b in zip(of_lr(y_h), of_lr(-y_h), strict=True)]

    assert same() == [False, False]
    for p in model.entropy_model.condition[-1].parameters():
        nn.init.zeros_(p)
    assert same() == [True, True]


def test_unknown_order() -> None:
    with pytest.raises(UsageError, match="hl, lh, none"):
        small(order="both")


@pytest.mark.parametrize("halvings", [0, -1, 1.5, "two"])
def test_hyper_latent_is_not_larger_than_the_latent(halvings: object) -> None:
    with pytest.raises(UsageError, match="halvings=.*1 at least"):
        small(halvings=halvings)


# --- files ------------------------------------------------------------------------------------------


@torch.no_grad()
def loud(transform: nn.Module) -> None:
    """Random latents all round to zero, whatever the picture; these do not."""
    for net in (transform.g_a_h, transform.g_a_l):
        if net is not None:
            net[-1].weight.mul_(100)


class Counter(Estimator):
    """Counts the symbols of y that are not zero."""

    def __init__(self) -> None:
        super().__init__(training=False)
        self.found: dict[str, int] = {}

    def gaussian(self, name, latent, mean, scale, gain=None):
        value = super().gaussian(name, latent, mean, scale, gain)
        self.found[name] = self.found.get(name, 0) + int((value != mean).sum())
        return value


def symbols_of(model: CodecModel, latents: tuple[Tensor, ...], size: tuple[int, int]) -> Counter:
    """The latents of one picture of `size` = (H, W), as a file at level 3 has them."""
    coder, level = Counter(), torch.tensor([3.0], dtype=torch.float64)
    shapes = model.transform.latent_shapes(*size)
    model.entropy_model.code(coder, tuple(y.double() for y in latents), shapes, level)
    return coder


def codec_of(weights: WeightsFile | None = None, **switches: object) -> Codec:
    torch.manual_seed(0)
    model = small(**({"variable_rate": True} | switches))
    loud(model.transform)
    model.update()
    return Codec(registry.find("dual-branch", "codec"), "base", model.prepare(), 3.0, weights)


@pytest.mark.parametrize("size", [(1, 1), (65, 63), (768, 512)])
@pytest.mark.parametrize("switches", [*({"order": order} for order in ORDERS), {"lr_off": True}])
def test_round_trip(switches: dict[str, object], size: tuple[int, int]) -> None:
    codec = codec_of(**switches)
    width, height = size
    padded = tuple(n + -n % 64 for n in (height, width))
    x = torch.from_numpy(picture(padded[1], padded[0])).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        latents = codec.model.transform.analysis(x)
        coder = symbols_of(codec.model, latents, padded)
    estimate = float(bits(coder.likelihoods)) / 8
    assert set(coder.found) == ({"y_h"} if "lr_off" in switches else {"y_h", "y_l"})
    assert min(coder.found.values()) > 0
    payload, calibration, known = write_latents(codec.model, latents, 3.0)
    again = read_latents(codec.model, payload, calibration, padded, 3.0)
    assert all(torch.equal(a, b) for a, b in zip(known, again, strict=True))
    pixels = [codec.reconstruct(y, (height, width), False) for y in (known, again)]
    assert pixels[0].shape[:2] == (height, width) and (pixels[0] == pixels[1]).all()
    assert len(payload) == pytest.approx(estimate, abs=0.01 * estimate + 64)


def test_the_order_is_part_of_the_weights(tmp_path: Path) -> None:
    """A file of one order is refused by the other, by the digest and, behind it, by the symbols' checksum."""
    codecs = {}
    for order in ("hl", "lh"):
        path = tmp_path / f"{order}.safetensors"
        digest = write_tensors(codec_of(order=order).model.state_dict(), path)
        codecs[order] = codec_of(WeightsFile(path, digest), order=order)
    x = picture(64, 64)
    with pytest.raises(WrongWeightsError, match="written with weights"):
        codecs["lh"].decode(codecs["hl"].encode(x))
    latents = tuple(4 * y for y in some_latents())
    payload, calibration, _ = write_latents(codecs["hl"].model, latents, 3.0)
    with pytest.raises(ZooError):
        read_latents(codecs["lh"].model, payload, calibration, (128, 128), 3.0)


# --- training ---------------------------------------------------------------------------------------


def silent(module: nn.Module) -> list[str]:
    return [
        name
        for name, p in module.named_parameters()
        if not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_reach_every_parameter(order: str) -> None:
    model = small(order=order, variable_rate=True).train()
    trained = objective(model, aux=0.25)
    with (
        torch.no_grad()
    ):  # all of a hyper-latent may round to zero, and a convolution of zeros has no gradient
        for branch in (model.entropy_model.hr, model.entropy_model.lr):
            branch.h_a[-1].weight.mul_(10)
    x, level = batch(6), torch.arange(1.0, 7)
    trained(model, x, level).loss.sum().backward()
    assert silent(model) == [] and silent(trained) == []
    model.zero_grad()
    trained.zero_grad()
    trained.begin(model, PHASE)
    trained(model, x, level).loss.sum().backward()
    assert silent(model) == [] and silent(trained) == ["head.0.weight", "head.0.bias"]


def test_plain_objective_by_default() -> None:
    model = small().train()
    x, level = batch(2), torch.tensor([1.0, 5.0])
    torch.manual_seed(1)
    terms = objective(model)(model, x, level)
    torch.manual_seed(1)
    wanted = rate_distortion(x, model(x, level), level)
    for term, value in zip(terms, wanted, strict=True):
        assert torch.allclose(term, value, rtol=1e-5)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.25), (0.1, 0.125), (0.2, 0.0), (1.0, 0.0)])
def test_head_fades_out(progress: float, weight: float) -> None:
    model = small().train()
    trained = objective(model, aux=0.25)
    x, level = batch(2), torch.tensor([1.0, 5.0])
    trained.begin(model, progress)
    loss, bpp, mse = trained(model, x, level)
    thumbnail = torch.nn.functional.avg_pool2d(x, 8)
    grey = (thumbnail - 0.45).square().mean((1, 2, 3))  # what the head starts with
    assert torch.allclose(loss - bpp, distortion(mse + weight * grey, level), rtol=1e-4)


def test_hr_dropout() -> None:
    """Without y_h the picture comes from y_l alone, and the rate of y_h is not counted."""
    model = small().train()
    trained = objective(model, hr_dropout=1.0)
    x, level = batch(2), torch.tensor([1.0, 5.0])
    torch.manual_seed(1)
    _, bpp, mse = trained(model, x, level)
    torch.manual_seed(1)
    (y_h, y_l), coder = model.estimate(x, level)
    alone = model.transform.synthesis((torch.zeros_like(y_h), y_l))
    counted = bits({name: p for name, p in coder.likelihoods.items() if name != "y_h"}) / 64**2
    assert torch.allclose(mse, (alone - x).square().mean((1, 2, 3))) and torch.allclose(bpp, counted)


@pytest.mark.parametrize("off", ["evaluation", "late"])
def test_measures_end(off: str) -> None:
    model = small().eval()
    trained = objective(model, aux=0.25, hr_dropout=1.0)
    if off == "evaluation":
        trained.eval()
    else:
        trained.begin(model, PHASE)
    x, level = batch(2), torch.tensor([1.0, 5.0])
    first, second = trained(model, x, level), trained(model, x, level)
    for term, again, wanted in zip(first, second, rate_distortion(x, model(x, level), level), strict=True):
        assert torch.equal(term, again) and torch.allclose(term, wanted, rtol=1e-5)


def test_part_of_the_samples_is_dropped() -> None:
    trained = objective(small(), hr_dropout=0.1).train()
    kept = trained._kept(torch.empty(10_000, 1, 1, 1))
    assert float((~kept).float().mean()) == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("lr_off", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"aux": -1},
        {"aux": math.nan},
        {"aux": math.inf},
        {"hr_dropout": 1.5},
        {"transform_rate": -0.1},
        {"aux": "much"},
        {"hr_dropuot": 0.1},
    ],
)
def test_impossible_settings(settings: dict[str, object], lr_off: bool) -> None:
    """A model of a single branch has no use for the measures, and refuses mistakes all the same."""
    entry = registry.find("dual-branch", "codec")
    with pytest.raises(UsageError, match=next(iter(settings))):
        build_objective(entry, small(lr_off=lr_off), settings)


@pytest.mark.parametrize(
    ("switches", "settings"),
    [
        ({}, {}),
        ({}, {"aux": 0.25, "hr_dropout": 0.5}),
        ({"order": "lh"}, {}),
        ({"order": "none"}, {}),
        ({"lr_off": True}, {}),
        ({"checkerboard": True}, {}),
        ({"slices": (7, 7), "lr_slices": (10,)}, {}),
    ],
)
def test_every_switch_trains(switches: dict, settings: dict, tmp_path: Path) -> None:
    model = small(**({"variable_rate": True} | switches))
    before = {name: p.clone() for name, p in model.named_parameters()}
    recipe = Recipe(steps=1, batch=2, crop=64, warmup=0, bf16=False)
    crops = RandomCrops(photos(), 64)
    trainer = Trainer(model, crops, recipe, tmp_path, objective=objective(model, **settings))
    _, loss, _, _ = trainer.train_step()
    assert loss.isfinite().all()
    assert all(not torch.equal(before[f"transform.{n}"], p) for n, p in model.transform.named_parameters())


# --- start ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started() -> CodecModel:
    torch.manual_seed(0)
    model = build(**BASE).eval()
    start(model, photos())
    return model


@pytest.mark.parametrize(
    "switches", [{}, {"lr_off": True}, {"checkerboard": True}, {"lr_slices": (16, 8), "order": "lh"}]
)
def test_start_is_transform_coding(switches: dict) -> None:
    """Every photo passes through the untrained transforms with the quality of its principal components."""
    model = build(**(BASE | switches))
    start(model, photos())
    x = batch(4)
    with torch.inference_mode():
        error = model.transform.synthesis(model.transform.analysis(x)) - x
    assert -10 * math.log10(float(error.square().mean((1, 2, 3)).max())) > 35


@pytest.mark.parametrize("kept", [0, 1])
def test_start_gives_the_branches_nothing_in_common(started: CodecModel, kept: int) -> None:
    """What one latent says of a picture, the encoder of the other does not see."""
    transform = started.transform
    with torch.inference_mode():
        latents = [torch.zeros_like(y) for y in transform.analysis(batch(1))]
        latents[kept] = 0.1 * torch.randn_like(latents[kept])
        again = transform.analysis(transform.synthesis(tuple(latents)))
    for y, wanted in zip(again, latents, strict=True):
        assert float((y - wanted).abs().max()) < 0.02


def test_start_knows_the_scales(started: CodecModel) -> None:
    with torch.inference_mode():
        latents = started.transform.analysis(torch.stack(photos()).float() / 255)
    for branch, y in zip((started.entropy_model.hr, started.entropy_model.lr), latents, strict=True):
        scales = torch.cat([net.parameters_net[-1].bias[net.width :] for net in branch.charm.slices])
        measured = y.square().mean((0, 2, 3)).sqrt()
        assert (measured[:4] / scales[:4]).log2().abs().max() < 0.5


def test_start_needs_room() -> None:
    for preset in (SMALL, BASE | {"widths": (32, 64)}, BASE | {"lr_slices": (9,)}):
        with pytest.raises(UsageError, match="block-transform start"):
            start(build(**preset), photos())


# --- what each branch does --------------------------------------------------------------------------


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def wave(cycles_per_pixel: float) -> Tensor:
    return torch.sin(2 * math.pi * cycles_per_pixel * torch.arange(64.0)).expand(1, 3, 64, 64)


@pytest.mark.parametrize(("frequency", "share"), [(1 / 32, 1.0), (1 / 16, 1.0), (1 / 8, 0.0)])
def test_low_share(frequency: float, share: float) -> None:
    assert float(branches.low_share(wave(frequency))) == pytest.approx(share, abs=1e-4)


def test_report_of_the_start(started: CodecModel) -> None:
    """LR has bits, and the picture needs them, for its low frequencies above all; the condition has no task.

    Measured: a share of 43 %, 4.3 and 6.4 dB, 79 %.
    """
    figures = branches.report(started, [leaves(130, seed) for seed in range(4)], 3.0)
    total = sum(value for name, value in figures.items() if name.startswith("bpp_"))
    assert figures["lr_share"] == pytest.approx((figures["bpp_z_l"] + figures["bpp_y_l"]) / total, rel=0.05)
    assert 0.03 < figures["lr_share"] < 0.6 and abs(figures["condition"]) < 0.001
    assert figures["zeroed"] > 1 and figures["swapped"] > 1 and figures["low"] > 0.5
    with pytest.raises(UsageError):
        branches.report(started, photos(1), 3.0)


def test_both_branches_and_the_condition_work_in_the_bundled_weights() -> None:
    """The limits of the reconstruction, meant for photographs at q3; on discs, see `leaves`.

    Measured: a share of 27 %, 12.4 and 15.2 dB, 66 % and 10 %.
    """
    figures = branches.report(load("dual-branch-q3").model, [leaves(128, seed) for seed in range(4)], 3.0)
    assert 0.03 <= figures["lr_share"] <= 0.6
    assert figures["zeroed"] >= 1 and figures["swapped"] >= 1 and figures["low"] > 0.5
    assert figures["condition"] >= 0.02


def test_lr_branch_holds_a_smooth_picture_in_the_bundled_weights() -> None:
    """Beyond the reconstruction's limit of 60 %: nearly all bits, since there is hardly any detail to code.

    Measured on these pictures: a share of 96 %, 16.6 and 18.4 dB, 96 %.
    """
    figures = branches.report(load("dual-branch-q3").model, photos(4, 64), 3.0)
    assert figures["lr_share"] > 0.9 and figures["low"] > 0.9
    assert figures["zeroed"] > 10 and figures["swapped"] > 10


def test_branches_of_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows the weights that a run on a folder begins with, or the published ones."""
    for seed in range(2):
        saved(tmp_path / f"{seed}.png", leaves(64, seed).permute(1, 2, 0).numpy())
    printed = []
    for options in ((), ("--start", str(tmp_path))):
        assert branches.main([str(tmp_path), *options]) == exits.OK
        printed.append(json.loads(capsys.readouterr().out))
    trained, started = printed
    assert trained["condition"] != 0 and abs(started["condition"]) < 0.001
    assert started["zeroed"] > 1


@pytest.mark.parametrize("order", ["hl", "lh"])
def test_another_condition_changes_the_bits_of_the_second_latent(order: str) -> None:
    model = small(order=order).eval()
    x, level = batch(2), torch.tensor([3.0, 3.0])
    loud(model.transform)
    assert branches.condition_saves(model, x, level).abs().min() > 0
    for p in model.entropy_model.condition[-1].parameters():
        nn.init.zeros_(p)
    assert not branches.condition_saves(model, x, level).any()


def test_no_condition_saves_nothing() -> None:
    with pytest.raises(UsageError, match="no condition"):
        branches.condition_saves(small(order="none").eval(), batch(2), torch.tensor([3.0, 3.0]))


@pytest.mark.parametrize("name", walks.WALKS)
def test_walks_are_timed_on_files_that_decode(name: str) -> None:
    model, latents = walks.prepared(photos()[0], walks.WALKS[name])
    assert all(time > 0 for time in walks.seconds(model, latents, 3.0))


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (picture(96, 64)[..., 0], (), "is grey, 96 x 64: give a colour photo of at least 64 x 64"),
        (picture(96, 63), (), "is colour, 96 x 63: give a colour photo of at least 64 x 64"),
        (picture(96, 64), ("--rounds", "0"), "--rounds 0 --threads 2: give 1 or more"),
        (picture(96, 64), ("--threads", "0"), "--rounds 9 --threads 0: give 1 or more"),
        (picture(96, 64), ("--quality", "9"), "--quality 9: give a level from 1 to 6"),
        (picture(96, 64), ("--quality", "nan"), "--quality nan: give a level from 1 to 6"),
    ],
)
def test_walks_refuse_what_they_cannot_time(
    pixels: np.ndarray,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    photo = saved(tmp_path / "photo.png", pixels)
    assert walks.main([str(photo), *options]) == exits.UNUSABLE
    assert message in capfd.readouterr().err


def test_walks_of_the_smallest_photo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photo = saved(tmp_path / "photo.png", picture(64, 64))
    assert walks.main([str(photo), "--rounds", "1", "--threads", "1"]) == exits.OK
    assert [line.partition(":")[0] for line in capfd.readouterr().out.splitlines()] == list(walks.WALKS)


def test_all_transforms_learn_slowly() -> None:
    model = build(**SMALL)
    slow = {
        name.split(".")[1]
        for name, _ in model.named_parameters()
        if objective(model).learning_rate_factor(name) < 1
    }
    assert slow == {"g_a_h", "g_a_l", "g_s_l", "g_s"}
