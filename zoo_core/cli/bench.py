"""`zoo bench`: where the time of encoding and decoding goes, memory of a large picture, time to start."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_core import registry
from zoo_core.cli import console, exits, files, options
from zoo_core.constants import DEFAULT_MODEL
from zoo_core.errors import UsageError

DEFAULT_LEVEL = 3
DEFAULT_SIZE = (768, 512)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `zoo bench`."""
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help="default: every installed codec at q3")
    add("--image", type=Path, metavar="FILE", help="a photo (default: a drawn picture)")
    add("--size", type=size, metavar="WxH", help="resize to this (default: as it is, drawn 768x512)")
    add("--levels", type=options.levels, metavar="LIST", help="of models named without one, as 1,2.5,4..6")
    add("--rounds", type=options.positive, default=5, metavar="N", help="default: %(default)s")
    add("--threads", type=options.positive, default=2, metavar="N", help="default: %(default)s")
    add("--peers", action="store_true", help="CompressAI's models in the same rounds")
    add("--json", type=Path, metavar="FILE", help="write all timings")
    add("-f", "--force", action="store_true", help="overwrite the file of --json")
    instead = parser.add_mutually_exclusive_group().add_argument
    instead("--megapixels", type=_megapixels, metavar="N", help="instead: peak memory at this size")
    instead("--coders", action="store_true", help="instead: entropy coders on drawn symbols")
    instead("--directory", type=Path, metavar="DIR", help="instead: pictures a second of a whole folder")
    instead("--startup", action="store_true", help="instead: whole commands in fresh processes")


def size(text: str) -> tuple[int, int]:
    """ "768x512" -> (768, 512)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"cannot read the size {text!r}; write it as 768x512")
    return int(width), int(height)


def _megapixels(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of megapixels above 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the JSON that was asked for."""
    if args.json is not None and args.json.exists() and not args.force:
        raise UsageError(f"{args.json} exists: overwrite it with -f, or choose another file")
    if args.coders:
        data = _coders(args)
    elif args.directory is not None:
        data = _directory(args)
    else:
        data = _codecs(args)
    if args.json is not None:
        with files.writing(args.json) as file:
            file.write(json.dumps(data, indent=1).encode() + b"\n")
    return exits.OK


def _codecs(args: argparse.Namespace) -> dict[str, Any]:
    """What is measured with a single picture."""
    models = [name for word in args.models or _installed() for name in _with_levels(word, args.levels)]
    with tempfile.TemporaryDirectory() as folder:
        picture = _picture(args, Path(folder))
        if args.megapixels:
            return _memory(models, picture, args)
        if args.startup:
            return _startup(models[0], picture, args)
        return _stages(models, picture, args)


def _installed() -> list[str]:
    names = [entry.name for entry in registry.entries() if entry.kind == "codec"]
    if not names:
        raise UsageError("no codec is installed; run: pip install zoo-weconvene")
    return names


def _with_levels(name: str, levels: Sequence[float] | None) -> list[str]:
    """ "weconvene" -> ["weconvene-q3"], or one name for each of the levels; a level in the name stays."""
    entry, level = registry.parse(name)
    chosen = (level,) if level is not None else levels or (DEFAULT_LEVEL,)
    return [f"{entry.name}-q{one:g}" for one in chosen]


def _picture(args: argparse.Namespace, folder: Path) -> Path:
    """The picture's file: the user's own, or a JPEG in `folder` that is drawn or resized as asked."""
    from PIL import Image

    from zoo_core import images
    from zoo_core.evaluation import synthetic

    images.use_own_pixel_limit()
    wanted = _three_by_two(args.megapixels) if args.megapixels else args.size
    if args.image is None:
        image = Image.fromarray(synthetic.picture(*(wanted or DEFAULT_SIZE)))
    elif wanted is None:
        return args.image
    else:
        image = images.to_pil(images.read(args.image, convert=True)).convert("RGB").resize(wanted)
    file = folder / f"picture-{image.width}x{image.height}.jpg"
    image.save(file, quality=95, subsampling="4:4:4")
    return file


def _three_by_two(megapixels: float) -> tuple[int, int]:
    height = round(math.sqrt(megapixels * 1e6 / 1.5))
    return round(1.5 * height), height


