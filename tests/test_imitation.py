"""Imitation: a student is cut where its teacher has the same features, copies what it can, and learns the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_training import SETTINGS as SMALL
from torch import Tensor

from zoo_core import cli
from zoo_core.cli import exits
from zoo_core.errors import UsageError
from zoo_core.model import CodecModel
from zoo_core.testing.pictures import picture
from zoo_core.training.data import RandomCrops
from zoo_core.training.imitation import Imitation
from zoo_core.training.loop import Trainer
from zoo_core.training.recipe import Recipe, RunConfig

TEACHER = RunConfig("weconvene", settings=SMALL)
STUDENT = replace(TEACHER, settings={**SMALL, "weconv": False})
"""Without wavelets the blocks that halve and double are others; all else can be copied."""


pytestmark = pytest.mark.usefixtures("one_thread")


def built(config: RunConfig, seed: int) -> CodecModel:
    torch.manual_seed(seed)
    return config.build()


def crops(count: int = 2) -> Tensor:
    parts = [torch.from_numpy(picture(128, 128, seed)).permute(2, 0, 1) for seed in range(count)]
    return torch.stack(parts) / 255


def run(config: RunConfig, folder: Path, steps: int) -> tuple[Trainer, Imitation, list[float]]:
    """A run of a few steps, and by how much its pictures and features differ from the teacher's."""
    student = built(config, 1)
    objective = Imitation(student, built(TEACHER, 0))
    recipe = Recipe(steps=steps, batch=4, crop=64, learning_rate=2e-3, warmup=2, bf16=False)
    photos = [torch.from_numpy(picture(130, 97, seed)).permute(2, 0, 1).contiguous() for seed in range(3)]
    trainer = Trainer(student, RandomCrops(photos, 64, 0.6, 0), recipe, folder, objective=objective)
    losses = []
    for _ in range(steps):
        _, loss, bpp, _ = trainer.train_step()
        losses.append(float((loss - bpp).mean()) - 1)  # 1 is the error of the teacher's own picture
    return trainer, objective, losses


def test_a_twin_copies_all_and_has_nothing_to_learn() -> None:
    twin, teacher = built(TEACHER, 1), built(TEACHER, 0)
    objective = Imitation(twin, teacher)
    for name, parameter in twin.transform.named_parameters():
        assert torch.equal(parameter, teacher.transform.state_dict()[name])
        assert not parameter.requires_grad
    level = torch.tensor([2.0, 5.0])
    for objective.together in (False, True):
        loss, bpp, _ = objective(twin, crops(), level)
        # No error of any part, and for the picture the teacher's own.
        torch.testing.assert_close(loss - bpp, torch.ones(2))


def test_parts_learn_and_copies_stay(tmp_path: Path) -> None:
    trainer, objective, losses = run(STUDENT, tmp_path, 40)
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    state, theirs = trainer.model.state_dict(), objective.teacher.state_dict()
    kept = [name for name, p in trainer.model.transform.named_parameters() if not p.requires_grad]
    # The convolution to y, the blocks behind y_hat that change no size, and the convolution to the picture.
    assert {name[: len("g_a.4")] for name in kept} == {"g_a.4", "g_s.0", "g_s.1", "g_s.6"}
    assert all(torch.equal(state[f"transform.{name}"], theirs[f"transform.{name}"]) for name in kept)


def test_the_second_half_works_on_its_own_features() -> None:
    objective = Imitation(built(STUDENT, 1), built(TEACHER, 0))
    fine, _ = objective._features(crops(), torch.tensor([2.0, 5.0]))
    first, second, *_ = objective._parts[0]
    for objective.together, given in ((False, fine[1]), (True, first.mine(fine[0]))):
        torch.testing.assert_close(objective._outputs(objective._parts[0], fine)[1], second.mine(given))
    assert not torch.allclose(second.mine(fine[1]), second.mine(given))


