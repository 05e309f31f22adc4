"""Training: it learns, it can be stopped anywhere without a trace, and what it exports is what it measured."""

from __future__ import annotations

import json
import logging
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from zoo_core import cli, registry
from zoo_core.cli import exits
from zoo_core.constants import LAMBDAS
from zoo_core.entropy.tables import TOTAL
from zoo_core.errors import UsageError, WrongWeightsError
from zoo_core.model import CodecModel, bits_per_pixel, read_latents, write_latents
from zoo_core.testing.pictures import picture
from zoo_core.training import checkpoint, session
from zoo_core.training.data import RandomCrops, load_photos
from zoo_core.training.export import export
from zoo_core.training.initial import initialise
from zoo_core.training.loop import Trainer, read_log
from zoo_core.training.loss import LevelBalance, lambda_of, rate_distortion
from zoo_core.training.objective import TRANSFORM_RATE, Objective, Terms
from zoo_core.training.recipe import Recipe, RunConfig
from zoo_core.training.validate import validate
from zoo_core.weights import WeightsFile, digest, read_tensors

SETTINGS = {
    "stages": [[12, 1], [48, 1]],
    "top": 16,
    "latent": 16,
    "hyper": 8,
    "hyper_latent": 8,
    "params": 8,
    "slices": [2, 2],
    "attention": 8,
    "context": [8, 8],
}
"""WeConvene's base preset, small enough for a test."""

CONFIG = RunConfig("weconvene", settings=SETTINGS)
RECIPE = Recipe(steps=6, batch=6, crop=64, learning_rate=2e-3, warmup=2, bf16=False)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    return [torch.from_numpy(picture(130, 97, seed)).permute(2, 0, 1).contiguous() for seed in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos as files."""
    path = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        Image.fromarray(picture(130, 97, seed)).save(path / f"{seed}.png")
    return path


def small_model(seed: int = 0) -> CodecModel:
    torch.manual_seed(seed)
    return CONFIG.build()


def trainer(photos: list[Tensor], folder: Path, recipe: Recipe = RECIPE) -> Trainer:
    model = small_model(recipe.seed)
    return Trainer(model, RandomCrops(photos, recipe.crop, recipe.jitter, recipe.seed), recipe, folder)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- learning ---------------------------------------------------------------------------------------


def test_loss_falls(photos: list[Tensor], tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, Recipe(steps=30, batch=6, crop=64, learning_rate=2e-3, warmup=3))
    losses = [float(run.train_step()[1].log().mean()) for _ in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - math.log(1.5)


def test_average_follows_the_weights(photos: list[Tensor], tmp_path: Path) -> None:
    run = trainer(photos, tmp_path)
    first = [p.detach().clone() for p in run.model.parameters()]
    run.train_step()
    decay = 1 / 10  # of the first step
    for start, now, average in zip(first, run.model.parameters(), run.average, strict=True):
        torch.testing.assert_close(average, decay * start + (1 - decay) * now)


def test_learning_rate(photos: list[Tensor], tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, Recipe(steps=100, warmup=10, learning_rate=1e-3))
    rates = []
    for run.step in range(101):
        rates.append(run.learning_rate())
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(5e-4)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_a_run_by_the_clock(photos: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate and objective follow the time spent training, a pause between two sittings left out."""
    clock = [0.0]
    monkeypatch.setattr("zoo_core.training.loop.time.monotonic", lambda: clock[0])
    seen: list[tuple[float, float]] = []

    def step(self: Trainer) -> tuple[Tensor, ...]:
        seen.append((self.progress, self.learning_rate()))
        self.step += 1
        clock[0] += 15.0
        return torch.ones(1), *(torch.zeros(1) for _ in range(3))

    monkeypatch.setattr(Trainer, "train_step", step)
    recipe = Recipe(steps=3, minutes=2, batch=1, crop=64, warmup=0, learning_rate=1e-3, bf16=False)
    run = trainer(photos, tmp_path, recipe)
    run.run(progress=lambda step, rate: run.stop() if step == 4 else None)
    assert run.progress == 0.5 and not run.done
    clock[0] += 1000
    again = trainer(photos, tmp_path, recipe)
    assert again.resume()
    again.run()
    assert again.done and [progress for progress, _ in seen] == [n / 8 for n in range(8)]
    assert [seen[n][1] for n in (0, 4)] == [pytest.approx(1e-3), pytest.approx(5e-4)]


def test_warm_up_by_the_clock(photos: list[Tensor], tmp_path: Path) -> None:
    """However few steps fit into the time, the rate rises without a jump and ends at zero."""
    recipe = Recipe(minutes=1, warmup=200, learning_rate=1e-3)
    run = trainer(photos, tmp_path, recipe)
    rates = []
    for run.step in range(61):
        run.seconds = float(run.step)
        rates.append(run.learning_rate())
    assert rates[0] == pytest.approx(5e-6) and rates[60] == pytest.approx(0, abs=1e-12)
    assert max(rates) == rates[6] and rates[6] > 9.5e-4  # a tenth of the time
    assert rates[:7] == sorted(rates[:7]) and rates[6:] == sorted(rates[6:], reverse=True)


def test_a_run_of_nothing_but_warm_up(photos: list[Tensor], tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, Recipe(steps=1, batch=1, crop=64, warmup=1, bf16=False))
    run.run()
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1]


