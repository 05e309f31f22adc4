"""The entropy coder: tables, escapes, calibration, and an independent decoder of the same bytes."""

from __future__ import annotations

import math
import struct

import constriction
import numpy as np
import pytest
import torch
from reference_decoder import Reference

from zoo_core.entropy import stream, tables
from zoo_core.entropy.coder import Estimator
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.entropy.stream import Decoder, Encoder, choices, table_index
from zoo_core.errors import CorruptFileError, FileError, MismatchError, WrongWeightsError, ZooError
from zoo_core.layers.rate import RateGains
from zoo_core.model import bits


def field(seed: int, shape=(1, 8, 16, 16), low=-3.0, high=3.0):
    """A latent with its mean and scale: scales log-uniform, from skipped to wide."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.uniform(low, high, shape))
    mean = rng.normal(0, 2, shape)
    return tuple(torch.from_numpy(a) for a in (mean + rng.normal(0, 1, shape) * scale, mean, scale))


def round_trip(latent, mean, scale, gain=None):
    encoder = Encoder()
    known = encoder.gaussian("y", latent, mean, scale, gain)
    decoder = Decoder(encoder.payload(), encoder.calibration())
    again = decoder.gaussian("y", None, mean, scale, gain)
    decoder.finish()
    return encoder, known, again


def test_shipped_tables_are_the_built_ones():
    halves, lengths = tables.build_gaussian_tables()
    with np.load(tables._FILE) as data:
        assert np.array_equal(data["lengths"], lengths)
        # erfc may differ in its last bits between libraries; then one count may round the other way
        assert np.abs(data["halves"].astype(int) - halves.astype(int)).max() <= 2


def test_tables_are_distributions_close_to_the_normal_law():
    for i, table in tables.gaussian_tables().items():
        f = table.frequencies
        assert f.sum() == tables.TOTAL and f.min() >= 1
        assert np.array_equal(f[:-1], f[-2::-1])
        scale = tables.SKIP_SCALE * math.exp((i - 0.5) * tables.LOG_STEP)
        k = np.arange(table.first, table.first + table.escape)
        erf = np.vectorize(math.erf)
        p = 0.5 * (erf((k + 0.5) / scale / math.sqrt(2)) - erf((k - 0.5) / scale / math.sqrt(2)))
        extra_bits = (p * np.log2(np.maximum(p, 1e-300) / (f[:-1] / tables.TOTAL))).sum()
        assert abs(extra_bits) < 2e-3


def test_table_of_a_scale():
    border = tables.SKIP_SCALE * math.exp(5 * tables.LOG_STEP)
    scales = torch.tensor(
        [1e-6, 0.119, 0.121, border * 0.999, border * 1.001, 255.0, 1e9], dtype=torch.float64
    )
    assert table_index(scales).tolist() == [0, 0, 1, 5, 6, 63, 63]
    where, table, near = choices(scales)
    assert where.tolist() == [2, 3, 4, 5, 6] and table.tolist() == [1, 5, 6, 63, 63]
    assert not len(near)
    with pytest.raises(MismatchError, match="not finite"):
        table_index(torch.tensor([float("nan")], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(4))
def test_round_trip_is_exact(seed):
    _, known, again = round_trip(*field(seed))
    assert torch.equal(known, again)


def test_gains_scale_the_step():
    latent, mean, scale = field(1, (1, 4, 8, 8))
    gain = RateGains(4).double().requires_grad_(False)(torch.tensor([6.0], dtype=torch.float64))
    _, known, again = round_trip(latent, mean, scale, gain)
    assert torch.equal(known, again)
    coded = scale * gain.scale > tables.SKIP_SCALE
    assert (known - latent).abs()[coded].max() <= gain.step.max() / 2 + 1e-9


def test_size_is_close_to_the_estimate():
    latent, mean, scale = field(2, (1, 32, 32, 32))
    estimator = Estimator(training=False)
    estimator.gaussian("y", latent, mean, scale)
    ideal = float(bits(estimator.likelihoods)) / 8
    encoder, _, _ = round_trip(latent, mean, scale)
    assert len(encoder.payload()) == pytest.approx(ideal, rel=0.004, abs=16)


@pytest.mark.parametrize("scale", [0.2, 3.0, 60.0])
@pytest.mark.parametrize("deviations", [5, 12, 100])
def test_estimate_knows_the_price_of_an_escape(scale, deviations):
    """A tenth of the symbols lies where tables end and far beyond: 17 to 30 bits each if they had a slot."""
    latent, mean, scales = field(4, (1, 8, 32, 32), math.log(scale), math.log(scale) + 0.2)
    rare = torch.from_numpy(np.random.default_rng(5).random(latent.shape) < 0.1)
    latent = torch.where(rare, mean + deviations * scales + 1, latent)
    estimator = Estimator(training=False)
    estimator.gaussian("y", latent, mean, scales)
    encoder, _, _ = round_trip(latent, mean, scales)
    assert len(encoder.payload()) == pytest.approx(float(bits(estimator.likelihoods)) / 8, rel=0.02, abs=16)


def test_rare_symbols_escape():
    latent, mean, scale = field(3, low=-1, high=0)
    latent.view(-1)[[5, 500, 2000]] = torch.tensor([9000.0, -123456.0, 4e9], dtype=torch.float64)
    _, known, again = round_trip(latent, mean, scale)
    assert torch.equal(known, again)
    assert float((known - latent).abs().view(-1)[[5, 500]].max()) <= 0.5
    assert float(known.view(-1)[2000]) == pytest.approx(stream.MAX_SYMBOL, abs=10)  # clipped


def test_plain_python_reads_the_same_symbols():
    """docs/format.md is enough to read a payload: nothing of constriction is used here but its bytes."""
    latent, mean, scale = field(4, (1, 2, 8, 8), low=-2.0, high=1.0)
    encoder, known, _ = round_trip(latent, mean, scale)
    payload = encoder.payload()
    assert payload[4] == 0  # no escapes
    words = payload[5:] + b"\0" * (-len(payload[5:]) % 4)
    reference = Reference(list(struct.unpack(f"<{len(words) // 4}I", words)))
    index = table_index(scale)
    symbols = np.zeros(len(index), int)
    for i in range(1, 64):
        for position in np.flatnonzero(index == i):
            table = tables.gaussian_tables()[i]
            symbols[position] = reference.decode(table.frequencies.tolist()) + table.first
    assert reference.empty
    assert np.array_equal(symbols, (known - mean).round().view(-1).numpy().astype(int))


def test_calibration_lists_close_choices_and_obeys_the_list():
    latent, mean, scale = field(5)
    border = tables.SKIP_SCALE * math.exp(20 * tables.LOG_STEP)
    scale.view(-1)[[7, 77]] = torch.tensor([border, border * (1 + 1e-13)], dtype=torch.float64)
    encoder = Encoder()
    known = encoder.gaussian("y", latent, mean, scale)
    assert len(encoder.calibration()) == 4  # two positions, two sides
    # Another machine sees the same scales on the other side of the border.
    moved = scale.clone()
    moved.view(-1)[[7, 77]] = torch.tensor([border * (1 + 8e-10), border * (1 - 8e-10)], dtype=torch.float64)
    decoder = Decoder(encoder.payload(), encoder.calibration())
    assert torch.equal(decoder.gaussian("y", None, mean, moved), known)
    decoder.finish()


def test_a_listed_choice_far_from_any_border_is_refused():
    latent, mean, scale = field(5)
    scale.view(-1)[7] = 1e-3  # skipped
    encoder = Encoder()
    encoder.gaussian("y", latent, mean, scale)
    with pytest.raises(MismatchError):
        Decoder(encoder.payload(), bytes([7, 1])).gaussian("y", None, mean, scale)


def test_unlisted_close_choice_is_refused():
    latent, mean, scale = field(6)
    encoder = Encoder()
    encoder.gaussian("y", latent, mean, scale)
    scale.view(-1)[9] = tables.SKIP_SCALE * math.exp(30 * tables.LOG_STEP)
    with pytest.raises(MismatchError, match="computes differently"):
        Decoder(encoder.payload(), encoder.calibration()).gaussian("y", None, mean, scale)


def test_another_table_is_noticed():
    latent, mean, scale = field(7)
    encoder = Encoder()
    encoder.gaussian("y", latent, mean, scale)
    scale.view(-1)[100] *= 1.3
    decoder = Decoder(encoder.payload())
    with pytest.raises(ZooError):
        decoder.gaussian("y", None, mean, scale)
        decoder.finish()


def test_symbols_left_over_are_refused():
    latent, mean, scale = field(8)
    encoder = Encoder()
    encoder.gaussian("y", latent, mean, scale)
    decoder = Decoder(encoder.payload())
    decoder.gaussian("y", None, mean[:, :4], scale[:, :4])
    with pytest.raises(MismatchError):
        decoder.finish()


@pytest.mark.parametrize(
    "payload", [b"", b"\0\0\0\0", b"\0\0\0\0\xff", b"\0\0\0\0\x09ab", b"\0\0\0\0" + b"\xff" * 9]
)
def test_absurd_payloads_are_refused(payload):
    latent, mean, scale = field(9, (1, 1, 4, 4), low=0, high=1)
    with pytest.raises((FileError, MismatchError)):
        decoder = Decoder(payload)
        decoder.gaussian("y", None, mean, scale)
        decoder.finish()


def test_symbols_have_one_form_only():
    """Longer forms of numbers, zeros at the end, and doubled choices would be other bytes for the same picture."""
    latent, mean, scale = field(10)
    latent[0, 0, 0, :2] = 5000.0  # two escapes
    encoder = Encoder()
    encoder.gaussian("y", latent, mean, scale)
    payload = encoder.payload()

    def read(payload, calibration=b""):
        decoder = Decoder(payload, calibration)
        decoder.gaussian("y", None, mean, scale)
        decoder.finish()

    read(payload)
    escapes = payload[5 : 5 + payload[4]]
    assert len(escapes) >= 4 and not escapes[-1] & 0x80
    longer = escapes[:-1] + bytes([escapes[-1] | 0x80, 0])
    longer_length = bytes([payload[4] | 0x80, 0])
    with pytest.raises(CorruptFileError, match="too long"):
        read(payload[:4] + bytes([len(longer)]) + longer + payload[5 + len(escapes) :])
    with pytest.raises(CorruptFileError, match="too long"):
        read(payload[:4] + longer_length + payload[5:])
    with pytest.raises(CorruptFileError, match="ends in a zero"):
        read(payload + b"\0")
    with pytest.raises(CorruptFileError, match="lists a place twice"):
        read(payload, b"\x03\x05\x00\x05")


@pytest.mark.parametrize("level", [1.0, 3.4, 6.0])
def test_factorized_round_trip(level):
    torch.manual_seed(0)
    prior, gains = (m.requires_grad_(False) for m in (FactorizedPrior(6), RateGains(6)))
    prior.update(gains)
    prior.double()
    level_tensor = torch.tensor([level], dtype=torch.float64)
    gain = gains.double()(level_tensor)
    z = torch.randn(1, 6, 5, 7, dtype=torch.float64) * 4
    z[0, 0, 0, 0] = 700.0  # far outside the table
    encoder = Encoder()
    known = encoder.factorized("z", z, prior, (6, 5, 7), gain, level_tensor)
    decoder = Decoder(encoder.payload())
    assert torch.equal(decoder.factorized("z", None, prior, (6, 5, 7), gain, level_tensor), known)
    decoder.finish()
    assert float((known - z).abs().max()) <= float(gain.step.max()) / 2 + 1e-9


def test_factorized_tables_follow_the_density():
    torch.manual_seed(0)
    prior = FactorizedPrior(3)
    prior.update()
    for channel, table in enumerate(prior.tables(None)):
        x = (
            torch.arange(table.first, table.first + table.escape)
            .double()
            .view(1, 1, 1, -1)
            .expand(1, 3, 1, -1)
        )
        p = FactorizedPrior.likelihood(prior.double(), x)[0, channel, 0].detach().numpy()
        assert np.abs(table.frequencies[:-1] / tables.TOTAL - p).max() < 1e-3


def test_prior_without_tables_says_so():
    with pytest.raises(WrongWeightsError, match="update"):
        FactorizedPrior(2).tables(None)


def test_constriction_uses_our_integers():
    """The fixed-point form of a table must be frequency * 2^8 exactly, or files would depend on constriction."""
    frequencies = np.array([1, 2, 60000, 5000, 533])
    symbols = [2, 2, 2, 3, 0, 1, 4, 2]
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(np.array(symbols, np.int32), tables.Table(0, frequencies).model)
    reference = Reference(coder.get_compressed().tolist())
    assert [reference.decode(frequencies.tolist()) for _ in symbols] == symbols
    assert reference.empty
