"""Options that several commands share, and the codecs that they ask for."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core import registry
from zoo_core.constants import DEFAULT_MODEL, LAMBDAS

if TYPE_CHECKING:
    from zoo_core.codec import Codec

log = logging.getLogger(__name__)


def add_inputs(parser: argparse.ArgumentParser, what: str) -> None:
    """The files to read."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=f"{what}, folders of them, or - for stdin")


def add_files(parser: argparse.ArgumentParser, what: str, default: str) -> None:
    """The files to read, `-o` and `-f`."""
    add_inputs(parser, what)
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help=f"file, folder, or - for stdout (default: {default}); a folder if there are several inputs",
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite files that exist")


def add_model(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """`-m`, `--preset` and `-q`; the group of `-q` is returned for options that exclude it."""
    parser.add_argument(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="model, see zoo list (default: %(default)s)",
    )
    parser.add_argument("--preset", default="base", help="size of the model (default: %(default)s)")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "-q",
        "--quality",
        type=float,
        metavar="LEVEL",
        help="quality from 1 to 6, decimals allowed; goes before the level in the model's name",
    )
    return rate


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Where the work runs and with which weights."""
    parser.add_argument("--device", default="cpu", help="device of torch (default: %(default)s)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="instead of the published weights")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads (default: torch decides)")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """How many files are worked on at a time, and where."""
    add = parser.add_argument
    add("-j", "--jobs", type=positive, metavar="N", help="work on N files at a time (default: one per core)")
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="work on a Ray cluster: the one at ADDRESS, or the one that Ray finds, or a new one here",
    )


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Going on after an interruption."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip files whose output is there: whole, not older, and written with the same options",
    )


def positive(text: str) -> int:
    """An argument that counts something."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return value


def levels(text: str) -> tuple[float, ...]:
    """ "1,2.5,4..6" -> (1, 2.5, 4, 5, 6), sorted; a range counts in whole steps."""
    chosen: set[float] = set()
    try:
        for part in text.split(","):
            low, dots, high = part.partition("..")
            chosen.update(range(int(low), int(high) + 1) if dots else [float(low)])
    except ValueError:
        raise argparse.ArgumentTypeError(f"cannot read {text!r}; write levels as 1,2.5,4..6") from None
    if not chosen or not all(1 <= level <= len(LAMBDAS) for level in chosen):
        raise argparse.ArgumentTypeError(f"no such levels {text!r}; they lie between 1 and {len(LAMBDAS)}")
    return tuple(sorted(map(float, chosen)))


def size(text: str) -> int:
    """An argument in bytes: 1500, 800M, 4G, with units of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 800M or 4G")
    return int(float(match[1]) * 1024 ** " kmg".index(match[2] or " "))


def use_threads(count: int | None) -> None:
    """Limit torch to so many threads; None leaves its own choice."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def load_codec(args: argparse.Namespace) -> Codec:
    """The codec that `-m`, `-q`, `--preset` and the runtime options describe."""
    entry, level = registry.parse(args.model)
    quality = level if args.quality is None else args.quality
    use_threads(args.threads)
    return _load(entry.name, quality, args.preset, args)


class CodecCache:
    """Loads the codec that a .zoo file names, once for all files of a command."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._codecs: dict[tuple[str, str], Codec] = {}
        use_threads(args.threads)

    def codec_for(self, data: bytes) -> Codec:
        """The codec for these bytes of a .zoo file."""
        from zoo_core import container

        info = container.inspect(data)
        key = (info.method, info.preset)
        if key not in self._codecs:
            self._codecs[key] = _load(info.method, None, info.preset, self._args)
        return self._codecs[key]


def _load(method: str, quality: float | None, preset: str, args: argparse.Namespace) -> Codec:
    from zoo_core import codec

    loaded = codec.load(method, quality=quality, preset=preset, device=args.device, weights=args.weights)
    weights = loaded.weights.path if loaded.weights else "random weights"
    log.debug("loaded %s, preset %s, with %s", method, preset, weights)
    return loaded
