"""ROI-Swin: sizes, modulation by masks, what becomes a mask, masks of training, the objective, regions."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo_core as zoo
from zoo_core import cli
from zoo_core.codec import Codec
from zoo_core.constants import LAMBDAS
from zoo_core.entropy.coder import Estimator
from zoo_core.entropy.stream import Decoder, Encoder
from zoo_core.errors import SideInputError, UsageError
from zoo_core.evaluation.cost import below, kmacs
from zoo_core.hooks import Entry
from zoo_core.images import Picture
from zoo_core.model import CodecModel, bits, parameter_count, read_latents, write_latents
from zoo_core.testing.pictures import picture
from zoo_core.training.data import RandomCrops
from zoo_core.training.loop import Trainer
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import Objective
from zoo_core.training.recipe import Recipe
from zoo_roi_swin import BASE, PAPER_PRESET, regions
from zoo_roi_swin.fixed import fixed_masks, halves, region_psnr
from zoo_roi_swin.mask import normalised
from zoo_roi_swin.model import build, objective, start
from zoo_roi_swin.modulation import SFT
from zoo_roi_swin.signalled import code_mask
from zoo_roi_swin.stages import ConvStage
from zoo_roi_swin.synthetic import SHARES, mask, masks

SMALL = {
    "widths": (12, 48, 48),
    "latent": 64,
    "hyper_latent": 16,
    "depths": (1, 1, 2),
    "heads": (1, 1, 1),
    "hyper_heads": 1,
    "mlp_ratio": 1,
    "condition": 8,
    "hidden": 8,
    "slices": (1, 3),
    "context_widths": (24, 16),
    "lrp_widths": (16, 8),
    "context_kernels": (1, 3, 1),
}
SWITCHES = (
    {},
    {"mask_input": "first"},
    {"mask_input": "gate"},
    {"mask_input": "none"},
    {"dec_cond": "none"},
    {"dec_cond": "signalled"},
    {"blocks": "conv"},
    {"hyper_sft": False},
    {"context": "none"},
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return zoo.load("roi-swin-q3")


def on_meta(**arguments: object) -> CodecModel:
    with torch.device("meta"):
        return build(**arguments).eval()


def tensor(width: int, height: int, seed: int = 0) -> Tensor:
    """A picture (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(picture(width, height, seed)).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def awake(model: CodecModel, std: float = 0.05) -> CodecModel:
    """The model with modulation that does something, as if it had been trained."""
    for module in model.modules():
        if isinstance(module, SFT):
            for conv in (module.gamma, module.beta):
                nn.init.normal_(conv.weight, std=std)
    return model


def small_codec(model: CodecModel) -> Codec:
    entry = Entry("small", "codec", "", {"base": {}}, conditions=("roi", "roi_threshold", "roi_dilate"))
    model.update()
    return Codec(entry, "base", model.prepare(), 3.0, None)


# --- sizes and costs --------------------------------------------------------------------------------

ROWS = {
    "transform.g_a": (2_936_136, 807_117),
    "transform.g_s": (2_935_947, 806_800),
    "transform.pyramid": (162_560, 10_688),
    "transform.sft_a": (1_623_680, 125_552),
    "transform.decoder_pyramid": (418_432, 70_048),
    "transform.sft_s": (1_623_680, 125_552),
    "entropy_model.h_a": (1_312_704 + 189_248 + 738_048, 392_912 + 51_152 + 31_384),
    "entropy_model.h_a.pyramid": (189_248, 51_152),
    "entropy_model.h_a.sft": (738_048, 31_384),
    "entropy_model.h_s": (1_534_144, 577_808),
    "entropy_model.slices": (5_153_536 + 3_770_944, 535_296 + 246_528),
    "entropy_model.prior": (7_808, 3_904),
}
ROI = ("transform.pyramid", "transform.sft_a", "entropy_model.h_a.pyramid", "entropy_model.h_a.sft")
ROI_DECODER = ("transform.decoder_pyramid", "transform.sft_s")


@pytest.mark.parametrize(("preset", "column", "total"), [(PAPER_PRESET, 0, 22_406_867), (BASE, 1, 3_797_029)])
def test_modules_of_the_presets(preset: dict, column: int, total: int) -> None:
    model = on_meta(**preset)
    assert parameter_count(model) == total
    for name, row in ROWS.items():
        assert parameter_count(model.get_submodule(name)) == row[column], name


def test_networks_of_the_slices_of_the_paper_preset() -> None:
    slices = on_meta(**PAPER_PRESET).entropy_model.slices.slices
    assert sum(parameter_count(nets.ctx) for nets in slices) == 5_153_536
    assert sum(parameter_count(nets.lrp) for nets in slices) == 3_770_944
    assert parameter_count(on_meta(**{**PAPER_PRESET, "dec_cond": "none"})) == 20_364_755
    plain = on_meta(**{**PAPER_PRESET, "dec_cond": "none", "mask_input": "gate"})
    assert parameter_count(plain) == 17_651_219


def test_costs_of_the_paper_preset() -> None:
    costs = kmacs(on_meta(**PAPER_PRESET))
    assert costs.total() == pytest.approx(697.4, abs=0.05)
    assert sum(below(costs, name) for name in ROI) == pytest.approx(138.5, abs=0.05)
    assert sum(below(costs, name) for name in ROI_DECODER) == pytest.approx(128.1, abs=0.05)


def test_base_preset_keeps_to_the_budgets() -> None:
    model = on_meta(**BASE)
    costs = kmacs(model)
    assert sum(below(costs, name) for name in (*ROI, *ROI_DECODER)) < 0.2 * costs.total()
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") < 6
    assert 2 * parameter_count(model) < 9 * 2**20


def test_convolutions_that_stand_in_for_swin_blocks_cost_the_same() -> None:
    swin, conv = (on_meta(**{**BASE, "blocks": kind}) for kind in ("swin", "conv"))
    a, b = (kmacs(model) for model in (swin, conv))
    for name in ("transform.g_a", "transform.g_s"):
        assert below(b, name) == pytest.approx(below(a, name), rel=0.03)
    assert isinstance(conv.transform.g_a[1], ConvStage) and isinstance(conv.transform.g_s[1], ConvStage)


# --- modulation -------------------------------------------------------------------------------------


def test_a_new_network_ignores_the_mask() -> None:
    model = build(**SMALL, variable_rate=True).eval()
    x = tensor(128, 128)
    with torch.inference_mode():
        outs = [
            (
                model.transform.analysis(x, roi=roi)[0],
                model.estimate(x, roi=roi)[0][1],
                model(x, roi=roi)["x_hat"],
            )
            for roi in (None, torch.zeros(1, 1, 128, 128), (torch.rand(1, 1, 128, 128) > 0.5).float())
        ]
    for other in outs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outs[0], other, strict=True))