# --- loss and levels --------------------------------------------------------------------------------


def test_every_level_equally_often(photos: list[Tensor], tmp_path: Path) -> None:
    run = trainer(photos, tmp_path, Recipe(batch=12))
    drawn = [run._levels() for _ in range(20)]
    assert all(sorted(levels.tolist()) == sorted([1, 2, 3, 4, 5, 6] * 2) for levels in drawn)
    assert len({int(levels[0]) for levels in drawn}) > 2  # which crop gets which level is random
    single = trainer(photos, tmp_path, Recipe(batch=3, level=2.0))
    assert single._levels().tolist() == [2, 2, 2]


def test_balance_gives_every_level_the_same_weight() -> None:
    balance = LevelBalance(6)
    level, size = torch.arange(1.0, 7), torch.tensor([0.2, 0.5, 1, 2, 4, 80])
    for _ in range(2000):
        balance(3 * size + 0.28, size, level)
    loss = size.clone().requires_grad_()
    balance(loss, size, level).backward()
    torch.testing.assert_close(loss.grad * size, torch.full((6,), 1 / 6), rtol=1e-3, atol=0)


def test_a_broken_batch_leaves_the_weights_alone(photos, tmp_path) -> None:
    run = trainer(photos, tmp_path, Recipe(batch=2))
    before = [p.detach().clone() for p in run.parameters]
    run.crops.batch = lambda count: torch.full((count, 3, 64, 64), float("nan"))
    run.train_step()
    assert all(torch.equal(a, b) for a, b in zip(before, run.parameters, strict=True))
    run.crops.batch = lambda count: torch.rand(count, 3, 64, 64)
    run.train_step()
    assert not all(torch.equal(a, b) for a, b in zip(before, run.parameters, strict=True))


def test_lambda_is_geometric_between_levels() -> None:
    found = lambda_of(torch.tensor([1.0, 3.0, 3.5, 6.0]))
    wanted = [LAMBDAS[0], LAMBDAS[2], math.sqrt(LAMBDAS[2] * LAMBDAS[3]), LAMBDAS[5]]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_loss_is_compressais() -> None:
    x = torch.zeros(1, 3, 4, 4)
    out = {"x_hat": x + 0.1, "likelihoods": {"y": torch.full((1, 2, 2, 2), 0.25)}}
    loss, bpp, mse = rate_distortion(x, out, torch.tensor([2.0]))
    assert float(bpp) == pytest.approx(8 * 2 / 16)
    assert float(loss) == pytest.approx(1 + LAMBDAS[1] * 255**2 * 0.01, rel=1e-5)


# --- photos -----------------------------------------------------------------------------------------


def test_crops_depend_on_the_seed_alone(photos: list[Tensor]) -> None:
    a, b, other = (RandomCrops(photos, 48, seed=seed) for seed in (5, 5, 6))
    first = a.batch(4)
    assert first.shape == (4, 3, 48, 48) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, b.batch(4)) and torch.equal(a.batch(4), b.batch(4))
    assert not torch.equal(first, other.batch(4))


def test_crops_without_jitter_are_cut_from_the_photo() -> None:
    """Channels that hold the row and the column show what happened to a crop."""
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    photo = torch.stack([row, column, row]).to(torch.uint8)
    crops = RandomCrops([photo], 16, jitter=1.0, seed=1).batch(40).mul(255).round()
    seen = set()
    for crop in crops[:, :2]:
        down, right = (crop.diff(dim=dim).flatten(1).unique(dim=1) for dim in (1, 2))
        assert down.shape == right.shape == (2, 1)  # each channel has one slope
        seen.add((*down[:, 0].tolist(), *right[:, 0].tolist()))  # of row and column, down and to the right
    upright, mirrored = (1, 0, 0, 1), (1, 0, 0, -1)
    assert {upright, mirrored} < seen <= {upright, mirrored, (0, 1, 1, 0), (0, -1, 1, 0)}


