"""Every registered transform with every registered entropy model: it trains and codes, or says why not."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import zoo_core as zoo
from zoo_core import model as joining
from zoo_core import registry
from zoo_core.errors import UsageError
from zoo_core.hooks import Entry
from zoo_core.model import CodecModel, join
from zoo_core.testing.pictures import picture
from zoo_core.training.objective import Objective

HALVES = {
    kind: [entry.name for entry in registry.entries() if entry.kind == kind]
    for kind in ("transform", "entropy_model")
}
ANY_WIDTH = ("3dm-weconvene", "deformable-checkerboard", "res-swinv2", "roi-swin", "weconvene")
"""Entropy models of a single latent that are built for any of the widths here; the others need multiples."""

FITS = {
    "3dm-weconvene": ANY_WIDTH,
    "deformable-checkerboard": (*ANY_WIDTH, "feds", "selic"),
    "dual-branch": ("dual-branch",),
    "feds": (*ANY_WIDTH, "feds", "selic"),
    "octave": ("octave",),
    "res-swinv2": (*ANY_WIDTH, "feds", "s2lic", "selic"),
    "roi-swin": (*ANY_WIDTH, "feds", "s2lic", "selic"),
    "s2lic": (*ANY_WIDTH, "feds", "s2lic", "selic"),
    "selic": (*ANY_WIDTH, "feds", "selic"),
    "weconvene": ANY_WIDTH,
}
"""Which entropy models each transform goes with; a method that is not listed goes with its own at least."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def built_once() -> Iterator[None]:
    """Halves of the matrix are built once for all pairs that they stand in."""

    @functools.cache
    def build(name: str, kind: str, preset: str, latent: int | None) -> torch.nn.Module:
        entry = registry.find(name, kind)
        settings = dict(entry.presets[preset])
        if latent is not None:
            settings["latent"] = latent
        return plain(replace(entry, presets={preset: settings}), preset)

    plain = registry.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            joining.registry, "build", lambda e, p: build(e.name, e.kind, p, e.presets[p].get("latent"))
        )
        yield


def trained_one_step(model: CodecModel) -> float:
    """The loss of the step."""
    model.float().train().requires_grad_(True)
    side = model.downscale
    x = torch.from_numpy(picture(side, side)).permute(2, 0, 1)[None].float() / 255
    optimiser = torch.optim.SGD(model.parameters(), 1e-6)
    loss = Objective()(model, x, torch.tensor([3.0])).loss.mean()
    optimiser.zero_grad()
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.transform.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.entropy_model.parameters())
    optimiser.step()
    return float(loss.detach())


def fits(transform: str, entropy_model: str) -> CodecModel | None:
    try:
        return join(transform, entropy_model)
    except UsageError as error:
        assert entropy_model in str(error) and "channels" in str(error)
        return None


@pytest.mark.parametrize("entropy_model", HALVES["entropy_model"])
@pytest.mark.parametrize("transform", HALVES["transform"])
def test_a_pair_trains_and_codes_or_says_why_not(transform: str, entropy_model: str) -> None:
    model = fits(transform, entropy_model)
    if {transform, entropy_model} <= FITS.keys():
        assert (model is not None) == (entropy_model in FITS[transform])
    assert model is not None or transform != entropy_model
    if model is None:
        return
    assert 0 < trained_one_step(model) < float("inf")
    model.update()
    model.prepare()
    side = model.downscale
    x = torch.from_numpy(picture(side, side, 1)).permute(2, 0, 1)[None].float() / 255
    coded = model.compress(x, 3.0)
    restored = model.decompress(coded["strings"], coded["shape"], 3.0)["x_hat"]
    with torch.inference_mode():
        promised = model(x, torch.tensor([3.0]))["x_hat"].clamp(0, 1)
    torch.testing.assert_close(restored, promised, atol=1 / 255, rtol=0)


def test_a_pair_that_does_not_fit_names_both_numbers() -> None:
    with pytest.raises(
        UsageError, match="'weconvene' has latents of 96 channels, .*'octave' takes 48 and 48"
    ):
        zoo.compose(transform="weconvene", entropy_model="octave")


def test_an_entropy_model_that_cannot_be_built_for_the_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(entry: Entry, preset: str) -> torch.nn.Module:
        if entry.kind == "entropy_model":
            raise UsageError("5 slices do not divide it")
        return plain(entry, preset)

    plain = joining.registry.build
    monkeypatch.setattr(joining.registry, "build", build)
    with pytest.raises(UsageError, match="'deformable-checkerboard' cannot .* 96 channels: 5 slices"):
        join("weconvene", "deformable-checkerboard")