def test_the_mask_works_where_it_changes() -> None:
    """8x8 pixels of the mask change y around them and, the windows being finite, nowhere far away."""
    transform = awake(build(**BASE)).transform.eval()
    x, roi = tensor(512, 512), torch.ones(1, 1, 512, 512)
    other = roi.clone()
    other[..., 64:72, 64:72] = 0
    with torch.inference_mode():
        changed = (transform.analysis(x, roi=roi)[0] != transform.analysis(x, roi=other)[0]).any(1)[0]
    assert changed[4, 4]
    assert not changed[20:].any() and not changed[:, 20:].any()


def test_mask_and_latent_both_reach_the_hyper_analysis() -> None:
    h_a = awake(build(**SMALL)).entropy_model.h_a
    y, roi = torch.randn(1, 64, 8, 8), torch.ones(1, 1, 8, 8)
    assert not torch.equal(h_a(y, roi), h_a(y, 1 - roi))
    blind = build(**SMALL, hyper_sft=False).entropy_model.h_a
    assert torch.equal(blind(y, roi), blind(y, 1 - roi)) and blind.pyramid is None


@pytest.mark.parametrize(("dec_cond", "count"), [("latent", 2), ("none", 2), ("signalled", 3)])
def test_what_the_decoder_knows(dec_cond: str, count: int) -> None:
    model = awake(build(**SMALL, dec_cond=dec_cond)).eval()
    with torch.inference_mode():
        known, _ = model.estimate(tensor(64, 64), roi=torch.zeros(1, 1, 64, 64))
        assert len(known) == count
        plain = model.transform.synthesis(known[:1])
        moved = model.transform.synthesis((known[0], known[1] + 1, *known[2:]))
        seen = model.transform.synthesis(known)
        assert torch.equal(seen, plain) is torch.equal(seen, moved) is (dec_cond == "none")
        if dec_cond == "signalled":
            assert not torch.equal(seen, model.transform.synthesis((*known[:2], 1 - known[2])))