def test_photos_are_read_and_broken_ones_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "deep").mkdir()
    Image.fromarray(picture(80, 70)).save(tmp_path / "deep" / "a.PNG")
    Image.fromarray(picture(80, 63)).save(tmp_path / "small.png")
    Image.fromarray(picture(90, 64)[:, :, 0]).save(tmp_path / "grey.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    found = load_photos(tmp_path)
    assert [tuple(photo.shape) for photo in found] == [(3, 70, 80), (3, 64, 90)]
    assert np.array_equal(found[0].permute(1, 2, 0).numpy(), picture(80, 70))
    assert "broken.jpg" in caplog.text
    with pytest.raises(UsageError, match="no photos"):
        load_photos(tmp_path / "nowhere")


# --- stopping and going on --------------------------------------------------------------------------


def stop(run: Trainer) -> None:
    """As SIGINT does: the step ends and is saved."""

    def progress(step: int, rate: float) -> None:
        if step == 3:
            run.stop()

    run.run(progress=progress, report_every=1)


def kill(run: Trainer) -> None:
    """A crash two steps after the last checkpoint, in the middle of a log record."""

    class Crash(Exception):
        pass

    def progress(step: int, rate: float) -> None:
        if step == 3:
            run.save()
        if step == 5:
            raise Crash

    with pytest.raises(Crash):
        run.run(progress=progress, report_every=1)
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lr"')


@pytest.mark.parametrize("end", [stop, kill])
def test_resuming_leaves_no_trace(
    end: Callable[[Trainer], None], photos: list[Tensor], tmp_path: Path
) -> None:
    whole = trainer(photos, tmp_path / "whole")
    whole.run(report_every=1)

    end(trainer(photos, tmp_path / "parts"))
    torch.manual_seed(99)
    again = trainer(photos, tmp_path / "parts")
    assert again.resume() and again.step == 3
    again.run(report_every=1)

    assert equal(whole.model.state_dict(), again.model.state_dict())
    assert equal(whole.average_state(), again.average_state())
    a, b = (read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts"))
    assert [r | {"crops_per_s": 0} for r in a] == [r | {"crops_per_s": 0} for r in b] and len(a) == 6


def test_nothing_to_resume(photos: list[Tensor], tmp_path: Path) -> None:
    assert not trainer(photos, tmp_path).resume()


def test_damaged_checkpoint(photos: list[Tensor], tmp_path: Path) -> None:
    run = trainer(photos, tmp_path)
    run.save()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match="damaged"):
        run.resume()


class Shade(Objective):
    """Gives each crop a random number, and notes what its step was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[float, ...]] = []
        self.photos: list[list[Tensor]] = []

    def conditions(self, x: Tensor, photos: Sequence[Tensor]) -> dict[str, Tensor]:
        self.photos.append(list(photos))
        return {"shade": torch.rand(len(x))}

    def forward(self, model: CodecModel, x: Tensor, level: Tensor, **conditions: Tensor) -> Terms:
        self.given.append(tuple(conditions.pop("shade").tolist()))
        return super().forward(model, x, level, **conditions)


def test_an_objective_supplies_side_inputs(photos: list[Tensor], tmp_path: Path) -> None:
    """Every crop has its own, known photos beside it, and a resumed run draws the same ones."""

    def shaded(name: str) -> Trainer:
        crops = RandomCrops(photos, RECIPE.crop, RECIPE.jitter, RECIPE.seed)
        return Trainer(small_model(), crops, RECIPE, tmp_path / name, objective=Shade())

    whole, parts = shaded("whole"), shaded("parts")
    for run in (whole, parts):
        torch.manual_seed(5)
        run.run() if run is whole else stop(run)
    torch.manual_seed(99)
    again = shaded("parts")
    assert again.resume()
    again.run()
    assert whole.objective.given == parts.objective.given + again.objective.given
    assert len(set(whole.objective.given[0])) == RECIPE.batch
    cut_from = whole.objective.photos[0]
    assert len(cut_from) == RECIPE.batch and all(any(a is b for b in photos) for a in cut_from)


class Halves(Objective):
    """Two phases."""

    def begin(self, model: CodecModel, progress: float) -> bool:
        return progress == 0.5


def test_a_new_phase_starts_with_a_fresh_optimiser(photos: list[Tensor], tmp_path: Path) -> None:
    crops = RandomCrops(photos, RECIPE.crop, RECIPE.jitter, RECIPE.seed)
    run = Trainer(small_model(), crops, RECIPE, tmp_path, objective=Halves())
    seen = []
    for _ in range(RECIPE.steps):
        run.train_step()
        seen.append(int(run.optimizer.state[run.parameters[0]]["step"]))
    assert seen == [1, 2, 3, 1, 2, 3]


def test_side_inputs_reach_the_transform(photos: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = small_model(), []
    plain = model.transform.analysis
    monkeypatch.setattr(model.transform, "analysis", lambda x, shade: found.append(shade) or plain(x))
    x = photos[0][None, :, :64, :64].float() / 255
    Objective()(model, x, torch.tensor([2.0]), shade=0.5)
    assert found == [0.5]


# --- export and validation --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(photos: list[Tensor], tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    run = trainer(photos, tmp_path_factory.mktemp("trained"))
    run.run()
    return run


def test_export_loads_back(trained: Trainer, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    sha256 = export(trained.model, trained.average_state(), path)
    assert sha256 == digest(path) == export(trained.model, trained.average_state(), tmp_path / "again")
    assert equal(before, trained.model.state_dict())

    tensors = read_tensors(WeightsFile(path, sha256))
    for name, tensor in trained.average_state().items():
        if tensor.is_floating_point():
            assert torch.equal(tensors[name], tensor.half())
    frequencies = tensors["entropy_model.prior.frequencies"]
    assert frequencies.dtype == torch.int32 and (frequencies.sum(-1) == TOTAL).all()

    model = small_model(seed=1)
    model.load_state_dict(tensors)
    model.update()  # the tables are those of the weights in the file, not of the weights before rounding
    assert torch.equal(model.entropy_model.prior.frequencies, frequencies)


def test_exported_weights_code(trained: Trainer, photos: list[Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    sha256 = export(trained.model, trained.average_state(), path)
    model = small_model(seed=1)
    model.load_state_dict(read_tensors(WeightsFile(path, sha256)))
    model.prepare()
    latents = model.transform.analysis(photos[0][None, :, :64, :64].float() / 255)
    payload, calibration, known = write_latents(model, latents, 4.0)
    assert torch.equal(read_latents(model, payload, calibration, (64, 64), 4.0)[0], known[0])


def test_export_refuses_infinite_weights(trained: Trainer, tmp_path: Path) -> None:
    state = trained.average_state()
    name = next(iter(state))
    state[name] = torch.full_like(state[name], 1e6)  # beyond half precision
    with pytest.raises(WrongWeightsError, match="infinity"):
        export(trained.model, state, tmp_path / "weights.safetensors")
    assert not (tmp_path / "weights.safetensors").exists()


def test_validation_measures_whole_photos(photos: list[Tensor]) -> None:
    model = small_model()
    figures = validate(model, photos[:1], [2.0, 3.5])
    assert list(figures) == ["q2", "q3.5"]
    x = photos[0][None, :, 16:80, 1:129].float() / 255  # the middle of 97x130
    with torch.inference_mode():
        out = model(x, torch.tensor([3.5]))
    error = (out["x_hat"].clamp(0, 1) * 255).round() - x * 255
    psnr = 10 * math.log10(255**2 / float(error.square().mean()))
    assert figures["q3.5"]["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert figures["q3.5"]["bpp"] == pytest.approx(float(bits_per_pixel(out["likelihoods"], 64 * 128)))
    both = validate(model, photos[:2], [2.0])["q2"]
    second = validate(model, photos[1:2], [2.0])["q2"]
    assert both["psnr"] == pytest.approx((figures["q2"]["psnr"] + second["psnr"]) / 2)
    with pytest.raises(UsageError, match="too small"):
        validate(model, [photos[0][:, :60]], [2.0])


# --- where it starts --------------------------------------------------------------------------------


def test_start_of_the_method(photos: list[Tensor]) -> None:
    """WeConvene's start is transform coding at once; random weights are far from it."""
    quality = {}
    for init in ("none", "block", None):
        model = small_model()
        initialise(model, registry.find("weconvene", "codec"), photos, init)
        x = photos[0][None, :, :64, :64].float() / 255
        with torch.inference_mode():
            x_hat = model.transform.synthesis(model.transform.analysis(x))
        quality[init] = -10 * math.log10(float((x_hat - x).square().mean()))
    assert quality["block"] == quality[None] > 25 > quality["none"] + 10


def test_start_that_does_not_fit(photos: list[Tensor], caplog: pytest.LogCaptureFixture) -> None:
    entry = registry.find("weconvene", "codec")
    plain = RunConfig("weconvene", settings={**SETTINGS, "weconv": False}).build()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    with pytest.raises(UsageError, match="block-transform"):
        initialise(plain, entry, photos, "block")
    initialise(plain, entry, photos, None)
    assert "starts from random weights" in caplog.text
    assert equal(before, plain.state_dict())


class Foreign(Objective):
    """A plugin's own, which does not take the rate of the transforms."""

    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("weconv", "init", "given", "expected"),
    [
        (True, None, {}, TRANSFORM_RATE),
        (True, "none", {}, 1.0),
        (False, None, {}, 1.0),  # its start does not fit, so the weights are random
        (True, "none", {"transform_rate": 0.5}, 0.5),
    ],
)
def test_random_weights_learn_at_the_full_rate(
    folder: Path, tmp_path: Path, weconv: bool, init: str | None, given: dict[str, float], expected: float
) -> None:
    config = RunConfig(
        "weconvene",
        settings={**SETTINGS, "weconv": weconv},
        init=init,
        objective=given,
        data=str(folder),
        recipe=Recipe(steps=1, batch=1, crop=64),
    )
    trainer = session.begin(config, tmp_path / "run", "cpu", print)
    assert trainer.objective.transform_rate == expected
    trainer.save()
    again = session.resume(RunConfig.read(tmp_path / "run", "weconvene"), tmp_path / "run", "cpu", print)
    assert again.objective.transform_rate == expected


