"""What coverage-guided fuzzing calls: bytes from nowhere against the container and against the entropy decoder.

The first byte chooses the door. Container bytes come as they are, or with their seals made right, so that the
fuzzer need not guess a CRC-32. Decoder bytes are read by a walk through every kind of step that methods use.
"""

from __future__ import annotations

import functools
import struct

import torch

from tests.fuzz.layout import Layout
from tests.fuzz.verdict import Failure
from zoo_core import container
from zoo_core.entropy.factorized import FactorizedPrior
from zoo_core.entropy.mixture import MixtureParameters
from zoo_core.entropy.stream import Decoder, Encoder
from zoo_core.errors import ZooError
from zoo_core.layers.rate import Gain

RAW, SEALED, CODER = range(3)
"""First byte, modulo 3."""


def one_input(data: bytes) -> str | None:
    """Name of the error that the input ends in, None if it is taken; anything but an error of the zoo is raised."""
    if not data:
        return None
    door, rest = data[0] % 3, data[1:]
    try:
        if door == CODER:
            read_symbols(rest)
        else:
            read_container(sealed(rest) if door == SEALED else rest)
    except ZooError as error:
        return type(error).__name__
    return None


def read_container(data: bytes) -> None:
    """A container that is taken says the same when it is written again, without sections of the future."""
    header, sections = container.read(data)
    info = container.inspect(data)
    again = container.write(header, sections)
    if len(info.sections) == len(sections) and again != data:
        raise Failure("one content has two sequences of bytes")


def sealed(data: bytes) -> bytes:
    """The data with right seals, if it can be cut into fields at all."""
    try:
        return Layout.of(data).build()
    except IndexError:
        return data


def read_symbols(data: bytes) -> None:
    """Payload and calibration, with the length of the latter in front; symbols that are accepted encode to it."""
    if len(data) < 2:
        return
    (length,) = struct.unpack_from("<H", data)
    calibration, payload = data[2 : 2 + length], data[2 + length :]
    decoder = Decoder(payload, calibration)
    latents = walk(decoder)
    decoder.finish()
    encoder = Encoder()
    walk(encoder, latents)
    if encoder.payload() != payload:
        raise Failure("one sequence of symbols has two payloads")


def walk(coder, latents=(None,) * 4) -> tuple[torch.Tensor, ...]:
    """Every kind of step; parameters are fixed, and lie in the middle between borders of tables."""
    prior, mean, scale, mixture, gain = _parameters()
    z = coder.factorized("z", latents[0], prior, (2, 2, 2), None, torch.tensor([3.0]))
    used = coder.channels("mask", latents[1], 4)
    y = coder.gaussian("y", latents[2], mean, scale, gain)
    w = coder.mixture("w", latents[3], mixture)
    return z, used.double().view(1, 4, 1, 1), y, w


@functools.cache
def _parameters():
    """Scales from the skipped ones to the widest; mixtures of two components."""
    torch.manual_seed(0)
    prior = FactorizedPrior(2).double()
    prior.update()
    position = torch.arange(32, dtype=torch.float64).view(1, 4, 2, 4)
    scale, mean = 0.1 * 1.27**position, (position * 0.37).remainder(1)
    two = torch.stack([scale, scale.flip(1)], 1)
    mixture = MixtureParameters(
        ("normal", "laplace"), torch.full_like(two, 0.5), torch.stack([mean, 3 - mean], 1), two
    )
    return prior, mean, scale, mixture, Gain(torch.full((1, 4, 1, 1), 2.0), torch.full((1, 4, 1, 1), 0.5))