def test_gradients_of_the_first_and_the_second_step() -> None:
    model = build(**SMALL, variable_rate=True).train()
    with torch.no_grad():  # else all of z rounds to zero, and a convolution of zeros has no gradient
        for conv in model.entropy_model.h_a.convs:
            conv.weight.mul_(4)
    x, level = torch.cat([tensor(64, 64, seed) for seed in range(6)]), torch.arange(1.0, 7)
    silent = []
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        objective(model, masks_from=0.0)(model, x, level, roi=masks(6, 64)).loss.mean().backward()
        with torch.no_grad():
            silent.append(set())
            for name, p in model.named_parameters():
                if p.grad is None or not p.grad.any():
                    silent[-1].add(name)
                else:
                    p -= 1e-3 * p.grad / p.grad.norm()
    hidden = {n for n, _ in model.named_parameters() if "pyramid" in n or ".shared." in n}
    quantiles = {n for n, _ in model.named_parameters() if n.endswith("quantiles")}
    assert silent[0] == hidden | quantiles and silent[1] == quantiles


# --- round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (320, 192), (448, 64), (77, 100)])
def test_pictures_with_masks_come_back(size: tuple[int, int]) -> None:
    codec = small_codec(awake(build(**SMALL, variable_rate=True)))
    x = picture(*size)
    roi = fixed_masks(size[1], size[0])["A"]
    data = codec.encode(x, roi=roi, verify=True)
    assert codec.decode(data).size == size
    assert data != codec.encode(x)


def test_the_decoder_knows_what_the_encoder_knows() -> None:
    model = awake(build(**SMALL, variable_rate=True))
    start(model, [torch.from_numpy(picture(128, 128)).permute(2, 0, 1)])
    codec = small_codec(awake(model, 0.01))
    x = picture(256, 256)
    latents = codec.analyse(Picture(x), roi=[(0, 0, 0.5, 1)])
    payload, calibration, known = write_latents(model, latents, 3.0)
    again = read_latents(model, payload, calibration, (256, 256), 3.0)
    assert all(torch.equal(a, b) for a, b in zip(known, again, strict=True))
    with torch.inference_mode():
        roi = torch.zeros(1, 1, 256, 256)
        roi[..., :128] = 1
        estimate = float(bits(model(tensor(256, 256), torch.tensor([3.0]), roi=roi)["likelihoods"]))
    assert 8 * len(payload) == pytest.approx(estimate, rel=0.01, abs=64)


def test_masks_go_along_with_tiles() -> None:
    codec = small_codec(awake(build(**SMALL, variable_rate=True)))
    x, roi = picture(420, 300), fixed_masks(300, 420)["B"]
    latents = codec.analyse(Picture(x), roi=roi)
    tiled = codec.analyse(Picture(x), 128, roi=roi)
    assert torch.equal(latents[1], tiled[1])  # the mask at the size of y
    data = codec.encode(x, roi=roi, tile=128, verify=True)
    assert codec.decode(data).size == (420, 300)
    assert data != codec.encode(x, roi=~roi, tile=128)


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_trains_and_codes(switches: dict) -> None:
    model = awake(build(**SMALL, variable_rate=True, **switches)).train()
    x, roi = torch.cat([tensor(64, 64, seed) for seed in range(6)]), masks(6, 64)
    for modulated in (False, True):
        model.transform.modulated = modulated
        terms = objective(model)(model, x, torch.arange(1.0, 7), roi=roi)
        terms.loss.mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.update()
    model.prepare()
    coded = model.compress(x[:1], 2.0, roi=roi[:1])
    restored = model.decompress(coded["strings"], coded["shape"], 2.0)["x_hat"]
    assert restored.shape == (1, 3, 64, 64)


def test_what_each_mask_input_sees() -> None:
    x, roi = tensor(64, 64), torch.zeros(1, 1, 64, 64)
    for kind, sees in (("layers", True), ("first", True), ("gate", True), ("none", False)):
        transform = awake(build(**SMALL, mask_input=kind)).transform
        assert torch.equal(transform.analysis(x, roi=roi)[0], transform.analysis(x)[0]) is not sees
    gate = build(**SMALL, mask_input="gate").transform
    torch.testing.assert_close(gate.analysis(x, roi=roi)[0], gate.analysis(x)[0] / 2)


@pytest.mark.parametrize(
    "switch", [{"mask_input": "some"}, {"dec_cond": "some"}, {"blocks": "some"}, {"context": "some"}]
)
def test_unknown_switches(switch: dict) -> None:
    with pytest.raises(UsageError, match="choose"):
        build(**SMALL, **switch)


def test_slices_share_any_number_of_channels() -> None:
    for latent, widths in ((64, [16, 48]), (50, [12, 38]), (5, [1, 4])):
        slices = build(**{**SMALL, "latent": latent}).entropy_model.slices.slices
        assert [nets.width for nets in slices] == widths
    base = on_meta(**BASE).entropy_model.slices.slices
    assert [nets.width for nets in base] == [32, 48, 80, 160]