def _stages(models: Sequence[str], picture: Path, args: argparse.Namespace) -> dict[str, Any]:
    from zoo_core.evaluation import benchmark, peers
    from zoo_core.evaluation.tables import text_table

    options.use_threads(args.threads)
    contenders = [benchmark.ZooContender(name, picture) for name in dict.fromkeys(models)]
    others = [peers.PeerContender(name, picture) for name in peers.PEERS] if args.peers else []
    results = benchmark.run([*contenders, *others], args.rounds, console.progress)
    print(f"{picture.name}, {args.threads} threads, medians of {args.rounds} interleaved rounds\n")
    for result in results[: len(contenders)]:
        print(text_table(*benchmark.stage_rows(result)), end="\n\n")
    if len(results) > 1:
        print(text_table(*benchmark.coder_rows(results)), end="\n\n")
        print(text_table(*benchmark.ratio_rows(results)))
    untrained = [contender.name for contender in contenders if not contender.trained]
    if untrained:
        print(f"Not trained, with the weights that training starts from: {', '.join(untrained)}.")
    if others:
        print("CompressAI's models have random weights, and symbols drawn as those of trained ones.")
    return _data(picture.name, [dataclasses.asdict(result) for result in results])


def _coders(args: argparse.Namespace) -> dict[str, Any]:
    from zoo_core.evaluation import coders
    from zoo_core.evaluation.tables import text_table

    options.use_threads(1)
    results = coders.measure(args.rounds, console.progress)
    print(f"Gaussian tables, per symbol, medians of {args.rounds} interleaved rounds\n")
    print(text_table(*coders.coder_table(results)))
    return _data("drawn symbols", [dataclasses.asdict(result) for result in results])


def _directory(args: argparse.Namespace) -> dict[str, Any]:
    from zoo_core.cli import throughput
    from zoo_core.evaluation.tables import text_table

    (model,) = _with_levels((args.models or [DEFAULT_MODEL])[0], None)
    pictures = [job.read() for job in files.find([str(args.directory)], files.PICTURES)]
    results = throughput.measure(model, pictures, args.threads, args.rounds, console.progress)
    print(f"{model}, {len(pictures)} pictures, medians of {args.rounds} interleaved rounds\n")
    print(text_table(*throughput.rows(results)))
    return _data(str(args.directory), [dataclasses.asdict(result) for result in results])


def _memory(models: Sequence[str], picture: Path, args: argparse.Namespace) -> dict[str, Any]:
    from zoo_core.evaluation.tables import text_table

    measured = {name: _memory_of(name, picture, args.threads) for name in models}
    rows = [
        (
            f"{name} {direction}",
            *map(_mebibytes, (m["loaded"], m["peak"])),
            f"{m['seconds']:.2f}",
            str(m["bytes"]),
        )
        for name, both in measured.items()
        for direction, m in both.items()
    ]
    print(f"{picture.name}, {args.threads} threads, each in a process of its own\n")
    print(text_table(("codec", "loaded MiB", "peak MiB", "seconds", "bytes"), rows))
    return _data(picture.name, measured)


def _memory_of(model: str, picture: Path, threads: int) -> dict[str, dict[str, float | None]]:
    """What encoding takes, and decoding what that wrote."""
    from zoo_core.evaluation import memory

    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = Path(folder) / "coded.zoo", Path(folder) / "decoded.png"
        return {
            "encode": memory.measure_apart("encode", model, picture, coded, threads),
            "decode": memory.measure_apart("decode", model, coded, decoded, threads),
        }


def _mebibytes(count: float | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"


def _startup(model: str, picture: Path, args: argparse.Namespace) -> dict[str, Any]:
    from zoo_core.evaluation import startup
    from zoo_core.evaluation.tables import text_table

    seconds = startup.measure(model, picture, rounds=args.rounds, threads=args.threads)
    print(f"{picture.name}, {model}, whole processes, medians of {args.rounds} rounds\n")
    print(text_table(("command", "seconds"), [(name, f"{value:.3f}") for name, value in seconds.items()]))
    return _data(picture.name, seconds)


def _data(picture: str, measured: Any) -> dict[str, Any]:
    from zoo_core.evaluation.environment import environment

    return {"environment": environment(), "picture": picture, "measured": measured}
