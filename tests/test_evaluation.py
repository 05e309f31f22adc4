"""Evaluation, anchors, report, figure and their commands, with a codec simple enough to check by hand."""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
import sys
import time
import types
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo_core
from zoo_core import cli, registry
from zoo_core.cli import bench as bench_command
from zoo_core.cli import options, throughput
from zoo_core.errors import UsageError, WeightsNotFoundError, ZooError
from zoo_core.evaluation import (
    anchors,
    benchmark,
    coders,
    figure,
    memory,
    metrics,
    peers,
    startup,
    synthetic,
)
from zoo_core.evaluation.cost import cost
from zoo_core.evaluation.curves import Curve, reference
from zoo_core.evaluation.evaluate import LearnedCodec, evaluate
from zoo_core.evaluation.report import Report, to_json, to_text
from zoo_core.hooks import Entry
from zoo_core.interfaces import EntropyModel, Transform
from zoo_core.layers.gdn import GDN
from zoo_core.model import CodecModel
from zoo_core.testing.pictures import picture


class TinyTransform(Transform):
    """One convolution each way: 3 * 4 * 2 * 2 products for four pixels, down and up."""

    downscale = 2

    def __init__(self, channels: int):
        super().__init__()
        self.down = nn.Conv2d(3, channels, 2, 2)
        self.up = nn.ConvTranspose2d(channels, 3, 2, 2)

    def analysis(self, x):
        return (self.down(x),)

    def synthesis(self, latents):
        return self.up(latents[0])

    def latent_shapes(self, height, width):
        return ((self.down.out_channels, height // 2, width // 2),)


class TinyEntropy(EntropyModel):
    """No context, one 1x1 convolution with GDN on constants: 4 * 4 and 4 * 4 products for four pixels."""

    downscale = 1

    def __init__(self, channels: int):
        super().__init__()
        self.latent_channels = (channels,)
        self.net = nn.Sequential(nn.Conv2d(channels, channels, 1), GDN(channels))

    def update(self):
        pass

    def code(self, coder, latents, shapes, level):
        scale = self.net(torch.zeros_like(latents[0]))
        return (coder.gaussian("y", latents[0], torch.zeros_like(scale), scale),)


def tiny_model(channels: int) -> CodecModel:
    return CodecModel(TinyTransform(channels), TinyEntropy(channels))


class RoundingCodec:
    """Rounds pixels to multiples of 2^(7 - level) and zips them: rate and quality rise with the level."""

    weights = None
    entry, preset = Entry("tiny", "codec", f"{__name__}:tiny_model", {"base": {"channels": 4}}), "base"

    def encode(self, image: np.ndarray | Path, *, quality: float = 3) -> bytes:
        pixels = np.asarray(Image.open(image)) if isinstance(image, Path) else image
        if pixels.shape[1] == 13:
            raise ZooError("13 columns are unlucky")
        step = 2 ** (7 - quality)
        levels = np.round(pixels / step).astype(np.uint8)
        header = np.array([pixels.ndim, *pixels.shape[:2], round(256 * quality)], np.int32)
        return header.tobytes() + zlib.compress(levels.tobytes())

    def decode(self, data: bytes) -> Image.Image:
        dimensions, height, width, quality = np.frombuffer(data[:16], np.int32)
        shape = (height, width, 3) if dimensions == 3 else (height, width)
        levels = np.frombuffer(zlib.decompress(data[16:]), np.uint8).reshape(shape)
        pixels = np.clip(levels * 2 ** (7 - quality / 256), 0, 255).round()
        return Image.fromarray(pixels.astype(np.uint8))


@contextmanager
def stage_times():
    yield {"image": 0.001, "coder": 0.002}


@contextmanager
def counts():
    yield {"symbol": 10_000, "latent": 20_000}


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> RoundingCodec:
    """The method `rounding`, installed; `missing` is installed too, but its weights cannot be found."""
    codec = RoundingCodec()

    def load(name: str, **_: object) -> RoundingCodec:
        if name == "missing":
            raise WeightsNotFoundError("no weights for missing")
        return codec

    def decode(data: bytes, **_: object) -> Image.Image:
        return codec.decode(data)

    installed = [Entry(name, "codec", "none:none", {"base": {}}) for name in ("missing", "rounding")]
    found = registry._Discovery(tuple(registry._Registered(e, "test 1") for e in installed), ())
    module = types.SimpleNamespace(load=load, decode=decode, stage_times=stage_times, counts=counts)
    monkeypatch.setattr(registry, "_discover", lambda: found)
    monkeypatch.setitem(vars(zoo_core), "load", load)
    monkeypatch.setitem(vars(zoo_core), "decode", decode)
    monkeypatch.setitem(vars(zoo_core), "codec", module)
    monkeypatch.setitem(sys.modules, "zoo_core.codec", module)
    return codec


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two colour pictures of different size, one grey."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(synthetic.picture(90, 60)).save(folder / "a.png")
    Image.fromarray(synthetic.picture(50, 70)).save(folder / "b.png")
    Image.fromarray(synthetic.picture(64, 64)[..., 0]).save(folder / "grey.png")
    return sorted(folder.iterdir())


def rises(values: list[float]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def test_figures_are_those_of_the_files(rounding, pictures: list[Path], tmp_path: Path) -> None:
    levels = (2.0, 4.0)
    result = evaluate(LearnedCodec(rounding, "rounding", levels), pictures, folder=tmp_path / "out")
    assert [(m.picture, m.level) for m in result.measurements] == [
        (path.name, level) for path in pictures for level in levels
    ]
    for measured in result.measurements:
        file = tmp_path / "out" / f"rounding-q{measured.level:g}" / f"{measured.picture}.zoo"
        original = np.asarray(Image.open(pictures[0].parent / measured.picture))
        decoded = np.asarray(rounding.decode(file.read_bytes()))
        assert measured.bytes == file.stat().st_size
        assert measured.bpp == 8 * measured.bytes / (original.shape[0] * original.shape[1])
        assert measured.psnr == metrics.psnr(original, decoded)
        assert measured.ms_ssim == metrics.ms_ssim(original, decoded)
        assert measured.encode_seconds > 0 and measured.decode_seconds > 0


def test_the_file_on_disk_is_what_gets_decoded(rounding, pictures, tmp_path, monkeypatch) -> None:
    def spoil(path: Path, data: bytes) -> int:
        with open(path, "wb") as file:
            return file.write(rounding.encode(np.zeros_like(np.asarray(rounding.decode(data)))))

    monkeypatch.setattr(Path, "write_bytes", spoil)
    result = evaluate(LearnedCodec(rounding, "rounding", (4.0,)), pictures, folder=tmp_path)
    assert max(m.psnr for m in result.measurements) < 15


def test_averages_are_means_of_decibels_and_of_rates(rounding, pictures: list[Path]) -> None:
    result = evaluate(LearnedCodec(rounding, "rounding", (3.0, 5.0)), pictures)
    for point in result.points():
        same = [m for m in result.measurements if m.level == point.level]
        assert len(same) == 3
        assert point.bpp == pytest.approx(sum(m.bpp for m in same) / 3)
        assert point.psnr == pytest.approx(sum(m.psnr for m in same) / 3)
        assert point.ms_ssim == pytest.approx(sum(m.ms_ssim for m in same) / 3)
    curve = result.curve()
    assert rises(curve.bpp) and rises(curve.psnr) and rises(curve.ms_ssim)


def test_a_failing_picture_is_reported_and_counts_nowhere(rounding, pictures: list[Path]) -> None:
    Image.fromarray(synthetic.picture(13, 20)).save(pictures[0].with_name("unlucky.png"))
    pictures[0].with_name("no.png").write_bytes(b"not a picture")
    everything = sorted(pictures[0].parent.iterdir())
    result = evaluate(LearnedCodec(rounding, "rounding", (2.0, 3.0)), everything)
    assert [f.picture for f in result.failures] == ["no.png", "unlucky.png"]
    assert result.failures[1].reason == "13 columns are unlucky"
    assert {m.picture for m in result.measurements} == {"a.png", "b.png", "grey.png"}


def test_a_picture_that_fails_at_one_level_is_in_no_average(rounding, pictures, monkeypatch) -> None:
    encode = rounding.encode

    def fails_late(pixels: np.ndarray, *, quality: float) -> bytes:
        if quality == 4 and pixels.shape[1] == 90:
            raise MemoryError("too large")
        return encode(pixels, quality=quality)

    monkeypatch.setattr(rounding, "encode", fails_late)
    result = evaluate(LearnedCodec(rounding, "rounding", (3.0, 4.0)), pictures)
    assert result.failures[0].reason == "MemoryError: too large"
    assert {m.picture for m in result.measurements} == {"b.png", "grey.png"}


def test_equal_file_names_do_not_overwrite_each_other(rounding, pictures, tmp_path: Path) -> None:
    other = tmp_path / "other" / "a.png"
    other.parent.mkdir()
    Image.fromarray(synthetic.picture(30, 30)).save(other)
    folder = tmp_path / "out"
    result = evaluate(LearnedCodec(rounding, "rounding", (3.0,)), [pictures[0], other], folder=folder)
    assert [m.picture for m in result.measurements] == ["0000-a.png", "0001-a.png"]
    assert len(list(folder.rglob("*.zoo"))) == 2


@pytest.mark.parametrize("name", anchors.names())
def test_anchors_give_rising_curves(name: str, pictures: list[Path]) -> None:
    try:
        anchor = anchors.anchor(name)
    except UsageError as error:
        pytest.skip(str(error))
    result = evaluate(anchor, pictures[:2])
    assert not result.failures
    curve = result.curve()
    assert len(curve.bpp) == len(anchor.levels)
    assert rises(curve.bpp) and rises(curve.psnr)
    assert curve.psnr[-1] > 35 and curve.ms_ssim[-1] > 0.98


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_anchor_files_are_ordinary_files(name: str, pictures: list[Path], tmp_path: Path) -> None:
    result = evaluate(anchors.anchor(name), pictures, folder=tmp_path / "out")
    last = result.measurements[-1]
    file = tmp_path / "out" / f"{name}-q{last.level:g}" / f"{last.picture}{anchors.anchor(name).suffix}"
    with Image.open(file) as image:
        assert image.format.lower() == name
        assert metrics.psnr(np.asarray(Image.open(pictures[-1])), np.asarray(image.convert("L"))) == last.psnr


def test_jpeg_subsampling_is_what_the_name_says() -> None:
    picture = synthetic.picture(64, 64)
    components = {}
    for name in ("jpeg", "jpeg-420"):
        with Image.open(io.BytesIO(anchors.anchor(name).encode(picture, 50))) as image:
            components[name] = image.layer[0][1:3]
    assert components == {"jpeg": (1, 1), "jpeg-420": (2, 2)}


def test_unknown_and_unavailable_anchors(monkeypatch) -> None:
    with pytest.raises(UsageError, match="did you mean webp"):
        anchors.anchor("wepb")
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(UsageError, match="pip install pillow-jxl-plugin"):
        anchors.anchor("jxl")


@pytest.fixture
def report(rounding, pictures: list[Path]) -> Report:
    codec = evaluate(LearnedCodec(rounding, "rounding"), pictures)
    jpeg = evaluate(anchors.anchor("jpeg"), pictures)
    return Report([codec], [jpeg], [reference("jpeg"), reference("chwdta")], "zoo eval rounding pictures")


def test_json_holds_every_picture_and_strict_numbers(report: Report) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    data = json.loads(to_json(report), parse_constant=refuse)
    codec = data["codecs"][0]
    assert len(codec["images"]) == 18 and len(codec["points"]) == 6
    assert codec["version"] == "random weights"
    assert codec["images"][0]["psnr"] == report.codecs[0].measurements[0].psnr
    assert data["anchors"][0]["version"].startswith("Pillow ")
    assert data["command"] == report.command
    assert data["environment"]["torch"]
    compared = {(c["codec"], c["against"], c["metric"]) for c in data["bd_rate"]}
    assert ("rounding", "jpeg (here)", "psnr") in compared
    assert ("jpeg", "chwdta", "psnr") in compared
    assert ("rounding", "chwdta", "ms_ssim") not in compared
    assert ("jpeg", "jpeg (here)", "psnr") not in compared


def test_infinite_quality_is_null_in_json(pictures: list[Path]) -> None:
    class Lossless:
        name, title, version, suffix, levels, cost = "raw", "raw", "1", ".raw", (1.0,), None

        def encode(self, pixels: np.ndarray, level: float) -> bytes:
            buffer = io.BytesIO()
            np.save(buffer, pixels)
            return buffer.getvalue()

        def decode(self, data: bytes, grey: bool) -> np.ndarray:
            return np.load(io.BytesIO(data))

    result = evaluate(Lossless(), pictures)
    assert result.points()[0].psnr == math.inf
    data = json.loads(to_json(Report([result])))
    assert data["codecs"][0]["points"][0]["psnr"] is None
    assert data["codecs"][0]["points"][0]["ms_ssim"] == pytest.approx(1)
    assert "inf" in to_text(Report([result]))


def test_tables_show_what_was_measured(report: Report) -> None:
    text, markdown = to_text(report), to_text(report, markdown=True)
    point = report.codecs[0].points()[2]
    row = next(line for line in text.splitlines() if line.split()[:2] == ["rounding", "3"])
    assert row.split()[2:4] == [f"{point.bpp:.4f}", f"{point.psnr:.3f}"]
    value = next(c.result.value for c in report.comparisons("psnr") if c.against == "jpeg (here)")
    rates = next(line for line in markdown.splitlines() if line.startswith("| rounding | ") and "+" in line)
    assert f"{value:+.2f}" in rates
    assert "| codec | jpeg | chwdta | jpeg (here) |" in markdown
    assert "these pictures differ" in text
    assert report.command in text and f"`{report.command}`" in markdown


def test_cost_counts_the_products_of_each_part() -> None:
    found = cost(RoundingCodec.entry)
    assert found.parameters == 2 * 48 + 4 + 3 + 16 + 4 + 16 + 4
    assert 1000 * found.analysis == pytest.approx(12) and 1000 * found.synthesis == pytest.approx(12)
    assert 1000 * found.entropy_model == pytest.approx(8)
    assert 1000 * found.kmacs == pytest.approx(32)


def test_res_swinv2_costs_less_than_half_of_its_successor() -> None:
    """In the papers' sizes: at most 45 % of the products of an encoder, and 30 % of the parameters."""
    small, large = (cost(registry.find(name, "codec"), "paper") for name in ("res-swinv2", "s2lic"))
    encoders = [c.analysis + c.entropy_model for c in (small, large)]
    assert encoders[0] / encoders[1] == pytest.approx(0.386, abs=1e-3)
    assert small.parameters / large.parameters == pytest.approx(0.243, abs=1e-3)


def test_table_of_codecs_sets_cost_beside_gain(report: Report) -> None:
    text = to_text(report)
    value = next(c.result.value for c in report.comparisons("psnr") if c.against == "jpeg (here)")
    row = next(line for line in text.splitlines() if line.startswith("rounding") and " M " in line)
    assert row.split()[1:4] == ["0.00", "M", "0.0"]
    assert f"{value:+.2f}" in row.split()
    assert json.loads(to_json(report))["codecs"][0]["cost"]["kmacs"] == pytest.approx(0.032)
    assert json.loads(to_json(report))["anchors"][0]["cost"] is None


def test_kodak_is_recognised(report: Report) -> None:
    measured = report.codecs[0].measurements[0]
    kodak = [
        type(measured)(f"kodim{k:02}.png", 3.0, *size, 10_000, 0.2, 33.0, 0.97, 0.1, 0.1)
        for k, size in enumerate([(768, 512)] * 18 + [(512, 768)] * 6)
    ]
    evaluation = type(report.codecs[0])("rounding", "rounding", "1", tuple(kodak), (), None)
    assert not any("differ" in note for note in Report([evaluation], [], [reference("webp")]).notes())


def test_the_figure_is_drawn_and_needs_no_colour(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "rd.png"
    report.draw(path)
    grey = np.asarray(Image.open(path).convert("L"))
    assert grey.shape[0] > 500 and grey.shape[1] > 1000
    assert 0.005 < np.mean(grey < 128) < 0.3
    report.draw(tmp_path / "rd.svg")
    assert b"<svg" in (tmp_path / "rd.svg").read_bytes()


def test_curves_differ_in_marker_and_line(tmp_path: Path, monkeypatch) -> None:
    drawn = []
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.extend(self.axes))
    measured = [Curve(f"codec {k}", [0.1, 0.2], [30, 32], [0.9, 0.95]) for k in range(3)]
    figure.draw(measured[:2], measured[2:], [reference("chwdta"), reference("vtm-9.1")], tmp_path / "rd.png")
    for axes in drawn:
        looks = {(line.get_marker(), line.get_linestyle()) for line in axes.lines}
        assert len(looks) == len(axes.lines) == 5
        assert axes.get_xlim()[1] < 0.3
    assert drawn[0].lines[4].get_xdata()[0] == reference("vtm-9.1").bpp[0]
    assert len(drawn[1].lines[3].get_xdata()) == 0


def test_figure_errors_say_what_to_do(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match="rd.nonsense"):
        figure.draw([Curve("a", [0.1], [30])], [], [], tmp_path / "rd.nonsense")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"zoo-core\[plot\]"):
        figure.require(tmp_path / "rd.png")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,2,3..6", (1, 2, 3, 4, 5, 6)), ("3.4", (3.4,)), ("6,1", (1, 6)), ("2..3,2", (2, 3))],
)
def test_levels_are_read(text: str, expected: tuple[float, ...]) -> None:
    assert options.levels(text) == expected


@pytest.mark.parametrize("text", ["", "0", "7", "a", "1..9", "3..2", "1..", "nan"])
def test_wrong_levels_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.levels(text)


def test_eval_command(rounding, pictures: list[Path], tmp_path: Path, capsys) -> None:
    outputs = {name: tmp_path / name for name in ("out.json", "out.png", "files")}
    words = ["eval", "rounding", str(pictures[0].parent), "--levels", "2,4..5", "--against", "vtm-9.1,webp"]
    words += ["--anchors", "jpeg", "--json", str(outputs["out.json"]), "--plot", str(outputs["out.png"])]
    words += ["--save", str(outputs["files"])]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert "webp" in shown.out and "jpeg (here)" in shown.out
    assert "\x1b" not in shown.err
    data = json.loads(outputs["out.json"].read_text())
    assert [p["level"] for p in data["codecs"][0]["points"]] == [2, 4, 5]
    assert len(list(outputs["files"].rglob("*.zoo"))) == 9
    assert outputs["out.png"].stat().st_size > 10_000
    for option, path in zip(("--json", "--plot", "--save"), outputs.values(), strict=True):
        assert cli.main(["eval", "rounding-q2", str(pictures[0]), option, str(path)]) == 2
        assert "-f" in capsys.readouterr().err


def test_eval_goes_on_after_failures(rounding, pictures: list[Path], tmp_path: Path, capsys) -> None:
    pictures[0].with_name("no.png").write_bytes(b"not a picture")
    out = tmp_path / "out.json"
    assert cli.main(["eval", "--all", str(pictures[0].parent), "--levels", "3", "--json", str(out)]) == 1
    shown = capsys.readouterr()
    assert "no weights for missing" in shown.err and "no.png" in shown.err
    data = json.loads(out.read_text())
    assert [c["name"] for c in data["codecs"]] == ["rounding"]
    assert len(data["codecs"][0]["images"]) == 3


def test_eval_of_all_bundled_codecs(tmp_path: Path, capsys) -> None:
    """The command of docs/results.md, on one small picture at one level."""
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    words = ["--levels", "3", "--anchors", "jpeg,webp", "--against", "vtm-9.1,mbt2018-mean"]
    out = tmp_path / "out.json"
    assert cli.main(["eval", "--all", str(tmp_path / "a.png"), *words, "--json", str(out)]) == 0
    codecs = json.loads(out.read_text())["codecs"]
    bundled = {e.name for e in registry.entries() if e.kind == "codec" and "base" in e.weights}
    assert {codec["name"] for codec in codecs} == bundled and len(bundled) >= 10
    shown = capsys.readouterr().out
    for codec in codecs:
        assert codec["name"] in shown and codec["cost"]["parameters"] > 1_000_000
        assert 0 < codec["points"][0]["bpp"] < 24 and codec["points"][0]["psnr"] > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing", "{a}"], "no weights for missing"),
        (["rounding"], "at least one picture"),
        (["rounding", "-"], "at least one picture"),
        (["roundin", "{a}"], "did you mean 'rounding'"),
        (["rounding", "{a}.gone"], "gone"),
        (["rounding-q2", "{a}", "--levels", "3"], "names its level already"),
        (["rounding", "{a}", "--against", "vtm9.1"], "did you mean vtm-9.1"),
        (["rounding", "{a}", "--anchors", "wepb"], "did you mean webp"),
        (["--all", "{a}", "--weights", "w.safetensors"], "belongs to one method"),
    ],
)
def test_eval_refuses_in_one_line(rounding, pictures, capsys, words: list[str], message: str) -> None:
    assert cli.main(["eval", *(word.format(a=pictures[0]) for word in words)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1


def test_level_in_the_name_chooses_that_level(rounding, pictures, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.json"
    assert cli.main(["eval", "rounding-q2,rounding-q3.5", str(pictures[0]), "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert [p["level"] for c in data["codecs"] for p in c["points"]] == [2, 3.5]


class Sleeper:
    """Takes a known time and remembers the order of the calls."""

    load_seconds = 0.5

    def __init__(self, name: str, seconds: float, calls: list[str]) -> None:
        self.name, self.seconds, self.calls = name, seconds, calls

    def encode(self) -> benchmark.Timing:
        self.calls.append(self.name)
        return benchmark.Timing(self.seconds, {"coder": self.seconds / 4, "analysis": self.seconds / 2})

    def decode(self) -> benchmark.Timing:
        return benchmark.Timing(2 * self.seconds)


def test_contenders_take_turns_after_one_warm_up() -> None:
    calls: list[str] = []
    first, second = benchmark.run([Sleeper("a", 0.1, calls), Sleeper("b", 0.3, calls)], rounds=3)
    assert calls == ["a", "b"] * 4
    assert len(first.encode) == len(first.decode) == 3
    assert first.seconds("encode") == 0.1 and second.seconds("decode") == 0.6
    assert first.coder_share("encode") == 0.25 and first.coder_share("decode") is None
    assert benchmark.ratio_rows([first, second])[1][1] == ("b", "300.0", "3.00", "600.0", "3.00")
    stages = {row[0]: row[1:] for row in benchmark.stage_rows(first)[1]}
    assert stages["analysis"] == ("50.0", "-")
    assert stages["total"] == ("100.0", "200.0")
    assert stages["entropy coder's share"] == ("25.0%", "-")


def test_coded_symbols_are_counted_and_divided_by() -> None:
    timing = benchmark.Timing(0.1, {"coder": 0.02}, {"symbol": 100_000, "latent": 400_000})
    result = benchmark.Result("a", 0, (timing,), (benchmark.Timing(0.2, {"coder": 0.01}),))
    assert result.per_symbol("encode") == pytest.approx(200) and result.per_symbol("decode") == pytest.approx(
        100
    )
    _, (row,) = benchmark.coder_rows([result, benchmark.Result("peer", 0, (benchmark.Timing(1),), ())])
    assert row == ("a", "100,000", "75%", "200", "100", "20.0%", "5.0%")


def test_the_ratio_to_elic_is_that_of_decoding() -> None:
    def result(name: str, decode: float) -> benchmark.Result:
        return benchmark.Result(name, 0, (benchmark.Timing(1.0),), (benchmark.Timing(decode),))

    header, rows = benchmark.ratio_rows([result("ours", 0.2), result(benchmark.SLOW_PEER, 1.0)])
    assert header[-1] == "against ELIC" and [row[-1] for row in rows] == ["5.0 x", "1.0 x"]


def test_drawn_symbols_of_peers_come_again_in_order() -> None:
    class Conditional:
        def build_indexes(self, scales: torch.Tensor) -> torch.Tensor:
            return scales

        def quantize(self, inputs: torch.Tensor, mode: str, means: torch.Tensor | None = None) -> str:
            return "its own"

    conditional = Conditional()
    drawn = peers._DrawnSymbols(conditional)

    def walk() -> list[torch.Tensor]:
        drawn.restart()
        found = []
        for channels in (100, 50):
            found.append(conditional.build_indexes(torch.zeros(1, channels, 32, 48)))
            found.append(conditional.quantize(torch.zeros(1, channels, 32, 48), "symbols"))
        return found

    first, second = walk(), walk()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].median() == pytest.approx(0.05, rel=0.05)
    assert first[1].float().std() == pytest.approx(float(first[0].square().mean().sqrt()), rel=0.2)
    assert conditional.quantize(first[0], "dequantize") == "its own"


def test_coders_decode_what_they_encode_near_the_ideal(monkeypatch) -> None:
    monkeypatch.setattr(coders, "LATENTS", 20_000)
    results = coders.measure(1)
    assert {r.load for r in results} == {"photo", "dense"} and len({r.coder for r in results}) >= 5
    for result in results:
        assert min(result.encode_ns, result.decode_ns) > 0
        if "sorted" in result.coder or "zoo" in result.coder:
            assert -4 <= result.over_ideal <= 16
    monkeypatch.setattr(coders.Ans, "decode", lambda self, coded: self.load.position + 1)
    with pytest.raises(ZooError, match="did not decode what it encoded"):
        coders.measure(1)


def test_ways_through_a_folder_take_turns(monkeypatch) -> None:
    turns: list[str] = []

    class Way:
        def __init__(self, model: str, jobs: int, threads: int | None = None) -> None:
            self.title = f"{jobs} x {threads}"

        def encode(self, pictures: list[bytes]) -> list[bytes]:
            turns.append(self.title)
            return pictures

        def decode(self, coded: list[bytes]) -> None:
            time.sleep(0.01)

        def close(self) -> None: ...

    monkeypatch.setattr(throughput, "WorkersWay", Way)
    monkeypatch.setattr(throughput, "BatchWay", Way)
    results = throughput.measure("any-q3", [b"1", b"2"], threads=3, rounds=2)
    assert [r.title for r in results] == ["1 x 3", "2 x 1", "3 x 1", "4 x None", "8 x None"]
    assert turns == 3 * [r.title for r in results]
    assert all(0 < r.decode < 200 for r in results)
    assert throughput.rows(results)[1][0][2] == "1.00"


def test_a_way_through_a_folder_codes_real_pictures() -> None:
    """Nothing is replaced here: the worker process is prepared as the commands prepare theirs."""
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 48)).save(buffer, "png")
    results = throughput.measure("feds-q1", [buffer.getvalue()] * 2, threads=1, rounds=1)
    assert [r.title for r in results] == [
        "1 process, 1 thread",
        "batches of 4, 1 process",
        "batches of 8, 1 process",
    ]
    assert all(min(r.encode, r.decode) > 0 for r in results)


def test_bench_command(rounding, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(RoundingCodec, "weights", "trained")
    out = tmp_path / "bench.json"
    words = ["bench", "rounding", "--size", "64x48", "--rounds", "2", "--threads", "1", "--json", str(out)]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "entropy coding" in shown and "ns a coded symbol            200        200" in shown
    data = json.loads(out.read_text())
    assert data["picture"] == "picture-64x48.jpg" and data["environment"]["threads"] == 1
    (result,) = data["measured"]
    assert result["name"] == "rounding-q3" and len(result["encode"]) == 2
    assert result["encode"][0]["stages"] == {"image": 0.001, "coder": 0.002}
    assert cli.main(words) == 2
    assert "-f" in capsys.readouterr().err
    assert cli.main([*words[:-2], "--levels", "1,4..5"]) == 0
    assert "rounding-q1 " in (shown := capsys.readouterr().out) and shown.count("10,000") == 3


@pytest.mark.parametrize("words", ["--size 0x4", "--size big", "--megapixels -1", "--rounds 0"])
def test_bench_refuses_wrong_numbers(rounding, words: str, capsys) -> None:
    assert cli.main(["bench", "rounding", *words.split()]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_large_pictures_have_the_size_asked_for() -> None:
    width, height = bench_command._three_by_two(24)
    assert (width, height) == (6000, 4000)


def test_peak_memory_sees_an_allocation() -> None:
    memory.reset_peak()
    before = memory.peak()
    if before is None:
        pytest.skip("this system does not tell")
    block = np.ones(150 * 2**20, np.uint8)
    grown = memory.peak()
    assert grown - before > 100 * 2**20
    del block
    time.sleep(0.01)
    if Path("/proc/self/clear_refs").exists():
        memory.reset_peak()
        assert memory.peak() < grown - 100 * 2**20


def test_memory_probe_reports_a_failing_process(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="process of its own failed"):
        memory.measure_apart("encode", "no-such-method-q3", tmp_path / "none.jpg", tmp_path / "a", threads=1)


def test_memory_is_measured_both_ways(tmp_path: Path) -> None:
    photo, coded, decoded = (tmp_path / name for name in ("a.png", "a.zoo", "b.png"))
    Image.fromarray(synthetic.picture(64, 48)).save(photo)
    for direction, source, target in (("encode", photo, coded), ("decode", coded, decoded)):
        found = memory.measure(direction, "weconvene-q3", str(source), str(target))
        assert found["bytes"] == target.stat().st_size and found["seconds"] > 0
    assert Image.open(decoded).size == (64, 48)


def test_startup_times_whole_processes(monkeypatch, tmp_path: Path) -> None:
    timed = {
        "nothing": (sys.executable, "-S", "-c", "pass"),
        "sleep": (sys.executable, "-S", "-c", "import time; time.sleep(0.3)"),
    }
    monkeypatch.setattr(startup, "commands", lambda *_: timed)
    seconds = startup.measure("rounding-q3", tmp_path / "a.png", rounds=3, threads=1)
    assert list(seconds) == ["nothing", "sleep"]
    assert 0 < seconds["nothing"] < seconds["sleep"]
    assert 0.3 <= seconds["sleep"] < 3
    timed["sleep"] = (sys.executable, "-c", "raise SystemExit('no such file')")
    with pytest.raises(ZooError, match="failed: no such file"):
        startup.measure("rounding-q3", tmp_path / "a.png", rounds=1, threads=1)


@pytest.mark.parametrize("command", ["eval", "bench"])
def test_help_needs_no_heavy_import(command: str) -> None:
    code = (
        "import sys; from zoo_core.cli import main; code = main([sys.argv[1], '--help']);"
        "heavy = {'torch', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules); sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True)
    assert done.returncode == 0 and f"zoo {command}" in done.stdout


def test_the_drawn_picture_is_smooth_and_the_same_everywhere() -> None:
    picture = synthetic.picture(96, 64)
    assert picture.shape == (64, 96, 3) and picture.dtype == np.uint8
    assert picture.std() > 20
    assert np.abs(np.diff(synthetic.picture(768, 512).astype(int), axis=1)).mean() < 8
    assert np.array_equal(picture, synthetic.picture(96, 64))