# --- the signalled mask -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 8), (8, 3), (32, 48)])
def test_the_signalled_mask_is_exact_and_cheap(size: tuple[int, int]) -> None:
    roi = torch.from_numpy(fixed_masks(*size)["A"])[None, None].double()
    like = torch.zeros(1, 1, *size, dtype=torch.float64)
    encoder = Encoder()
    assert torch.equal(code_mask(encoder, roi, like), roi)
    payload = encoder.payload()
    decoder = Decoder(payload, encoder.calibration())
    assert torch.equal(code_mask(decoder, None, like), roi)
    decoder.finish()
    estimator = Estimator(training=False)
    assert torch.equal(code_mask(estimator, roi, like), roi)
    estimate = float(bits(estimator.likelihoods))
    assert 8 * len(payload) == pytest.approx(estimate, abs=8 * 16)
    assert estimate < roi.numel() / 2 or roi.numel() < 100


def test_the_file_pays_for_the_signalled_mask() -> None:
    codec = small_codec(build(**SMALL, variable_rate=True, dec_cond="signalled"))
    x, noise = picture(512, 512), np.random.default_rng(0).random((32, 32)) > 0.5
    assert len(codec.encode(x, roi=noise)) > len(codec.encode(x)) + 100


# --- what users may give ----------------------------------------------------------------------------


def test_the_whole_picture_in_many_forms_is_the_same_file(codec: Codec, tmp_path: Path) -> None:
    x = picture(100, 77)
    path = tmp_path / "white.png"
    Image.new("1", (50, 40), 1).save(path)
    forms = [
        np.ones((77, 100), bool),
        np.full((77, 100), 255, np.uint8),
        np.ones((1, 5, 7)),
        torch.ones(9, 9, 1),
        torch.ones(4, 5, dtype=torch.bool),
        Image.new("L", (100, 77), 255),
        Image.new("RGBA", (10, 8), (0, 0, 0, 255)),
        path,
        str(path),
        [(0, 0, 100, 77)],
        [(0, 0, 1, 1)],
        (0, 0, 1.0, 1.0),
        [(-5, -5, 60, 200), (60, 0, 900, 77)],
    ]
    plain = codec.encode(x)
    assert all(codec.encode(x, roi=form) == plain for form in forms)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 48), (4000, 3000), (77, 100)])
def test_masks_of_any_size(size: tuple[int, int]) -> None:
    roi = normalised(77, 100, fixed_masks(*size)["A"])
    assert roi.shape == (1, 1, 77, 100) and set(roi.unique().tolist()) <= {0.0, 1.0}
    if size != (1, 1):
        wanted = torch.from_numpy(fixed_masks(77, 100)["A"])
        assert (roi[0, 0].bool() == wanted).float().mean() > 0.8


def test_a_small_checkerboard_stays_in_blocks() -> None:
    roi = normalised(80, 100, np.array([[True, False], [False, True]]))[0, 0]
    assert (roi[:40, :50] == 1).all() and (roi[:40, 50:] == 0).all()
    assert (roi[40:, :50] == 0).all() and (roi[40:, 50:] == 1).all()


def test_areas_are_averaged_and_split_at_the_threshold() -> None:
    fine = np.tile(np.array([[255, 255, 255, 0]], np.uint8), (40, 10))  # three quarters of each area
    for threshold, expected in ((0.5, 1), (0.75, 1), (0.8, 0)):
        assert (normalised(10, 10, fine, threshold) == expected).all()


def test_boxes() -> None:
    pixels = normalised(10, 20, [(2, 1, 5, 3), (18, 8, 99, 99)])[0, 0]
    wanted = torch.zeros(10, 20)
    wanted[1:3, 2:5] = 1
    wanted[8:, 18:] = 1
    assert torch.equal(pixels, wanted)
    assert torch.equal(normalised(10, 20, [(0.5, 0, 1, 0.5)])[0, 0, :5, 10:], torch.ones(5, 10))
    assert normalised(10, 20, [(0.5, 0, 1, 0.5)]).sum() == 50


