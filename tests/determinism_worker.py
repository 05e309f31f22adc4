"""One setting of `tests/check_determinism.py`, in a process of its own: encodes pictures, or decodes files.

    python tests/determinism_worker.py JOB.json

The job names models, pictures, levels, files and what the setting switches; the answer is printed as JSON.
What must be set before torch starts (instruction sets, libraries) is in the environment already.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import zoo_core as zoo
from zoo_core import container, images, tiles
from zoo_core.codec import Codec
from zoo_core.constants import QUALITY_STEP
from zoo_core.container import DIGEST_SIZE, Header, Section
from zoo_core.entropy import stream
from zoo_core.entropy.integer_mixture import grid_positions, rounding
from zoo_core.entropy.tables import SKIP_SCALE
from zoo_core.testing.poison import Recorder

BATCH = 8


def main() -> None:
    """Do what the job says."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    torch.backends.mkldnn.set_flags(job["onednn"])
    codec = zoo.load(job["model"], weights=job["weights"], device=job["device"])
    act = {"encode": encode, "batch": encode_batches, "decode": decode}[job["action"]]
    answer = {"torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability(), **act(codec, job)}
    print(json.dumps(answer))


def encode(codec: Codec, job: dict[str, Any]) -> dict[str, Any]:
    """Write a file of every picture at every level."""
    tile = 2 * codec.stride if job["tiles"] else 0
    precision = torch.autocast("cpu", torch.bfloat16) if job["bf16"] else contextlib.nullcontext()
    for path in job["pictures"]:
        picture = images.read(path)
        with precision:
            latents = codec.analyse(picture, tile)
        for level in job["levels"]:
            _target(job, path, level).write_bytes(_file(codec, latents, level, picture.size, tile))
    return {}


def encode_batches(codec: Codec, job: dict[str, Any]) -> dict[str, Any]:
    """The same, analysed in batches, and count what differs when the walk runs on a batch too."""
    different = compared = 0
    for batch in _batches(job["pictures"]):
        pixels = np.stack([images.read(picture).pixels for picture in batch])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            latents = codec.model.transform.analysis(x.contiguous(memory_format=torch.channels_last))
        for level in job["levels"]:
            together = _walk(codec, latents, level)
            for i, picture in enumerate(batch):
                one = tuple(y[i : i + 1] for y in latents)
                for a, b in zip(_walk(codec, one, level), together, strict=True):
                    different += int((a[0] != b[i]).sum())
                    compared += a[0].size
                size = pixels.shape[2], pixels.shape[1]
                _target(job, picture, level).write_bytes(_file(codec, one, level, size, 0))
    return {"different": different, "compared": compared}


def _batches(pictures: list[str]) -> list[list[str]]:
    """Groups of up to `BATCH` pictures of one size."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for picture in pictures:
        groups.setdefault(images.read(picture).pixels.shape, []).append(picture)
    return [group[i : i + BATCH] for group in groups.values() for i in range(0, len(group), BATCH)]


def _file(codec: Codec, latents: tuple[Tensor, ...], level: float, size: tuple[int, int], tile: int) -> bytes:
    """The file of a picture of `size` = (W, H) with these latents, as `Codec.encode` writes it."""
    width, height = size
    grid = tiles.checked(tiles.Grid.of(codec.model, (height, width), tile))
    payload, calibration, _ = tiles.write(codec.model, latents, level, grid)
    header = Header(
        method=codec.entry.name,
        preset=codec.preset,
        digest=bytes.fromhex(codec.weights.sha256)[:DIGEST_SIZE],
        quality=round(level * QUALITY_STEP),
        width=width,
        height=height,
        tile=grid.side,
        grey=False,
    )
    sections = {Section.SYMBOLS: payload, Section.CALIBRATION: calibration}
    return container.write(header, {kind: value for kind, value in sections.items() if value})


class Walk(Recorder):
    """Rounds as a file does, a batch too, and keeps the choices of tables and the symbols.

    Attributes:
        found: arrays (B, n), the choices and the symbols of each step in turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[np.ndarray] = []

    def gaussian(self, name, latent, mean, scale, gain=None):
        factor, step = (1.0, 1.0) if gain is None else gain
        symbols = ((latent - mean) * factor).round()
        self._keep([stream.table_index(one) for one in scale * factor], symbols)
        return mean + symbols * step

    def mixture(self, name, latent, parameters, gain=None):
        factor, step = (1.0, 1.0) if gain is None else gain
        symbols = (latent * factor).round()
        mixtures = parameters if gain is None else parameters.scaled(factor)
        self._keep([_nearest(mixtures, i) for i in range(len(latent))], symbols)
        return symbols * step

    def channels(self, name, latent, count, gain=None):
        """All of them, so that a batch and its pictures walk alike."""
        return torch.ones(count, dtype=torch.bool)

    def _keep(self, choices: list[np.ndarray], symbols: Tensor) -> None:
        self.found += [np.stack(choices), symbols.flatten(1).numpy()]


def _nearest(mixtures: Any, picture: int) -> np.ndarray:
    """Parameters of one picture of a batch, rounded to their grid."""
    weight, mean, scale = (x[picture : picture + 1] for x in (mixtures.weight, mixtures.mean, mixtures.scale))
    one = type(mixtures)(mixtures.families, weight, mean, scale)
    integers, _, _ = rounding(grid_positions(one), 0.0)
    return integers.numpy()


def _walk(codec: Codec, latents: tuple[Tensor, ...], level: float) -> list[np.ndarray]:
    """Choices and symbols of every step, (B, n) each."""
    walk, stride = Walk(), codec.model.transform.downscale
    shapes = codec.model.transform.latent_shapes(*(n * stride for n in latents[0].shape[-2:]))
    levels = torch.full((len(latents[0]),), float(level), dtype=torch.float64)
    with torch.inference_mode():
        latents = tuple(y.double().contiguous() for y in latents)
        codec.model.entropy_model.code(walk, latents, shapes, levels)
    return walk.found


def decode(codec: Codec, job: dict[str, Any]) -> dict[str, Any]:
    """Check every file; compare with the traces that lie beside, or write them where they are asked for."""
    failures, distance = [], {"log-scale": 0.0, "mixture": 0.0}
    stream.Decoder = Tracing  # what the codec reads files with
    for name in job["files"]:
        Tracing.trace = []
        try:
            codec.check(Path(name).read_bytes())
        except Exception as error:  # whatever it is, the file does not decode here
            failures.append(f"{name}: {type(error).__name__}: {error}")
            continue
        if name in job["traced"]:
            _compare(Path(job["traces"]), name, distance, write=job["write_traces"])
    return {"failures": failures, "distance": distance}


class Tracing(stream.Decoder):
    """A decoder that notes what chooses its tables: logarithms of scales, positions of mixtures."""

    trace: list[tuple[str, np.ndarray]] = []

    def gaussian(self, name, latent, mean, scale, gain=None):
        deviation = scale if gain is None else scale * gain.scale
        logarithm = (deviation.clamp_min(1e-3) / SKIP_SCALE).log()
        self.trace.append(("log-scale", logarithm.reshape(-1).numpy()))
        return super().gaussian(name, latent, mean, scale, gain)

    def mixture(self, name, latent, parameters, gain=None):
        scaled = parameters if gain is None else parameters.scaled(gain.scale)
        self.trace.append(("mixture", grid_positions(scaled).reshape(-1).numpy()))
        return super().mixture(name, latent, parameters, gain)


def _compare(folder: Path, name: str, distance: dict[str, float], write: bool) -> None:
    """Largest distances from the trace of the reference, in log-scale and in relative position."""
    for step, (kind, values) in enumerate(Tracing.trace):
        path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{step}.npy"
        if write:
            np.save(path, values)
            continue
        before = np.load(path)
        gap = np.abs(values - before)
        if kind == "mixture":
            gap /= 1 + np.abs(before)
        distance[kind] = max(distance[kind], float(gap.max(initial=0)))


def _target(job: dict[str, Any], picture: str, level: float) -> Path:
    return Path(job["out"]) / f"{Path(picture).stem}-q{level:g}.zoo"


if __name__ == "__main__":
    main()
