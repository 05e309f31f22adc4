"""Mixture steps: integer distributions against exact ones, real files, calibration, and channel masks."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference_decoder import Reference

from zoo_core.entropy import integer_mixture, stream
from zoo_core.entropy.coder import Estimator
from zoo_core.entropy.integer_mixture import (
    HALF_WIDTHS,
    MASS,
    MEAN_STEPS,
    OUTSIDE,
    WEIGHT_TOTAL,
    IntegerMixture,
    cumulative_tables,
    grid_positions,
    rounded,
    rounding,
)
from zoo_core.entropy.mixture import FAMILIES, MixtureParameters, mixture_likelihood
from zoo_core.entropy.stream import Decoder, Encoder
from zoo_core.errors import FileError, MismatchError, ZooError
from zoo_core.layers.rate import RateGains
from zoo_core.model import bits

GMM3 = ("normal",) * 3
GLLMM = ("normal",) * 3 + ("laplace",) * 3 + ("logistic",) * 3
CRC_TABLES, CRC_INVERSES = 0xA859AC83, 0x2094FD7F
"""Of the integers that files depend on: they may never change."""
MODELS = [("normal",), GMM3, FAMILIES, GLLMM]


def mixtures(families, shape=(1, 6, 16, 16), seed=0, low=-5.0, high=3.0) -> MixtureParameters:
    """Random mixtures, from nearly certain to wide, and their components apart or together."""
    rng = np.random.default_rng(seed)
    batch, *rest = shape
    full = (batch, len(families), *rest)
    weight = torch.softmax(torch.from_numpy(rng.normal(0, 1.5, full)), 1)
    size = np.exp(rng.uniform(low, high, (batch, 1, *rest)))
    mean, scale = rng.normal(0, 1, full) * size, np.exp(rng.normal(0, 0.4, full)) * size
    return MixtureParameters(families, weight, torch.from_numpy(mean), torch.from_numpy(scale))


def draw(parameters: MixtureParameters, seed=0) -> torch.Tensor:
    """A latent that follows the mixtures."""
    rng = np.random.default_rng(seed)
    weight, mean, scale = (x.numpy() for x in (parameters.weight, parameters.mean, parameters.scale))
    pick = (rng.random(weight[:, :1].shape) > np.cumsum(weight, 1)).sum(1, keepdims=True)
    pick = np.minimum(pick, weight.shape[1] - 1)
    laws = {"normal": rng.normal, "laplace": rng.laplace, "logistic": rng.logistic}
    samples = np.stack([laws[f](0, 1, mean[:, 0].shape) for f in parameters.families], 1)
    values = np.take_along_axis(mean + np.maximum(scale, 0.11) * samples, pick, 1)
    return torch.from_numpy(values[:, 0])


def round_trip(latent, parameters, gain=None):
    encoder = Encoder()
    known = encoder.mixture("y", latent, parameters, gain)
    decoder = Decoder(encoder.payload(), encoder.calibration())
    again = decoder.mixture("y", None, parameters, gain)
    decoder.finish()
    return encoder, known, again


# --- integers ---------------------------------------------------------------------------------------


def test_shipped_tables_are_these_integers() -> None:
    content = b"".join(cumulative_tables()[f].numpy().astype("<i4").tobytes() for f in FAMILIES)
    inverses = integer_mixture.inverse_scales().numpy().astype("<i4").tobytes()
    assert (zlib.crc32(content), zlib.crc32(inverses)) == (CRC_TABLES, CRC_INVERSES)


def test_shipped_tables_are_the_built_ones() -> None:
    steps, inverses = integer_mixture.build_tables()
    with np.load(integer_mixture._FILE) as data:
        assert np.array_equal(data["inverses"], inverses)
        # exp and erf may differ in their last bits between libraries; then one count may round the other way
        assert np.abs(data["steps"].astype(int) - steps.astype(int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_are_symmetric_and_rise(family: str) -> None:
    table = cumulative_tables()[family]
    assert (table + table.flip(0) == 2 * table[len(table) // 2]).all()
    assert (table.diff() >= 0).all() and table[0] == 0


@pytest.mark.parametrize("families", MODELS)
def test_mass_is_the_float_mixtures(families: tuple[str, ...]) -> None:
    parameters = mixtures(families, (1, 1, 50, 100))
    symbol = torch.arange(-3, 4, dtype=torch.int32).expand(5000, -1)
    mass = IntegerMixture.nearest(parameters).mass_below(symbol.t()).t()
    wide = parameters.scale.clamp(0.11)
    laws = {
        "normal": torch.distributions.Normal,
        "laplace": torch.distributions.Laplace,
    }
    exact = 0
    for k, family in enumerate(families):
        edge, m, s = symbol - 0.5, parameters.mean[0, k].view(-1, 1), wide[0, k].view(-1, 1)
        p = torch.sigmoid((edge - m) / s) if family == "logistic" else laws[family](m, s).cdf(edge)
        exact = exact + parameters.weight[0, k].view(-1, 1) * p
    assert ((mass / MASS) - exact).abs().max() < 0.08  # half a grid step of a narrow component's mean
    assert ((mass / MASS) - exact).abs().mean() < 0.003


@pytest.mark.parametrize("families", MODELS)
def test_extreme_parameters_stay_below_the_integers_limits(families: tuple[str, ...]) -> None:
    """Means beyond both ends with the narrowest and the widest scales: all sums fit into 32 bits."""
    shape = (1, len(families), 2, 4, 2)
    mean = torch.tensor([-1e9, -256.0, 256.0, 1e9], dtype=torch.float64).view(1, 1, 1, 4, 1).expand(shape)
    scale = torch.tensor([0.0, 1e9], dtype=torch.float64).view(1, 1, 2, 1, 1).expand(shape)
    weight = torch.full(shape, 1 / len(families), dtype=torch.float64)
    mixture = IntegerMixture.nearest(MixtureParameters(families, weight, mean, scale))
    mass = mixture.mass_below(torch.arange(-511, 513, dtype=torch.int32)[:, None]).t()
    assert (mass.diff(dim=1) >= 0).all() and mass.min() >= 0 and mass.max() <= MASS
    narrow = mass.view(2, 4, 2, -1)[0]  # all of the mass around the clamped mean
    assert (narrow[:2, :, 0] == 0).all() and (narrow[:2, :, -1] == MASS).all()


@pytest.mark.parametrize("families", MODELS)
def test_frequencies_are_distributions(families: tuple[str, ...]) -> None:
    """10,000 random mixtures: every slot can be coded, every row sums to 2^24, and intervals are its sums."""
    found = 0
    for window in IntegerMixture.nearest(mixtures(families, (1, 1, 100, 100), high=4.5)).windows():
        rows = window.rows(0, len(window.where)).to(torch.int32) + 1
        assert rows.shape[1] == 2 * window.half + 2 and rows.min() >= 1
        assert (rows.sum(1) == 1 << 24).all()
        found += len(rows)
        if len(rows):
            ends = rows.cumsum(1)
            slots = torch.randint(rows.shape[1], (len(rows),), dtype=torch.int32)
            slots[:2], slots[-1] = torch.tensor([0, window.escape])[: len(slots[:2])], window.escape
            start, end = window.interval(slots)
            assert torch.equal(end.long(), ends.gather(1, slots.long()[:, None])[:, 0])
            assert torch.equal((end - start).long(), rows.gather(1, slots.long()[:, None])[:, 0].long())
    assert found > 5000


@pytest.mark.parametrize("families", MODELS)
def test_windows_are_the_narrowest_that_are_enough(families: tuple[str, ...]) -> None:
    """Against every size tried in turn: the bound that skips sizes never skips the right one."""
    parameters = mixtures(families, (1, 1, 100, 100), low=-2.2, high=5.5)
    units = np.random.default_rng(1).integers(0, 40, parameters.weight.shape)
    few = torch.from_numpy(units) / WEIGHT_TOTAL  # weights that nearly vanish, beside a large one
    few[:, 0] += 1 - few.sum(1)
    for weight in (parameters.weight, few):
        mixture = IntegerMixture.nearest(replace(parameters, weight=weight))
        centre, wanted = mixture.centre, torch.full((10000,), HALF_WIDTHS[-1])
        for half in (*reversed(HALF_WIDTHS), 0):
            inside = mixture.mass_below(centre + half + 1) - mixture.mass_below(centre - half)
            fits = MASS - inside <= OUTSIDE
            wanted[fits & (centre == 0) if half == 0 else fits] = half
        found = torch.zeros_like(wanted)
        for window in mixture.windows():
            assert torch.equal(window.first, centre[window.where] - window.half)
            found[window.where] = window.half
        assert torch.equal(found, wanted)
        assert len(found.unique()) > 6


# --- likelihoods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("families", MODELS)
def test_likelihoods_sum_to_one(families: tuple[str, ...]) -> None:
    parameters = mixtures(families, (1, 4, 3, 3), high=1)
    total = sum(mixture_likelihood(torch.full((1, 4, 3, 3), float(v)), parameters) for v in range(-150, 151))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_sided_mixture_is_its_component(family: str) -> None:
    """Weights of one component alone leave a plain distribution, whatever the others are."""
    parameters = mixtures(FAMILIES)
    k = FAMILIES.index(family)
    only = torch.zeros_like(parameters.weight)
    only[:, k] = 1
    x = draw(parameters).round()
    mixed = mixture_likelihood(x, MixtureParameters(FAMILIES, only, parameters.mean, parameters.scale))
    alone = MixtureParameters(
        (family,), only[:, k : k + 1], parameters.mean[:, k : k + 1], parameters.scale[:, k : k + 1]
    )
    torch.testing.assert_close(mixed, mixture_likelihood(x, alone), rtol=0, atol=1e-12)


def test_light_components_vanish_without_a_jump() -> None:
    """Their weight goes to 0 and stays there, the others share it, and a small change changes little."""
    parameters = mixtures(GLLMM, (1, 4, 16, 16))
    least = torch.tensor(1 / 64, dtype=torch.float64)
    heavy = parameters.without(least)
    assert torch.equal(heavy.weight == 0, parameters.weight <= least)
    assert 0.1 < (heavy.weight == 0).double().mean() < 0.9
    torch.testing.assert_close(heavy.weight.sum(1), torch.ones(1, 4, 16, 16, dtype=torch.float64))
    moved = replace(parameters, weight=parameters.weight + 1e-13).without(least)
    assert (moved.weight - heavy.weight).abs().max() < 1e-12
    unchanged = parameters.without(torch.tensor(0.0))
    torch.testing.assert_close(unchanged.weight, parameters.weight, rtol=1e-15, atol=0)


@pytest.mark.parametrize("families", MODELS)
def test_tails_keep_their_precision_and_gradients(families: tuple[str, ...]) -> None:
    parameters = mixtures(families, (1, 2, 4, 4), low=-1, high=0)
    latent = draw(parameters)
    values = (parameters.weight, parameters.mean, parameters.scale)
    for value in values:
        value.requires_grad_()
    far = torch.full((1, 2, 4, 4), 8.0, dtype=torch.float64)
    assert all((mixture_likelihood(sign * far, parameters) > 0).all() for sign in (-1, 1))
    mixture_likelihood(latent, parameters).log().sum().backward()
    for value in values:
        assert value.grad.isfinite().all() and (value.grad != 0).any()


# --- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("families", MODELS)
def test_round_trip_is_exact(families: tuple[str, ...], seed: int) -> None:
    parameters = mixtures(families, seed=seed)
    latent = draw(parameters, seed)
    _, known, again = round_trip(latent, parameters)
    assert torch.equal(known, again)
    assert torch.equal(known, latent.round()) or families == GMM3 or families == ("normal",)
    assert (known != latent.round()).double().mean() < 1e-3  # certain zeros that were none


@pytest.mark.parametrize("families", MODELS)
@pytest.mark.parametrize(("low", "high"), [(-5, 0), (-1, 2), (-3, 4)])
def test_size_is_close_to_the_ideal(families: tuple[str, ...], low: float, high: float) -> None:
    parameters = mixtures(families, (1, 32, 32, 32), low=low, high=high)
    latent = draw(parameters)
    ideal = -float(mixture_likelihood(latent.round(), parameters).log2().sum()) / 8
    encoder, _, _ = round_trip(latent, parameters)
    assert len(encoder.payload()) < ideal * 1.002 + 16


@pytest.mark.parametrize("level", [1.0, 6.0])
def test_gains_scale_latent_and_mixture(level: float) -> None:
    parameters = mixtures(FAMILIES, (1, 4, 8, 8), low=0, high=1)
    gain = RateGains(4).double().requires_grad_(False)(torch.tensor([level], dtype=torch.float64))
    latent = draw(parameters)
    encoder, known, again = round_trip(latent, parameters, gain)
    assert torch.equal(known, again)
    assert (known - latent).abs().max() <= gain.step.max() / 2 + 1e-9
    assert len(encoder.payload()) < 4 * len(round_trip(latent, parameters)[0].payload())


def test_far_symbols_escape() -> None:
    parameters = mixtures(GMM3, low=-1, high=0)
    latent = draw(parameters)
    latent.view(-1)[[5, 500, 1000]] = torch.tensor([900.0, -123456.0, 4e9], dtype=torch.float64)
    _, known, again = round_trip(latent, parameters)
    assert torch.equal(known, again)
    assert known.view(-1)[[5, 500, 1000]].tolist() == [900, -123456, stream.MAX_SYMBOL]


def test_estimator_rounds_like_a_file_and_counts_its_bits() -> None:
    parameters = mixtures(GMM3, (1, 16, 32, 32), low=-5, high=1)
    latent = draw(parameters)
    estimator = Estimator(training=False)
    known = estimator.mixture("y", latent, parameters)
    encoder, written, _ = round_trip(latent, parameters)
    assert torch.equal(known, written)
    assert len(encoder.payload()) == pytest.approx(float(bits(estimator.likelihoods)) / 8, rel=0.003, abs=16)


def test_certain_zeros_cost_nothing() -> None:
    parameters = mixtures(GMM3, low=-9, high=-8)
    encoder, known, _ = round_trip(torch.zeros(1, 6, 16, 16, dtype=torch.float64), parameters)
    assert len(encoder.payload()) == 5 and not known.any()


@pytest.mark.parametrize("families", [GMM3, GLLMM])
def test_plain_python_reads_the_same_symbols(families: tuple[str, ...]) -> None:
    """docs/format.md is enough to read a mixture step; only integers are used after the rounding."""
    parameters = mixtures(families, (1, 2, 6, 6), low=-3, high=1)
    encoder, known, _ = round_trip(draw(parameters), parameters)
    payload = encoder.payload()
    assert payload[4] == 0  # no escapes
    words = payload[5:] + b"\0" * (-len(payload[5:]) % 4)
    reference = Reference(list(struct.unpack(f"<{len(words) // 4}I", words)))
    rounded = np.floor(grid_positions(parameters).numpy() + 0.5).astype(int)
    rows = [plain_distribution(families, column.tolist()) for column in rounded.T]
    symbols = np.zeros(len(rows), int)
    for half in integer_mixture.HALF_WIDTHS:
        for i, (width, first, frequencies) in enumerate(rows):
            if width == half:
                symbols[i] = first + reference.decode(frequencies, bits=24)
    assert reference.empty
    assert np.array_equal(symbols, known.view(-1).numpy().astype(int))


def plain_distribution(families: tuple[str, ...], rounded: list[int]) -> tuple[int, int, list[int]]:
    """Half width, first symbol and frequencies of a mixture, as docs/format.md says; half width 0: certain."""
    count = len(families)
    weight, mean, scale = rounded[:count], rounded[count : 2 * count], rounded[2 * count :]
    weight[weight.index(max(weight))] += 4096 - sum(weight)
    inverse = integer_mixture.inverse_scales().tolist()

    def below(symbol: int) -> int:
        total = 0
        for f, w, m, s in zip(families, weight, mean, scale, strict=True):
            entry = ((64 * symbol - 32 - m) * inverse[s] + 256) >> 9
            total += w * int(cumulative_tables()[f][min(max(entry, -7168), 7168) + 7168])
        return total

    centre = (sum(w * m for w, m in zip(weight, mean, strict=True)) + 131072) >> 18
    for half in (0, *integer_mixture.HALF_WIDTHS):
        outside = 4096 * 262136 - below(centre + half + 1) + below(centre - half)
        if outside <= (4096 * 262136) >> 15 and (half or not centre):
            break
    first = centre - half
    starts = [((below(first + i) - below(first)) >> 6) + i for i in range(2 * half + 2)]
    return half, first, np.diff([*starts, 1 << 24]).tolist()


# --- decode right or refuse -------------------------------------------------------------------------


def test_close_roundings_are_listed_and_the_list_is_obeyed() -> None:
    parameters = mixtures(GMM3, low=-1, high=1)
    parameters.mean.view(-1)[[7, 77]] = torch.tensor([0.5 / 64, 2.5 / 64 + 1e-15], dtype=torch.float64)
    latent = draw(parameters)
    encoder = Encoder()
    known = encoder.mixture("y", latent, parameters)
    assert len(encoder.calibration()) == 5  # two positions, two sides
    # Another machine sees the same means on the other side of the border.
    moved = parameters.mean.clone()
    moved.view(-1)[[7, 77]] += torch.tensor([-1e-13, 1e-13], dtype=torch.float64)
    moved = MixtureParameters(GMM3, parameters.weight, moved, parameters.scale)
    decoder = Decoder(encoder.payload(), encoder.calibration())
    assert torch.equal(decoder.mixture("y", None, moved, None), known)
    decoder.finish()


@pytest.mark.parametrize("change", ["weight", "mean", "scale"])
def test_unlisted_close_rounding_is_refused(change: str) -> None:
    parameters = mixtures(GMM3, low=-1, high=1)
    encoder = Encoder()
    encoder.mixture("y", draw(parameters), parameters)
    border = {
        "weight": 100.5 / 4096,
        "mean": 10.5 / 64,
        "scale": 0.11 * np.exp(20.5 * integer_mixture.LOG_STEP),
    }[change]
    getattr(parameters, change).view(-1)[9] = border
    with pytest.raises(MismatchError, match="computes differently"):
        Decoder(encoder.payload(), encoder.calibration()).mixture("y", None, parameters)


def test_saturated_parameters_are_far_from_every_border() -> None:
    """Weights of exactly 0 and 1 and scales at the bound are common in trained networks."""
    shape = (1, 3, 2, 4, 4)
    weight = torch.zeros(shape, dtype=torch.float64)
    weight[:, 0] = 1
    parameters = MixtureParameters(FAMILIES, weight, torch.zeros_like(weight), torch.full_like(weight, 0.11))
    encoder, _, _ = round_trip(torch.zeros(1, 2, 4, 4, dtype=torch.float64), parameters)
    assert encoder.calibration() == b""


@pytest.mark.parametrize("change", ["weight", "mean", "scale"])
def test_other_parameters_are_noticed(change: str) -> None:
    parameters = mixtures(GMM3, low=0, high=1)
    encoder = Encoder()
    encoder.mixture("y", draw(parameters), parameters)
    values = getattr(parameters, change)
    if change == "weight":
        values[:, :, 0, 0, 0] = values[:, :, 0, 0, 0].roll(1, 1)
    else:
        values.view(-1)[100] *= 1.5
    decoder = Decoder(encoder.payload(), encoder.calibration())
    with pytest.raises(ZooError):
        decoder.mixture("y", None, parameters)
        decoder.finish()


def test_not_a_number_is_refused() -> None:
    parameters = mixtures(GMM3)
    parameters.scale.view(-1)[3] = float("nan")
    with pytest.raises(MismatchError, match="not finite"):
        Encoder().mixture("y", torch.zeros(1, 6, 16, 16, dtype=torch.float64), parameters)


def test_list_of_another_kind_of_step_is_refused() -> None:
    parameters = mixtures(GMM3)
    encoder = Encoder()
    encoder.mixture("y", draw(parameters), parameters)
    with pytest.raises(MismatchError):
        Decoder(encoder.payload(), b"\x05\x3f").mixture("y", None, parameters)


def test_damage_is_refused() -> None:
    parameters = mixtures(FAMILIES, (1, 2, 8, 8), low=-1, high=1)
    latent = draw(parameters)
    latent.view(-1)[3] = 700.0  # an escape
    encoder = Encoder()
    encoder.mixture("y", latent, parameters)
    payload = encoder.payload()
    damaged = [payload[:end] for end in range(len(payload))]
    damaged += [payload[:i] + bytes([payload[i] ^ 0x41]) + payload[i + 1 :] for i in range(len(payload))]
    for data in damaged:
        with pytest.raises((FileError, MismatchError)):
            decoder = Decoder(data)
            decoder.mixture("y", None, parameters)
            decoder.finish()


# --- channel masks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [[], [3], [0, 2, 5], [0, 1, 2, 3, 4, 5]])
def test_channel_mask(used: list[int]) -> None:
    latent = 0.4 * torch.ones(1, 6, 4, 4, dtype=torch.float64)
    latent[:, used, 1, 2] = -3.0
    encoder = Encoder()
    mask = encoder.channels("channels", latent, 6)
    assert mask.nonzero()[:, 0].tolist() == used
    decoder = Decoder(encoder.payload())
    assert torch.equal(decoder.channels("channels", None, 6), mask)
    decoder.finish()
    estimator = Estimator(training=False)
    assert torch.equal(estimator.channels("channels", latent, 6), mask)
    assert float(bits(estimator.likelihoods)) == 6


def test_channel_mask_sees_symbols() -> None:
    latent = 0.4 * torch.ones(1, 3, 2, 2, dtype=torch.float64)
    gains = RateGains(3).double().requires_grad_(False)
    masks = [
        Encoder().channels("c", latent, 3, gains(torch.tensor([level], dtype=torch.float64)))
        for level in (1.0, 6.0)
    ]
    assert not masks[0].any() and masks[1].all()


def test_mask_costs_a_bit_a_channel() -> None:
    encoder = Encoder()
    encoder.channels("c", torch.randn(1, 400, 1, 1, dtype=torch.float64), 400)
    assert len(encoder.payload()) <= 5 + 50 + 4


def test_all_channels_learn() -> None:
    estimator = Estimator(training=True)
    assert estimator.channels("c", torch.zeros(2, 5, 2, 2), 5).all()
    assert not estimator.likelihoods


def test_rounding_in_blocks_is_rounding_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders of blocks change nothing, and close values are listed in the order of the whole."""
    parameters = mixtures(FAMILIES, (1, 7, 5, 3))
    mean = parameters.mean.clone()
    mean.view(3, -1)[:, ::4] = (torch.arange(81) + 0.5).view(3, 27) / MEAN_STEPS  # on a border of the grid
    parameters = replace(parameters, mean=mean)
    position = grid_positions(parameters)
    monkeypatch.setattr(integer_mixture, "_BLOCK", 8)
    integers, close, above = rounded(parameters, 1e-10)
    for blocks, whole in zip((integers.view(-1), close, above), rounding(position, 1e-10), strict=True):
        assert torch.equal(blocks, whole)
    assert len(close) >= 81
    below = position.view(-1)[close].floor()
    assert torch.equal(integers.view(-1)[close], below.to(torch.int32) + above)
    assert torch.equal(integer_mixture.floors(parameters, close), below.to(torch.int32))