def test_dilation_is_square() -> None:
    roi = normalised(20, 30, [(10, 8, 11, 9)], roi_dilate=3)[0, 0]
    wanted = torch.zeros(20, 30)
    wanted[5:12, 7:14] = 1
    assert torch.equal(roi, wanted)
    assert normalised(5, 5, [(2, 2, 3, 3)], roi_dilate=1000).all()


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (np.full((4, 4), 2.0), "between 0 and 1"),
        (np.full((4, 4), np.nan), "between 0 and 1"),
        (np.full((4, 4), -0.1), "between 0 and 1"),
        (np.ones((3, 4, 4)), "shape"),
        (np.ones((0, 4)), "shape"),
        (np.ones((4, 4), np.int64), "int64"),
        ([(0, 0, 5)], "four numbers"),
        ([(5, 0, 2, 3)], "x0 < x1"),
        (["a.png"], "four numbers"),
        (object(), "object"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_mask(roi: object, message: str, codec: Codec) -> None:
    with pytest.raises(SideInputError, match=message) as caught:
        codec.encode(picture(20, 20), roi=roi)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    "wrong", [{"roi_threshold": 1.5}, {"roi_threshold": 0}, {"roi_dilate": -1}, {"roi_dilate": 1.5}]
)
def test_wrong_options_of_masks(wrong: dict) -> None:
    with pytest.raises(SideInputError, match=next(iter(wrong))):
        normalised(8, 8, np.ones((8, 8)), **wrong)


def test_masks_that_are_likely_mistakes_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert not normalised(20, 20, np.zeros((20, 20)), roi_dilate=2).any()
    assert "empty" in caplog.text and "up to 255" in caplog.text and "stretched" not in caplog.text
    normalised(20, 20, np.ones((20, 21)))
    assert "stretched" in caplog.text
    caplog.clear()
    assert not normalised(20, 20, [(30, 0, 40, 20)]).any()
    assert "the boxes lie outside" in caplog.text


@pytest.mark.parametrize("kind", ["I;16", "F", "opaque", "transparent", "alpha"])
def test_pictures_of_every_kind_are_masks(kind: str, tmp_path: Path) -> None:
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    plain = Image.fromarray(left.astype(np.uint8) * 255).convert("RGB")
    if kind == "I;16":
        Image.fromarray(np.where(left, 40_000, 300).astype(np.uint16)).save(tmp_path / "mask.png")
    elif kind == "F":
        Image.fromarray(left.astype(np.float32)).save(tmp_path / "mask.tif")
    else:
        alpha = {"opaque": np.full((8, 8), 255), "transparent": np.zeros((8, 8)), "alpha": ~left * 255}[kind]
        plain.putalpha(Image.fromarray(alpha.astype(np.uint8)))
        plain.save(tmp_path / "mask.png")
    (path,) = tmp_path.iterdir()
    wanted = ~left if kind == "alpha" else left
    assert torch.equal(normalised(8, 8, path)[0, 0].bool(), torch.from_numpy(wanted))


def test_a_file_that_is_no_picture_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(60, 40)).save(tmp_path / "a.png")
    (tmp_path / "mask.png").write_bytes(b"no picture")
    words = ["encode", str(tmp_path / "a.png"), "-m", "roi-swin-q3", "-o", str(tmp_path / "a.zoo")]
    assert cli.main([*words, "--roi", str(tmp_path / "mask.png")]) == 2
    said = capsys.readouterr().err
    assert "name a picture, white inside" in said and said.count("\n") == 1
    assert not (tmp_path / "a.zoo").exists()


def test_the_command_line_takes_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(60, 40)).save(tmp_path / "a.png")
    Image.fromarray(fixed_masks(40, 60)["A"]).save(tmp_path / "mask.png")
    words = ["encode", str(tmp_path / "a.png"), "-m", "roi-swin-q3", "-f", "-o", str(tmp_path / "a.zoo")]
    for mask_words in (["--roi", str(tmp_path / "mask.png")], ["--roi", "0,0,30,40", "--roi-dilate", "2"]):
        assert cli.main([*words, *mask_words]) == 0
        assert zoo.decode((tmp_path / "a.zoo").read_bytes()).size == (60, 40)
    assert cli.main([*words, "--roi", str(tmp_path / "none.png")]) == 2
    assert "none.png" in capsys.readouterr().err


# --- masks of training ------------------------------------------------------------------------------


def test_shares_and_areas_of_the_masks() -> None:
    drawn = masks(10_000, 24)[:, 0]
    assert drawn.shape == (10_000, 24, 24) and set(drawn.unique().tolist()) == {0.0, 1.0}
    area = drawn.mean((1, 2))
    assert float((area == 1).float().mean()) == pytest.approx(0.15, abs=0.02)
    assert float((area == 0).float().mean()) == pytest.approx(0.05, abs=0.02)
    others = area[(area > 0) & (area < 1)]
    assert others.min() >= 0.03 and others.max() <= 0.95
    assert sum(SHARES.values()) == pytest.approx(1)


