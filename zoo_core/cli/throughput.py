"""Pictures a second of a whole folder, by different ways to share the processor, for `zoo bench --directory`.

The ways take turns: worker processes as `zoo encode --jobs` starts them, 1, 2, ... up to one per thread, which
share the threads; and batches of pictures in one process, which share each layer of the transforms. Starting and
loading are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from zoo_core.cli import decode, encode, exits, options
from zoo_core.cli.workers import Done, Processes, Task, Work
from zoo_core.container import MAGIC
from zoo_core.errors import ZooError
from zoo_core.evaluation.tables import Row
from zoo_core.evaluation.watch import Watch, watch_nothing

if TYPE_CHECKING:
    from zoo_core.codec import Codec

BATCHES = (4, 8)


class Way(Protocol):
    """One way to work on a folder."""

    title: str

    def encode(self, pictures: Sequence[bytes]) -> Sequence[Any]: ...

    def decode(self, coded: Sequence[Any]) -> None: ...


@dataclass(frozen=True)
class Throughput:
    """Median pictures a second each way."""

    title: str
    encode: float
    decode: float


def measure(
    model: str, pictures: Sequence[bytes], threads: int, rounds: int, watch: Watch = watch_nothing
) -> list[Throughput]:
    """All ways, taking turns; a first round with two pictures for each worker warms up.

    Args:
        model: method and level. pictures: whole files. threads: that every way may use.

    Raises:
        ZooError: a picture cannot be encoded.
    """
    options.use_threads(threads)
    with contextlib.ExitStack() as stack:
        ways: list[Way] = [
            stack.enter_context(contextlib.closing(WorkersWay(model, jobs, threads // jobs)))
            for jobs in _counts(threads)
        ]
        ways += [BatchWay(model, size) for size in BATCHES]
        for way in ways:
            way.decode(way.encode(pictures[: 2 * threads]))
        names = [f"round {k}" for k in range(1, rounds + 1)]
        times: list[list[tuple[float, float]]] = [[] for _ in ways]
        for _ in watch(names, names):
            for way, found in zip(ways, times, strict=True):
                found.append(_once(way, pictures))
    return [_result(way.title, len(pictures), found) for way, found in zip(ways, times, strict=True)]


def _counts(threads: int) -> list[int]:
    """1, 2, 4, ... and `threads` itself."""
    powers = [2**k for k in range(threads.bit_length())]
    return sorted({*powers, threads})


def _once(way: Way, pictures: Sequence[bytes]) -> tuple[float, float]:
    start = time.perf_counter()
    coded = way.encode(pictures)
    between = time.perf_counter()
    way.decode(coded)
    return between - start, time.perf_counter() - between


def _result(title: str, count: int, found: Sequence[tuple[float, float]]) -> Throughput:
    encode_seconds, decode_seconds = (statistics.median(seconds) for seconds in zip(*found, strict=True))
    return Throughput(title, count / encode_seconds, count / decode_seconds)


class WorkersWay:
    """Worker processes, as the commands use them, without the writing of files."""

    def __init__(self, model: str, jobs: int, threads: int) -> None:
        self.title = f"{jobs} process{'es' if jobs > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
        self._crew = Processes(partial(_prepare, model, threads), jobs, -1)
        if self._crew.prepare().code != exits.OK:
            raise ZooError(f"{model} cannot be loaded in a process of its own: try zoo encode with it")

    def close(self) -> None:
        self._crew.close()

    def encode(self, pictures: Sequence[bytes]) -> list[bytes]:
        return self._all(pictures)

    def decode(self, coded: Sequence[bytes]) -> None:
        self._all(coded)

    def _all(self, files: Sequence[bytes]) -> list[bytes]:
        waiting, idle = enumerate(files), list(range(self._crew.count))
        results: dict[int, bytes] = {}
        running: dict[int, int] = {}
        while len(results) < len(files):
            for worker, (number, data) in zip(list(idle), waiting, strict=False):
                idle.remove(worker)
                running[worker] = number
                self._crew.give(worker, Task(f"picture {number + 1}", data))
            worker, outcome = self._crew.wait()
            if outcome.done is None:
                raise ZooError(outcome.records[-1].getMessage())
            results[running.pop(worker)] = outcome.done.data
            idle.append(worker)
        return [results[number] for number in range(len(files))]


def _options(command: ModuleType, *words: str) -> argparse.Namespace:
    """What a command would be called with for standard input."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["-", *words])
    args.quiet, args.verbose = True, 0
    return args


def _prepare(model: str, threads: int) -> Work:
    """Encodes what is a picture and decodes what is not."""
    shared = ("--threads", str(threads))
    encoding = encode.prepare(_options(encode, "-m", model, *shared))
    decoding = decode.prepare(_options(decode, *shared), ".png")

    def work(task: Task) -> Done:
        return (decoding if task.data.startswith(MAGIC) else encoding)(task)

    return work


class BatchWay:
    """Pictures of one size together in this process; the entropy coder takes one after the other."""

    def __init__(self, model: str, size: int) -> None:
        from zoo_core import codec

        self.title = f"batches of {size}, 1 process"
        self._codec: Codec = codec.load(model)
        self._size = size

    def encode(self, pictures: Sequence[bytes]) -> list[dict[str, Any]]:
        import torch

        from zoo_core import images

        read = [images.read(data).pixels for data in pictures]
        coded = []
        for group in self._batches(sorted(read, key=lambda pixels: pixels.shape)):
            height, width = (n + -n % self._codec.stride for n in group[0].shape[:2])
            x = torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in group]).float().div_(255)
            pad = (0, width - x.shape[-1], 0, height - x.shape[-2])
            x = torch.nn.functional.pad(x, pad, mode="replicate")
            x = x.contiguous(memory_format=torch.channels_last)
            coded.append(self._codec.model.compress(x, self._codec.quality))
        return coded

    def _batches(self, ordered: Iterable[Any]) -> Iterator[list[Any]]:
        for _, same in groupby(ordered, key=lambda pixels: pixels.shape):
            group = list(same)
            for start in range(0, len(group), self._size):
                yield group[start : start + self._size]

    def decode(self, coded: Sequence[dict[str, Any]]) -> None:
        import torch
        from PIL import Image

        from zoo_core.model import read_latents

        model, level = self._codec.model, self._codec.quality
        for batch in coded:
            latents = [
                read_latents(model, payload, calibration, batch["shape"], level)
                for payload, calibration in zip(*batch["strings"], strict=True)
            ]
            with torch.inference_mode():
                joined = tuple(torch.cat(parts).float() for parts in zip(*latents, strict=True))
                x = model.transform.synthesis(joined).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
            for pixels in x.permute(0, 2, 3, 1).numpy():
                Image.fromarray(pixels).save(io.BytesIO(), "PNG")


def rows(results: Sequence[Throughput]) -> tuple[Row, list[Row]]:
    """A table with the ratio to the first way."""
    first = results[0]
    table: list[Row] = [
        (
            r.title,
            f"{r.encode:.2f}",
            f"{r.encode / first.encode:.2f}",
            f"{r.decode:.2f}",
            f"{r.decode / first.decode:.2f}",
        )
        for r in results
    ]
    return ("way", "encoded a second", "ratio", "decoded a second", "ratio"), table
