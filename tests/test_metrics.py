"""PSNR and MS-SSIM against values worked out by hand and against the package that the literature uses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from zoo_core.errors import UsageError
from zoo_core.evaluation import synthetic
from zoo_core.evaluation.metrics import SCALE_WEIGHTS, ms_ssim, psnr

reference = pytest.importorskip("pytorch_msssim")
reference_ssim = pytest.importorskip("pytorch_msssim.ssim")


def noisy(picture: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, strength, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def batch(picture: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32."""
    return torch.tensor(picture).permute(2, 0, 1)[None].float()


def test_psnr_of_a_constant_difference() -> None:
    a = np.full((7, 5, 3), 100, np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * math.log10(25.5), abs=1e-12)
    assert psnr(a + 10, a) == psnr(a, a + 10)


def test_psnr_counts_all_channels_and_the_whole_range() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0)
    one_channel = black.copy()
    one_channel[..., 1] = 255
    assert psnr(black, one_channel) == pytest.approx(10 * math.log10(3))


def test_psnr_of_grey_pictures() -> None:
    a = np.zeros((10, 10), np.uint8)
    b = a.copy()
    b[0, 0] = 1
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 * 100))


def test_identical_pictures_have_infinite_psnr() -> None:
    a = synthetic.picture(20, 10)
    assert psnr(a, a.copy()) == math.inf


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
def test_unlike_pictures_are_refused(metric) -> None:
    a = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UsageError, match="shapes"):
        metric(a, a[:8])
    with pytest.raises(UsageError, match="uint8"):
        metric(a, a.astype(np.float32))


@pytest.mark.parametrize("size", [(161, 161), (176, 240), (255, 193), (321, 200)])
@pytest.mark.parametrize("strength", [1, 10, 60])
def test_ms_ssim_matches_pytorch_msssim(size: tuple[int, int], strength: float) -> None:
    a = synthetic.picture(*size)
    b = noisy(a, strength)
    expected = reference.ms_ssim(batch(a), batch(b), data_range=255).item()
    assert ms_ssim(a, b) == pytest.approx(expected, abs=1e-5)
    assert expected < 0.9999


def test_ms_ssim_of_a_blurred_picture_matches_pytorch_msssim() -> None:
    a = noisy(synthetic.picture(200, 180), 20)
    b = np.asarray(Image.fromarray(a).filter(ImageFilter.GaussianBlur(2)))
    expected = reference.ms_ssim(batch(a), batch(b), data_range=255).item()
    assert ms_ssim(a, b) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", [11, 15, 20])
def test_one_scale_is_plain_ssim(side: int) -> None:
    a = synthetic.picture(side, side + 9)
    b = noisy(a, 8)
    expected = reference.ssim(batch(a), batch(b), data_range=255).item()
    assert ms_ssim(a, b) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", [21, 40])
def test_two_scales_have_renormalised_weights(side: int) -> None:
    a = synthetic.picture(side + 3, side)
    b = noisy(a, 8)
    window = reference_ssim._fspecial_gauss_1d(11, 1.5).repeat(3, 1, 1, 1)
    padding = [side % 2, (side + 3) % 2]
    halves = [torch.nn.functional.avg_pool2d(batch(p), 2, padding=padding) for p in (a, b)]
    _, contrast = reference_ssim._ssim(batch(a), batch(b), 255, window)
    similarity, _ = reference_ssim._ssim(*halves, 255, window)
    share = SCALE_WEIGHTS[0] / sum(SCALE_WEIGHTS[:2])
    expected = contrast**share * similarity ** (1 - share)
    assert ms_ssim(a, b) == pytest.approx(expected.mean().item(), abs=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 10, 11, 20, 21, 41, 81, 160, 161])
def test_ms_ssim_is_defined_at_every_size(side: int) -> None:
    a = noisy(synthetic.picture(side, side + 1), 20)
    assert ms_ssim(a, a.copy()) == pytest.approx(1, abs=1e-6)
    assert 0 <= ms_ssim(a, noisy(a, 40)) < 0.999
    assert ms_ssim(a, noisy(a, 90)) < ms_ssim(a, noisy(a, 5))


def test_ms_ssim_of_grey_is_that_of_three_equal_channels() -> None:
    grey = synthetic.picture(170, 165)[..., 0]
    other = noisy(grey, 12)
    colour, other_colour = (np.repeat(p[..., None], 3, axis=2) for p in (grey, other))
    assert ms_ssim(grey, other) == pytest.approx(ms_ssim(colour, other_colour), abs=1e-6)