def test_every_kind_of_mask_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        "zoo_roi_swin.synthetic.mask", lambda kind, size: drawn.append(kind) or torch.zeros(1, 1)
    )
    masks(10_000, 16)
    for kind, share in SHARES.items():
        assert drawn.count(kind) / 10_000 == pytest.approx(share, abs=0.02), kind
    drawn.clear()
    masks(1000, 16, "rectangles")
    assert set(drawn) == {"ones", "zeros", "rectangle"}


def test_sides_and_inversions_of_rectangles() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([mask("rectangle", 64) for _ in range(3000)]).bool()
    corners = drawn[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    inverted = corners.sum(1) >= 3  # with sides of at most 0.8 a rectangle covers one corner at most
    assert float(inverted.float().mean()) == pytest.approx(0.3, abs=0.03)
    for axis in (1, 2):
        sides = drawn[~inverted].any(axis).float().mean(1)
        assert 0.15 - 1 / 64 <= sides.min() < 0.18 and 0.77 < sides.max() <= 0.8 + 1 / 64


def test_masks_depend_on_torchs_seed_alone() -> None:
    torch.manual_seed(3)
    first = masks(20, 32)
    other = masks(20, 32)
    torch.manual_seed(3)
    assert torch.equal(first, masks(20, 32)) and not torch.equal(first, other)


def test_a_rectangle_is_one() -> None:
    for _ in range(20):
        inside = mask("rectangle", 32)
        inside = inside if inside[0, 0] == 0 or inside.mean() < 0.2 else 1 - inside
        rows, columns = inside.any(1), inside.any(0)
        area = rows.sum() * columns.sum()
        assert inside.sum() in (area, 32 * 32 - (1 - inside).any(1).sum() * (1 - inside).any(0).sum())


# --- objective --------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A model whose reconstruction is a parameter."""

    def __init__(self, x_hat: Tensor):
        super().__init__()
        self.x_hat = nn.Parameter(x_hat)

    def forward(self, x: Tensor, level: Tensor, roi: Tensor | None = None) -> dict:
        return {"x_hat": self.x_hat, "likelihoods": {"y": torch.full((len(x), 1, 2, 2), 0.5)}}


def test_the_loss_weighs_regions() -> None:
    x, roi = torch.rand(6, 3, 16, 16), (torch.rand(6, 1, 16, 16) > 0.5).float()
    level = torch.arange(1.0, 7)
    model = Fixed(torch.rand(6, 3, 16, 16))
    plain, bpp, mse = rate_distortion(x, model(x, level), level)
    for rho in (1.0, 0.1):
        region = objective(None, rho=rho)
        inside, outside = (region(model, x, level, roi=torch.full_like(roi, v)) for v in (1.0, 0.0))
        torch.testing.assert_close(inside.loss, plain, rtol=1e-6, atol=0)
        torch.testing.assert_close(outside.loss - bpp, rho * (plain - bpp))
        torch.testing.assert_close(outside.mse, mse)
    ordinary = objective(None, rho=1.0)(model, x, level, roi=roi)
    torch.testing.assert_close(ordinary.loss, plain, rtol=1e-6, atol=0)


def test_gradients_of_background_pixels_are_rho_times_those_of_the_region() -> None:
    x, roi = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    roi[..., :4] = 1
    model = Fixed(torch.full((1, 3, 8, 8), 0.1))
    objective(None, rho=0.1)(model, x, torch.tensor([4.0]), roi=roi).loss.sum().backward()
    gradient = model.x_hat.grad
    torch.testing.assert_close(gradient[..., 4:], 0.1 * gradient[..., :4])


def test_a_background_without_weight_keeps_a_little() -> None:
    weights = objective(None, rho=0.0).weights(torch.zeros(6, 1, 2, 2), torch.arange(1.0, 7))
    assert weights[:, 0, 0, 0].tolist() == pytest.approx([0.0002 / value for value in LAMBDAS], rel=1e-4)


@pytest.mark.parametrize("wrong", [{"rho": 2}, {"masks_from": -1}, {"shapes": "stars"}])
def test_settings_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(UsageError):
        objective(None, **wrong)


def test_a_run_begins_without_masks_and_goes_on_with_them(tmp_path: Path) -> None:
    model = build(**SMALL, variable_rate=True)
    photos = [torch.from_numpy(picture(96, 96)).permute(2, 0, 1).contiguous()]
    recipe = Recipe(steps=4, batch=6, crop=64, bf16=False, warmup=1)
    run = Trainer(
        model, RandomCrops(photos, 64, 1.0, 0), recipe, tmp_path, objective=objective(model, masks_from=0.5)
    )
    late = [p for n, p in model.named_parameters() if "sft" in n and ("gamma" in n or "beta" in n)]
    for _ in range(2):
        run.train_step()
    assert not model.transform.modulated and not any(p.any() for p in late)
    for _ in range(2):
        run.train_step()
    assert model.transform.modulated and all(p.any() for p in late)


def test_rate_and_quality_follow_the_mask_after_a_short_training(tmp_path: Path) -> None:
    """Modulation alone, 50 steps: less region costs less, and a pixel is better inside than outside."""
    image = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    photo = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    model = build(**SMALL, variable_rate=True)
    start(model, [photo])
    for name, p in model.named_parameters():
        p.requires_grad_("sft" in name or "pyramid" in name or name.endswith("quantiles"))
    recipe = Recipe(steps=50, batch=6, crop=64, bf16=False, warmup=5, learning_rate=1e-3)
    learn = objective(model, masks_from=0.0)
    run = Trainer(model, RandomCrops([photo], 64, 1.0, 0), recipe, tmp_path, objective=learn)
    for _ in range(50):
        run.train_step()
    model.eval()
    x = photo[None, :, 100:228, 200:328].float() / 255
    left = normalised(128, 128, [(0, 0, 0.5, 1)])
    rates, errors = [], []
    with torch.inference_mode():
        for roi in (0 * left, left, 1 - left, 0 * left + 1):
            out = model(x, torch.tensor([4.0]), roi=roi)
            rates.append(float(bits(out["likelihoods"])))
            errors.append((out["x_hat"] - x).square()[..., :64].mean())
    assert rates[0] < 0.995 * min(rates[1:3]) and max(rates[1:3]) < 0.995 * rates[3]
    assert 10 * np.log10(float(errors[2] / errors[1])) > 0.1


# --- start ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", [{}, {"mask_input": "first"}, {"blocks": "conv"}, {"context": "none"}])
def test_start_is_a_block_transform(switches: dict) -> None:
    model = build(**{**SMALL, "latent": 192}, **switches).eval()
    photos = [torch.from_numpy(picture(128, 128, seed)).permute(2, 0, 1) for seed in range(3)]
    start(model, photos)
    x = photos[0][None].float() / 255
    with torch.inference_mode():
        y, _ = model.transform.analysis(x)
        error = (255 * (model.transform.synthesis((y,)) - x)).square().mean()
        scale = Estimator(training=False)
        model.entropy_model.code(scale, (y,), model.transform.latent_shapes(128, 128), None)
    assert 10 * np.log10(255**2 / float(error)) > 34
    assert y.std() > 0.3  # in quantisation steps
    assert float(bits(scale.likelihoods)) / 128**2 < 2


def test_start_refuses_other_transforms() -> None:
    model = build(**SMALL)
    with pytest.raises(UsageError, match="at least"):
        start(model, [torch.zeros(3, 8, 8, dtype=torch.uint8)])
    model.transform = nn.Identity()
    with pytest.raises(UsageError, match="roi-swin"):
        start(model, [])


# --- regions ----------------------------------------------------------------------------------------


def test_fixed_masks() -> None:
    found = fixed_masks(512, 768)
    shares = {name: float(one.mean()) for name, one in found.items()}
    assert shares == pytest.approx({"A": np.pi / 16, "B": 0.5, "C": 1 / 9, "D": 1 - np.pi / 16}, abs=2e-3)
    assert found["A"][256, 384] and found["A"][256, 193] and not found["A"][256, 190]
    assert found["B"][0, 383] and not found["B"][0, 384]
    assert (found["A"] ^ found["D"]).all()
    for one, other in halves(5, 7).values():
        assert (one ^ other).all()


def test_psnr_of_a_region() -> None:
    x = np.zeros((4, 6, 3), np.uint8)
    y = x.copy()
    y[:, :3] = 5
    left = halves(4, 6)["left, right"][0]
    assert region_psnr(x, y, left) == pytest.approx(20 * np.log10(255 / 5))
    assert region_psnr(x, y, np.ones((4, 6), bool)) == pytest.approx(
        20 * np.log10(255 / 5) + 10 * np.log10(2)
    )
    assert region_psnr(x, y, ~left) > 100
    assert region_psnr(x, y, np.zeros((4, 6), bool)) is None


class Halver:
    """Stands in for a codec: keeps the region, and half of the values of the background; the file is the mask."""

    def encode(self, photo: np.ndarray, roi: np.ndarray | None = None, max_bytes: int | None = None) -> bytes:
        self.photo = photo
        self.mask = np.ones(photo.shape[:2], bool) if roi is None else roi
        size = int(100 + self.mask.sum()) if max_bytes is None else max_bytes
        return bytes(size)

    def decode(self, data: bytes) -> np.ndarray:
        return np.where(self.mask[..., None], self.photo + 1, self.photo // 2).astype(np.uint8)


def test_the_report_finds_the_swap_gain_and_the_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "rates", lambda codec, photo, mask: {"share": float(mask.mean())})
    photo = np.full((40, 60, 3), 100, np.uint8)
    found = regions.report(Halver(), [photo, photo])
    gain = 20 * np.log10(50 / 1)
    assert found["swap"]["left, right"]["gain"] == pytest.approx(gain, abs=1e-3)
    assert found["swap"]["top, bottom"]["photos"] == 2
    table = found["controls"]
    assert table["right"]["roi"] - table["inverted"]["roi"] == pytest.approx(gain, abs=1e-3)
    assert table["zeros"]["bpp"] < table["right"]["bpp"] < table["ones"]["bpp"]
    assert table["right"]["roi"] > table["right"]["all"] > table["right"]["background"]
    assert set(found["equal bytes"]) == {f"{m}, {k}" for m in "ABCD" for k in ("masked", "uniform")}
    assert found["bits per pixel"]["B"] == {"photos": 2, "share": 0.5}
    assert found["equal bytes"]["A, masked"]["bpp"] == found["equal bytes"]["A, uniform"]["bpp"]


def test_rates_of_regions_add_up_to_that_of_the_picture() -> None:
    codec = small_codec(awake(build(**SMALL, variable_rate=True)))
    x = picture(128, 64)
    x[:, :64] = 128  # nothing to code on the left
    left = halves(64, 128)["left, right"][0]
    found = regions.rates(codec, x, left)
    assert found["share"] == 0.5 and found["roi"] < found["background"]
    latents = codec.analyse(Picture(x), roi=left)
    payload, _, _ = write_latents(codec.model, latents, 3.0)
    total = (found["roi"] + found["background"]) / 2 * x[..., 0].size
    assert total < 8 * len(payload) < total + 8 * 400  # the file holds the hyper-latent too


def test_the_report_of_real_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    assert regions.main([str(tmp_path), "--quality", "3", "--picture", str(tmp_path / "out.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["swap"]["left, right"]["gain"] > 0.5  # the published weights obey the mask
    assert Image.open(tmp_path / "out.png").width > 600
    assert regions.main([str(tmp_path / "nothing")]) == 2


def test_the_bundled_weights_obey_the_mask() -> None:
    """The specification's check 13 on a real photo: half a picture gains 1 dB, and rates follow the region."""
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        photo = np.array(image.convert("RGB"))[64:320, 128:384]
    codec = zoo.load("roi-swin-q3")
    sizes, gained = {}, {}
    for name in ("left", "right"):
        half = np.zeros(photo.shape[:2], bool)
        half[:, :128] = True
        coded = codec.encode(photo, roi=half if name == "left" else ~half)
        error = np.square(np.array(codec.decode(coded), np.float64) - photo)
        sizes[name] = len(coded)
        gained[name] = -10 * np.log10(error[:, :128].mean())
    assert gained["left"] > gained["right"] + 1
    none, everything = (len(codec.encode(photo, roi=np.full((4, 4), value))) for value in (0.0, 1.0))
    assert none < min(sizes.values()) and max(sizes.values()) < everything


def test_a_file_with_a_mask_decodes_in_another_process_and_holds_no_mask(tmp_path: Path) -> None:
    codec = zoo.load("roi-swin-q3")
    data = codec.encode(picture(100, 77), roi=[(0, 0, 50, 77)])
    (tmp_path / "a.zoo").write_bytes(data)
    words = ["-m", "zoo_core.cli", "decode", str(tmp_path / "a.zoo"), "-o", str(tmp_path / "a.png")]
    subprocess.run([sys.executable, *words], check=True, timeout=300)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.array(image), np.array(codec.decode(data)))
    plain = codec.encode(picture(100, 77))
    assert zoo.inspect(data).sections.keys() == zoo.inspect(plain).sections.keys()


def test_plain_objective_needs_no_masks() -> None:
    model = build(**SMALL, variable_rate=True)
    terms = Objective()(model.train(), tensor(64, 64), torch.tensor([3.0]))
    assert terms.loss.isfinite().all()
