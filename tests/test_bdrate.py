"""BD-rate against published figures, another implementation, and what it must be by definition."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from zoo_core.errors import UsageError
from zoo_core.evaluation.bdrate import bd_rate
from zoo_core.evaluation.curves import Curve, ms_ssim_db, names, reference

PUBLISHED = json.loads(Path(__file__).with_name("published_bd_rates.json").read_text())["results"]
METRICS = {"psnr": "psnr", "msssim": "ms_ssim"}


def curve(rates, qualities, name: str = "curve") -> Curve:
    return Curve(name, bpp=list(rates), psnr=list(qualities))


@pytest.mark.parametrize(
    ("name", "anchor", "published"),
    [
        ("webp", "vtm-9.1", 78.75),
        ("mbt2018-mean", "vtm-9.1", 21.28),
        ("av1", "vtm-9.1", 16.18),
        ("chwdta", "vtm-9.1", -17.82),
        ("weconvene", "vtm-9.1", -8.35),
        ("hpcm-large", "vtm-9.1", -19.95),
        ("jpeg", "vtm-9.1", 208.49),
        ("vtm-18.0", "vtm-9.1", -0.17),
        ("webp", "vtm-18.0", 79.54),
    ],
)
def test_published_figures_are_reproduced(name: str, anchor: str, published: float) -> None:
    assert bd_rate(reference(name), reference(anchor)).value == pytest.approx(published, abs=0.02)


def test_every_curve_gives_its_published_figures() -> None:
    compared = 0
    for row in PUBLISHED:
        for key, published in row.items():
            if key in ("curve", "n"):
                continue
            metric, anchor, method = key.split("_")
            ours = bd_rate(reference(row["curve"]), reference(anchor), METRICS[metric], method)
            assert ours.value == pytest.approx(published, abs=0.02), (row["curve"], key)
            compared += 1
    assert compared > 200


@pytest.mark.filterwarnings("ignore:Curves do not overlap")
@pytest.mark.parametrize("method", ["pchip", "akima"])
@pytest.mark.parametrize("points", [2, 3, 4, 7, 15])
def test_agrees_with_the_package_bjontegaard(method: str, points: int) -> None:
    bjontegaard = pytest.importorskip("bjontegaard")
    random = np.random.default_rng(points)
    for _ in range(20):
        rates = np.cumsum(random.uniform(0.02, 0.5, (2, points)), axis=1)
        qualities = random.uniform(26, 29, (2, 1)) + np.cumsum(random.uniform(0.2, 4, (2, points)), axis=1)
        expected = bjontegaard.bd_rate(rates[0], qualities[0], rates[1], qualities[1], method, min_overlap=0)
        ours = bd_rate(curve(rates[1], qualities[1]), curve(rates[0], qualities[0]), method=method).value
        if math.isnan(expected):
            assert math.isnan(ours)
        else:
            assert ours == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_a_scaled_rate_is_that_many_percent(method: str) -> None:
    anchor = reference("vtm-9.1")
    assert bd_rate(anchor, anchor, method=method).value == 0
    dearer = curve(1.25 * np.array(anchor.bpp), anchor.psnr)
    assert bd_rate(dearer, anchor, method=method).value == pytest.approx(25)
    assert bd_rate(anchor, dearer, method=method).value == pytest.approx(-20)


def test_order_of_the_points_does_not_matter() -> None:
    webp, anchor = reference("webp"), reference("vtm-9.1")
    backwards = curve(reversed(webp.bpp), reversed(webp.psnr))
    assert bd_rate(backwards, anchor).value == bd_rate(webp, anchor).value


def test_points_that_cost_more_and_are_no_better_are_left_out() -> None:
    clean = curve([0.1, 0.2, 0.4, 0.8], [28, 31, 34, 37])
    spoiled = curve([0.1, 0.2, 0.3, 0.4, 0.5, 0.8], [28, 31, 30, 34, 34, 37])
    anchor = reference("vtm-9.1")
    assert bd_rate(spoiled, anchor).value == bd_rate(clean, anchor).value


def test_infinite_quality_is_left_out() -> None:
    anchor = reference("vtm-9.1")
    clean = curve([0.1, 0.2, 0.4], [28, 31, 34])
    lossless = curve([0.1, 0.2, 0.4, 9], [28, 31, 34, math.inf])
    assert bd_rate(lossless, anchor).value == bd_rate(clean, anchor).value


def test_overlap_is_a_share_of_the_curves_own_range() -> None:
    anchor = curve([0.1, 0.2, 0.4], [28, 31, 34])
    wide = bd_rate(curve([0.1, 0.2, 0.4], [26, 29, 32]), anchor)
    assert wide.overlap == pytest.approx(4 / 6)
    assert wide.warning and "67%" in wide.warning
    inside = bd_rate(curve([0.1, 0.2, 0.4], [29, 30, 32]), anchor)
    assert (inside.overlap, inside.warning) == (1, None)


@pytest.mark.parametrize(("rates", "qualities"), [([0.1, 0.2], [10, 12]), ([0.3], [31])])
def test_what_cannot_be_compared_is_nan_with_a_reason(rates, qualities) -> None:
    result = bd_rate(curve(rates, qualities), reference("vtm-9.1"))
    assert math.isnan(result.value)
    assert result.overlap == 0
    assert result.warning


def test_wrong_arguments_are_refused() -> None:
    vtm, chwdta = reference("vtm-9.1"), reference("chwdta")
    with pytest.raises(UsageError, match="interpolation"):
        bd_rate(vtm, vtm, method="cubic")
    with pytest.raises(UsageError, match="unknown metric"):
        bd_rate(vtm, vtm, metric="ssim")
    with pytest.raises(UsageError, match="chwdta has no ms_ssim"):
        bd_rate(chwdta, vtm, metric="ms_ssim")


def test_every_reference_curve_is_complete() -> None:
    assert len(names()) == 57
    for name in names():
        one = reference(name)
        assert one.title and one.source.startswith("github.com/")
        assert len(one.bpp) >= 4 and list(one.bpp) == sorted(one.bpp)
        for metric in filter(one.has, ("psnr", "ms_ssim")):
            assert len(one.quality(metric)) == len(one.bpp)
            assert min(one.quality(metric)) > 5 and max(one.quality(metric)) < 60


def test_an_unknown_curve_names_the_near_misses() -> None:
    with pytest.raises(UsageError, match=r"'vtm9\.1'; did you mean vtm-9\.1"):
        reference("vtm9.1")
    with pytest.raises(UsageError, match=r"there are: .*webp"):
        reference("zzzzzz")


def test_ms_ssim_in_decibels() -> None:
    assert ms_ssim_db(0.99) == pytest.approx(20)
    assert ms_ssim_db(0.0) == 0
    assert ms_ssim_db(1.0) == math.inf
