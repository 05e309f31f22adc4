"""The residual Swin transform: its sizes, its rates of stochastic depth, and its start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo_core.entropy.hyperprior import HyperpriorEntropy
from zoo_core.errors import UsageError
from zoo_core.layers.enhancement import plain_enhancement
from zoo_core.layers.rate import RateGains
from zoo_core.layers.swin import SwinStage
from zoo_core.layers.swin_transform import (
    SwinTransform,
    drop_rates,
    subpel_picture,
    transposed_picture,
)
from zoo_core.model import CodecModel, parameter_count
from zoo_core.testing.pictures import picture
from zoo_core.training.axes import Axes
from zoo_core.training.block_start import GREY, STEP
from zoo_core.training.swin_start import silence, start_swin

PICTURES = {"subpel": subpel_picture, "transposed": transposed_picture}


def transform(latent: int = 64, widths=(16, 48, 48), last=subpel_picture, **changes) -> SwinTransform:
    sizes = {
        "depths": (1, 2, 2),
        "heads": (2, 2, 2),
        "mlp_ratio": 2,
        "version": 2,
        "drop_path": 0.0,
    } | changes
    return SwinTransform(
        latent, widths, **sizes, picture=last, enhance=lambda: plain_enhancement(8, 2), window=4
    )


class Plain(HyperpriorEntropy):
    """y by mean and scale from the hyper-latent alone."""

    def __init__(self, latent: int, variable_rate: bool):
        h_a = nn.Sequential(nn.Conv2d(latent, 4, 4, 4))
        h_s = nn.Sequential(nn.ConvTranspose2d(4, 2 * latent, 4, 4))
        super().__init__(latent, 4, 2 * latent, h_a, h_s, variable_rate)

    def code_latent(self, coder, y, features, gain):
        mean, scale = features.chunk(2, 1)
        return coder.gaussian("y", y, mean, scale, gain)


def photos(count: int = 4, side: int = 128) -> list[torch.Tensor]:
    return [torch.from_numpy(picture(side, side, seed)).permute(2, 0, 1) for seed in range(count)]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_rows_of_the_published_layout() -> None:
    with torch.device("meta"):
        found = SwinTransform(
            320,
            (192, 192, 192),
            (1, 2, 3),
            (4, 8, 16),
            4,
            2,
            0.1,
            transposed_picture,
            nn.Identity,
        )
    rows = [14_592, 448_260, 331_968, 900_624, 331_968, 1_363_248, 553_280]
    assert [parameter_count(layer) for layer in found.g_a] == rows
    rows = [553_152, 1_363_248, 331_968, 900_624, 331_968, 448_260, 14_403]
    assert [parameter_count(layer) for layer in found.g_s] == rows


def test_rates_of_stochastic_depth() -> None:
    assert [len(rates) for rates in drop_rates(0.7, (1, 2, 3, 2))] == [1, 2, 3, 2]
    found = transform(depths=(1, 2, 3), drop_path=0.1)
    analysis, synthesis = (
        [block.drop_path for stage in g if isinstance(stage, SwinStage) for block in stage.blocks]
        for g in (found.g_a, found.g_s)
    )
    rates = torch.linspace(0, 0.1, 8).tolist()
    assert analysis == pytest.approx(rates[:6]) and synthesis == pytest.approx(rates[2:])


@pytest.mark.parametrize("version", [1, 2])
def test_a_silent_stage_doubles_its_input(version: int) -> None:
    torch.manual_seed(0)
    stage = SwinStage(16, 3, 2, 4, 2, version)
    silence(stage)
    x = torch.randn(2, 16, 9, 5)
    assert torch.equal(stage(x), 2 * x)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("last", PICTURES)
def test_start_is_a_chain_of_principal_axes_and_back(version: int, last: str) -> None:
    torch.manual_seed(0)
    found, given = transform(last=PICTURES[last], version=version).eval(), photos()
    deviation, step = start_swin(CodecModel(found, Plain(64, variable_rate=False)), given)
    assert step == 1.0
    steps = Axes(given, (12, 48, 48, 64)).steps
    x = torch.stack(given).float() / 255
    y = x - GREY
    for matrix in steps:
        y = torch.einsum("oc,bchw->bohw", matrix, F.pixel_unshuffle(y, 2))
    back = y
    for matrix in reversed(steps):
        back = F.pixel_shuffle(torch.einsum("oc,bohw->bchw", matrix, back), 2)
    with torch.inference_mode():
        latents = found.analysis(x)
        torch.testing.assert_close(latents[0], y / STEP, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.synthesis(latents), back + GREY, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deviation, (y / STEP).square().mean((0, 2, 3)).sqrt(), rtol=1e-3, atol=1e-3)


def test_start_is_nearly_the_best_block_transform() -> None:
    """A decibel or so behind the principal components of whole 16x16 blocks of these very pictures."""
    torch.manual_seed(0)
    found, given = transform().eval(), photos()
    start_swin(CodecModel(found, Plain(64, variable_rate=True)), given)
    x = torch.stack(given).float() / 255
    with torch.inference_mode():
        restored = found.synthesis(found.analysis(x))
    blocks = (x - GREY).unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(-1, 768)
    axes = torch.linalg.svd(blocks, full_matrices=False).Vh[:64]
    ideal = psnr(blocks, blocks @ axes.T @ axes)
    assert ideal - 1.5 < psnr(restored, x) < ideal + 0.01


@pytest.mark.parametrize(
    ("changes", "side", "message"),
    [({"latent": 200}, 128, "widths"), ({"widths": (8, 48, 48)}, 128, "widths"), ({}, 15, "16 pixels")],
)
def test_start_refuses_what_does_not_fit_and_changes_nothing(changes: dict, side: int, message: str) -> None:
    found = transform(**changes)
    model = CodecModel(found, Plain(found.latent, variable_rate=True))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        start_swin(model, photos(side=side))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_gains_take_over_the_quantisation_step() -> None:
    """A latent in units of the picture gives the same symbols and hyper-latent as one in steps."""
    found, level = [], torch.tensor([4.0])
    x = torch.stack(photos(1)).float() / 255
    for variable_rate in (False, True):
        torch.manual_seed(0)
        model = CodecModel(transform(), Plain(64, variable_rate))
        start_swin(model, photos())
        (y,) = model.transform.analysis(x)
        found.append((y, model.entropy_model.h_a(y)))
    (steps, z), (units, z_again) = found
    torch.testing.assert_close(units, STEP * steps)
    torch.testing.assert_close(z, z_again, rtol=1e-4, atol=1e-4)
    gain, fresh = model.entropy_model.gains(level), RateGains(64)(level)
    torch.testing.assert_close(gain.scale * STEP, fresh.scale)
    torch.testing.assert_close(gain.step, 1 / gain.scale)
