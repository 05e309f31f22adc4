"""Writes the seeds of coverage-guided fuzzing, `tests/fuzz/corpus`: `python -m tests.fuzz.make_corpus`."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import torch

from tests.fuzz import harness
from zoo_core import container
from zoo_core.container import Header, Section
from zoo_core.entropy.stream import Encoder

FOLDER = Path(__file__).with_name("corpus")


def main() -> None:
    """Containers behind the first two doors, symbols behind the third."""
    FOLDER.mkdir(exist_ok=True)
    for name, data in {**containers(), **symbols()}.items():
        (FOLDER / name).write_bytes(data)


def containers() -> dict[str, bytes]:
    """Every kind of section and every optional field of the header, raw and to be sealed."""
    header = Header("feds", "base", b"digest!!", 640, 24, 16)
    headers = {
        "plain": header,
        "grey": dataclasses.replace(header, grey=True),
        "preset": dataclasses.replace(header, preset="paper"),
        "tiles": dataclasses.replace(header, width=300, height=20000, tile=128),
        "largest": dataclasses.replace(header, width=2**20, height=256, quality=1536),
    }
    every = {section: bytes([section, 1, 2]) for section in Section}
    files = {name: container.write(h, {Section.SYMBOLS: b"symbols"}) for name, h in headers.items()}
    files["sections"] = container.write(header, every)
    files["future"] = files["plain"].replace(b"\xc1\x07", b"\x81\x07") + b"\x7f\x03new" + bytes(4)
    files["cut"] = files["sections"][:50]
    doors = {"raw": harness.RAW, "sealed": harness.SEALED}
    return {f"{door}-{name}": bytes([n]) + data for door, n in doors.items() for name, data in files.items()}


def symbols() -> dict[str, bytes]:
    """Payloads of small and of large symbols, with escapes, and with a calibration section."""
    found = {}
    for name, size in (("zeros", 0.0), ("small", 1.0), ("large", 30.0), ("escapes", 4000.0)):
        torch.manual_seed(1)
        shapes = ((1, 2, 2, 2), (1, 4, 2, 4), (1, 4, 2, 4), (1, 4, 2, 4))
        encoder = Encoder()
        harness.walk(encoder, tuple(size * torch.randn(shape, dtype=torch.float64) for shape in shapes))
        payload = encoder.payload()
        found[f"coder-{name}"] = bytes([harness.CODER]) + struct.pack("<H", 0) + payload
        found[f"coder-{name}-listed"] = (
            bytes([harness.CODER]) + struct.pack("<H", 4) + b"\x02\x05\x03\x07" + payload
        )
    return found


if __name__ == "__main__":
    main()