def test_a_checkpoint_knows_which_parts_learn() -> None:
    """A twin stays as it is, also when it goes on with weights that are not the teacher's."""
    twin = Imitation(built(TEACHER, 1), built(TEACHER, 0))
    student = built(STUDENT, 1)
    other = Imitation(student, built(TEACHER, 0))
    before = {name: p.requires_grad for name, p in student.transform.named_parameters()}
    state = other.state_dict()
    student.requires_grad_(True)
    other.load_state_dict(state)
    assert before == {name: p.requires_grad for name, p in student.transform.named_parameters()}
    assert set(before.values()) == {False, True} and not any(twin.get_extra_state())


@pytest.mark.parametrize("together", [False, True])
def test_no_gradient_crosses_a_border(together: bool) -> None:
    student = built(STUDENT, 1)
    objective = Imitation(student, built(TEACHER, 0))
    objective.together = together
    fine, _ = objective._features(crops(), torch.tensor([2.0, 5.0]))
    analysis = objective._parts[0]
    objective._outputs(analysis, fine)[1].sum().backward()
    learning = {id(p) for p in student.parameters() if p.grad is not None}
    assert learning and learning <= {id(p) for p in analysis[1].mine.parameters()}


def test_parts_end_where_the_features_agree() -> None:
    """Res-SwinV2 and S2LIC share the widths at every size; FEDS has no layer at full size."""
    swin, other = (RunConfig(name).build() for name in ("res-swinv2", "s2lic"))
    analysis, synthesis = Imitation(swin, other)._parts
    assert [len(part.mine) for part in analysis] == [1, 2, 2, 2, 1]
    assert [len(part.theirs) for part in synthesis] == [2, 2, 2, 2]


def test_no_part_without_parameters() -> None:
    """Without enhancement there is nothing at full size that could learn."""
    plain, other = RunConfig("res-swinv2", settings={"enhance": "none"}).build(), RunConfig("s2lic").build()
    analysis, _ = Imitation(plain, other)._parts
    assert [len(part.theirs) for part in analysis] == [3, 2, 2, 1]


def test_other_latents() -> None:
    with pytest.raises(UsageError, match="latents .* differ"):
        Imitation(built(STUDENT, 0), RunConfig("weconvene").build())


def test_no_chain() -> None:
    octave = RunConfig("octave").build()
    with pytest.raises(UsageError, match="no chain of layers"):
        Imitation(octave, octave)


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    for seed in range(2):
        Image.fromarray(picture(130, 97, seed)).save(path / f"{seed}.png")
    return path


def test_command(folder: Path, tmp_path: Path) -> None:
    """A start from the published weights of another method, and a run from that start."""
    out = tmp_path / "start"
    command = ["train", "res-swinv2", "--data", str(folder), "--batch", "2", "--crop", "64", "--steps", "2"]
    assert cli.main([*command, "--like", "s2lic", "--out", str(out)]) == exits.OK
    assert json.loads((out / "config.json").read_text())["like"] == "s2lic"
    assert cli.main([*command, "--like", "s2lic", "--out", str(out), "--resume"]) == exits.OK
    start = str(out / "weights.safetensors")
    assert cli.main([*command, "--init", start, "--out", str(tmp_path / "run")]) == exits.OK


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("res-swinv2", ["--like", "s2lick"], "s2lic"),
        ("res-swinv2", ["--like", "weconvene"], "latents of the two methods differ"),
        ("octave", ["--like", "s2lic"], "no chain of layers"),
        (
            "res-swinv2",
            ["--like", "s2lic", "--objective", "transform_rate=1"],
            "leave --objective or --like out",
        ),
    ],
)
def test_what_cannot_be_imitated(
    method: str, arguments: list[str], words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    code = cli.main(["train", method, "--data", str(folder), "--out", str(out), "--crop", "128", *arguments])
    assert code != exits.OK
    assert words in capsys.readouterr().err