def test_foreign_objectives_learn_at_the_full_rate_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_weconvene.model.objective", lambda model: Foreign(), raising=False)
    recipe = Recipe(steps=1, batch=1, crop=64)
    config = RunConfig("weconvene", settings=SETTINGS, init="none", data=str(folder), recipe=recipe)
    assert session.begin(config, tmp_path / "run", "cpu", print).objective.transform_rate == 1.0


# --- the command ------------------------------------------------------------------------------------


def zoo_train(*words: object) -> int:
    return cli.main(["train", "weconvene", *(str(word) for word in words)])


def options(folder: Path, run: Path) -> list[object]:
    """A complete command line for a short run."""
    settings = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    recipe = ["--steps", 5, "--batch", 2, "--crop", 64, "--lr", 1e-3, "--seed", 3, "--threads", 1]
    recipe += ["--precision", "fp32"]  # by a measurement, two runs that are compared could choose differently
    return ["--data", folder, "--out", run, *recipe, "--set", *settings]


def test_interrupted_command(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert zoo_train(*options(folder, tmp_path / "whole"), "--val", folder) == exits.OK
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert json.loads(capsys.readouterr().out) == summary
    assert summary["weights"]["sha256"] == digest(tmp_path / "whole" / "weights.safetensors")
    assert list(summary["validation"]) == [f"q{n}" for n in range(1, 7)] and summary["photos"] == 3
    assert Image.open(tmp_path / "whole" / "curve.png").width > 500

    step = Trainer.train_step

    def interrupted(self: Trainer) -> tuple:
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    parts = tmp_path / "parts"
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert zoo_train(*options(folder, parts)) == exits.INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoint.read(parts)["step"] == 2 and not (parts / "weights.safetensors").exists()
    assert zoo_train("--out", parts, "--export") == exits.OK
    assert json.loads((parts / "summary.json").read_text())["step"] == 2
    assert zoo_train("--out", parts, "--resume", "--threads", 1) == exits.OK
    assert digest(parts / "weights.safetensors") == summary["weights"]["sha256"]


def test_command_by_the_clock(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [str(word) for word in options(folder, tmp_path)]
    place = words.index("--steps")
    assert zoo_train(*words[:place], "--minutes", 0.01, *words[place + 2 :]) == exits.OK
    summary = json.loads(capsys.readouterr().out)
    assert summary["step"] == summary["steps"] >= 1
    for wrong in ("0", "-1", "nan", "inf", "soon"):
        assert zoo_train("--data", folder, "--out", tmp_path / "other", "--minutes", wrong) == exits.UNUSABLE


def test_killed_before_the_first_checkpoint(folder: Path, tmp_path: Path) -> None:
    assert zoo_train(*options(folder, tmp_path)) == exits.OK
    whole = digest(tmp_path / "weights.safetensors")
    for name in ("checkpoint.pt", "weights.safetensors"):
        (tmp_path / name).unlink()
    assert zoo_train("--out", tmp_path, "--resume") == exits.OK
    assert digest(tmp_path / "weights.safetensors") == whole
    assert len(read_log(tmp_path / "log.jsonl")) == 1


def test_init_from_a_file(
    trained: Trainer, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "start.safetensors"
    export(trained.model, trained.average_state(), path)
    model = small_model(seed=1)
    initialise(model, registry.find("weconvene", "codec"), [], str(path))
    for name, value in trained.average_state().items():
        if value.is_floating_point():
            assert torch.equal(model.state_dict()[name], value.half().float())
    words = ["--data", folder, "--out", tmp_path / "run", "--init", path]
    assert zoo_train(*words) == exits.UNUSABLE  # of another size than the preset
    assert "does not fit" in caplog.text and not (tmp_path / "run").exists()


def test_averages_of_shared_parameters_have_all_their_names() -> None:
    layer = nn.Linear(2, 1, bias=False)
    model = nn.ModuleDict({"one": layer, "own": nn.Linear(1, 1, bias=False), "other": layer})
    average = [torch.full_like(p, 7 + place) for place, p in enumerate(model.parameters())]
    state = checkpoint.averaged(model, model.state_dict(), average)
    assert {name: tensor.unique().tolist() for name, tensor in state.items()} == {
        "one.weight": [7.0],
        "own.weight": [8.0],
        "other.weight": [7.0],
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--data", "{photos}", "--preset", "paper"], "single rate"),
        (["--data", "{photos}", "--crop", "100"], "multiple of 64"),
        (["--data", "{photos}", "--set", "colour=3"], "cannot be built with colour=3"),
        (["--data", "{photos}", "--set", "hyper=0.5"], "cannot be built with hyper=0.5"),
        (["--data", "{photos}", "--set", "weconv=off"], "'off' is neither true nor false"),
        (["--data", "{photos}", "--device", "abacus"], "abacus"),
        (["--data", "{photos}", "--init", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--data", "nowhere"], "no photos"),
        ([], "--data"),
        (["--resume"], "config.json"),
        (["--export"], "config.json"),
    ],
)
def test_what_cannot_be_trained(
    words: list[str], reason: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    words = [word.format(photos=folder) for word in words]
    if "paper" in words:  # of its 107 million parameters a few will do
        words += ["--set", "latent=20", "hyper_latent=8", "hyper=8", "attention=8", "context=[8, 8]"]
        words += ["params=8", "stem=[8, 1]", "stages=[[8, 1], [8, 1]]", "top=8"]
    assert zoo_train("--out", run, *words) == exits.UNUSABLE
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and reason in errors[0].getMessage()
    assert not run.exists()


@pytest.mark.parametrize("pays", [False, True])
def test_the_precision_is_measured_unless_it_is_named(
    pays: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_core.device.bf16_pays", lambda device: pays)
    config = RunConfig("weconvene", settings=SETTINGS, data=str(folder), recipe=RECIPE)
    found = {
        precision: session.begin(config, tmp_path / precision, "cpu", print, precision).recipe.bf16
        for precision in ("auto", "fp32", "bf16")
    }
    assert found == {"auto": pays, "fp32": False, "bf16": True}
    assert RunConfig.read(tmp_path / "bf16", "weconvene").recipe.bf16


def test_a_run_keeps_its_recipe(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = RunConfig("weconvene", settings=SETTINGS, data=str(folder), recipe=RECIPE)
    config.write(tmp_path)
    assert RunConfig.read(tmp_path, "weconvene") == config
    assert zoo_train("--out", tmp_path, "--data", folder) == exits.UNUSABLE
    assert zoo_train("--out", tmp_path, "--resume", "--batch", 7) == exits.UNUSABLE
    assert zoo_train("--out", tmp_path, "--resume", "--precision", "bf16") == exits.UNUSABLE
    assert "bf16 = False, not True" in caplog.messages[2]
    assert "--resume" in caplog.messages[0] and "batch = 6, not 7" in caplog.messages[1]
    with pytest.raises(UsageError, match="trains 'weconvene'"):
        RunConfig.read(tmp_path, "selic")
