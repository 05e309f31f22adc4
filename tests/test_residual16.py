"""The plain residual transform at a sixteenth, its entropy model, and their start as a block transform."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.entropy.channelwise import ChannelwiseEntropy
from zoo_core.errors import UsageError
from zoo_core.layers.residual import ResidualBlockWithStride
from zoo_core.layers.residual16 import FEATURES, ResidualTransform16
from zoo_core.model import CodecModel
from zoo_core.testing.pictures import picture
from zoo_core.training.axes import Axes
from zoo_core.training.block_start import STEP
from zoo_core.training.objective import Objective
from zoo_core.training.residual_start import halve, start_residual

WIDTHS, LATENT = (16, 56, 64), 40


class Doubled(nn.Module):
    """An attention that doubles."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        return 2 * x


def model(variable_rate: bool = True, attend: type[nn.Module] | None = None) -> CodecModel:
    torch.manual_seed(0)
    transform = ResidualTransform16(WIDTHS, (0, 1, 1), LATENT, attend)
    return CodecModel(
        transform, ChannelwiseEntropy(LATENT, 5, 8, 0, 8, (8, 8), (1, 3, 1), variable_rate)
    ).eval()


def photos(count: int = 2) -> list[Tensor]:
    return [torch.from_numpy(picture(96, 96, seed)).permute(2, 0, 1) for seed in range(count)]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("attend", [None, Doubled])
@torch.no_grad()
def test_features_have_the_sizes_of_their_names(attend) -> None:
    transform = model(attend=attend).transform
    found: dict[str, tuple[int, ...]] = {}
    for name in FEATURES:
        transform.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.__setitem__(name, tuple(out.shape[1:]))
        )
    (y,) = transform.analysis(torch.rand(1, 3, 64, 128))
    assert tuple(y.shape[1:]) == transform.latent_shapes(64, 128)[0] == (LATENT, 4, 8)
    assert transform.synthesis((y,)).shape == (1, 3, 64, 128)
    sizes = {"2": (16, 32, 64), "4": (56, 16, 32), "8": (64, 8, 16)}
    assert found == {name: sizes[name[-1]] for name in FEATURES}


def test_attention_stands_at_an_eighth_and_a_sixteenth() -> None:
    transform = model(attend=Doubled).transform
    names = [name for name, module in transform.named_modules() if isinstance(module, Doubled)]
    assert names == ["g_a.attend8", "g_a.attend16", "g_s.attend16", "g_s.stage8.0.attend8"]
    assert not any("attend" in name for name, _ in model().transform.named_modules())


def test_latents_of_the_network_keep_full_precision() -> None:
    for attend in (None, Doubled):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            (y,) = model(attend=attend).transform.analysis(torch.rand(1, 3, 64, 64))
        assert y.dtype == torch.float32


def test_every_slice_sees_those_before_it() -> None:
    entropy = model().entropy_model
    inputs = [[net[0].in_channels for net in (s.mean, s.scale, s.lrp)] for s in entropy.low.slices]
    assert inputs == [[8 + 8 * k, 8 + 8 * k, 16 + 8 * k] for k in range(5)]
    with pytest.raises(UsageError, match="do not divide"):
        ChannelwiseEntropy(LATENT, 7, 8, 0, 8, (8, 8))


@pytest.mark.parametrize("spare", [0, 5, 40])
@torch.no_grad()
def test_a_halving_block_starts_as_a_matrix(spare: int) -> None:
    """With and without channels for the second signs."""
    torch.manual_seed(1)
    out = 20
    matrix = torch.linalg.qr(torch.randn(24, 24)).Q[:out]
    block = ResidualBlockWithStride(7, out + spare)
    halve(block, matrix, torch.full((out,), 0.4), centre=0.3)
    x = 0.3 + 0.3 * torch.randn(2, 7, 8, 10).clamp(-3, 3)
    wanted = torch.einsum("oc,bchw->bohw", matrix, F.pixel_unshuffle(x[:, :6] - 0.3, 2))
    torch.testing.assert_close(block(x)[:, :out], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attend", [None, Doubled])
@torch.no_grad()
def test_the_start_is_the_best_of_so_many_axes(attend) -> None:
    """The transform's error is that of the axes, which no other orthonormal transform of their number beats."""
    started = model(attend=attend)
    start_residual(started, photos(), gain=2.0 if attend else 1.0)
    x = photos(1)[0][None].float() / 255
    (y,) = started.transform.analysis(x)
    error = (started.transform.synthesis((y,)) - x)[..., 16:-16, 16:-16].square().mean()
    features = x - 0.45
    axes = Axes(photos(), (12, 48, 56, LATENT))
    for matrix in axes.steps:
        features = torch.einsum("oc,bchw->bohw", matrix, F.pixel_unshuffle(features, 2))
    assert float((y - features).norm()) < 2e-3 * float(features.norm())  # few values lie over the offsets
    for matrix in axes.steps[::-1]:
        features = F.pixel_shuffle(torch.einsum("oc,bohw->bchw", matrix, features), 2)
    bound = (features + 0.45 - x)[..., 16:-16, 16:-16].square().mean()
    assert float(error) == pytest.approx(float(bound), rel=0.02)


@torch.no_grad()
def test_gains_take_over_the_step() -> None:
    """With gains, y is in units of the picture; the symbols are those of the model without."""
    started = [model(variable_rate) for variable_rate in (True, False)]
    for one in started:
        start_residual(one, photos())
    x = photos(1)[0][None, :, :64, :64].float() / 255
    with_gains, without = (one.transform.analysis(x)[0] for one in started)
    gain = started[0].entropy_model.gains(torch.tensor([3.5]))
    torch.testing.assert_close(with_gains * gain.scale, without, rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(gain.scale * gain.step, torch.ones_like(gain.scale))
    assert float(gain.step.mean()) == pytest.approx(STEP, rel=0.05)
    h_a = [one.entropy_model.h_a for one in started]
    torch.testing.assert_close(h_a[0](with_gains), h_a[1](without), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_scales_start_as_wide_as_their_channels() -> None:
    started = model()
    start_residual(started, photos())
    (y,) = started.transform.analysis(torch.stack(photos()).float() / 255)
    slices = started.entropy_model.low.slices
    scales = torch.cat([nets.scale[-1].bias for nets in slices])
    spread = y.square().mean((0, 2, 3)).sqrt()
    assert float((scales / spread).log().abs().max()) < math.log(1.5)
    assert all(float(nets.mean[-1].bias.abs().max()) == 0 for nets in slices)


def test_too_narrow_for_a_start() -> None:
    narrow = CodecModel(ResidualTransform16((2, 56, 64), (0, 0, 0), LATENT), model().entropy_model)
    with pytest.raises(UsageError, match="grow by 4"):
        start_residual(narrow, photos())


def test_transforms_learn_gently() -> None:
    gentle = Objective(0.25)
    names = [name for name, _ in model().named_parameters()]
    slow = {name.split(".")[1] for name in names if gentle.learning_rate_factor(name) == 0.25}
    fast = {name.split(".")[0] for name in names if gentle.learning_rate_factor(name) == 1.0}
    assert slow == {"g_a", "g_s"} and fast == {"entropy_model"}
