"""`zoo train`: trains a method on a folder of photos, in a run folder that can be resumed at any time."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.cli import exits, options
from zoo_core.constants import PRECISIONS
from zoo_core.errors import UsageError
from zoo_core.training.recipe import CONFIG_FILE, Recipe, RunConfig

if TYPE_CHECKING:
    from zoo_core.training.loop import Trainer

_WARMUP_SHARE = 10
"""At most one step in so many is spent on warming up, so that short runs learn as well."""

_ERASE_LINE = "\r\x1b[K"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes. Options without a default are those of the run that is resumed."""
    add, recipe = parser.add_argument, Recipe()
    add("method", metavar="METHOD", help="method to train, see zoo list")
    add("--data", type=Path, metavar="DIR", help="folder of photos, searched to any depth")
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    add("--preset", help="size of the model (default: base)")
    add(
        "--set",
        dest="settings",
        nargs="+",
        action="extend",
        type=_setting,
        metavar="KEY=VALUE",
        help="arguments of the model other than the preset's: weconv=false",
    )
    add(
        "--objective",
        nargs="+",
        action="extend",
        type=_setting,
        metavar="KEY=VALUE",
        help="settings of the method's own objective, see its model card",
    )
    add(
        "--init",
        metavar="START",
        help="block: the method's own start; none: random weights; or a safetensors file (default: block, "
        "if the method has it)",
    )
    add("--like", metavar="METHOD", help="imitate a trained method: a start for a run with --init")
    length = parser.add_mutually_exclusive_group().add_argument
    length("--steps", type=options.positive, metavar="N", help=f"length (default: {recipe.steps})")
    length("--minutes", type=_minutes, metavar="X", help="length by the clock, the schedule included")
    add("--batch", type=options.positive, metavar="N", help=f"crops a step (default: {recipe.batch})")
    add("--crop", type=options.positive, metavar="N", help=f"side of a crop (default: {recipe.crop})")
    add(
        "--lr",
        dest="learning_rate",
        type=_above_zero,
        metavar="X",
        help=f"largest learning rate (default: {recipe.learning_rate:g})",
    )
    add("--level", type=_level, metavar="L", help="train this level, 1 to 6 (default: all)")
    add("--seed", type=int, metavar="N", help=f"of all random numbers (default: {recipe.seed})")
    add("--val", type=Path, metavar="DIR", help="photos to measure the final weights with")
    add("--device", default="cpu", help="device of torch (default: %(default)s)")
    add(
        "--precision",
        choices=PRECISIONS,
        help="of the networks; auto: bf16 where this device is faster with it (default: auto)",
    )
    add("--threads", type=options.positive, metavar="N", help="threads (default: torch decides)")
    instead = parser.add_mutually_exclusive_group().add_argument
    instead("--resume", action="store_true", help="go on with the run in RUN")
    instead("--export", action="store_true", help="no training: write the weights of the newest checkpoint")


def _setting(text: str) -> tuple[str, Any]:
    """ "weconv=false" -> ("weconv", False); what is no JSON is text."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    with contextlib.suppress(ValueError):
        return key, json.loads(value)
    return key, value


def _above_zero(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 1")


def _minutes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")


def _level(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 1 <= float(text) <= 6:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no level from 1 to 6")


def run(args: argparse.Namespace) -> int:
    """Train, or go on, or only export; print the summary, and return the exit code."""
    config = _config(args)
    options.use_threads(args.threads)
    from zoo_core.training import session
    from zoo_core.training.data import load_photos
    from zoo_core.training.finish import finish

    validation = load_photos(args.val) if args.val else ()
    if args.export:
        trained = session.newest(config, args.out)
    else:
        if args.resume:
            trainer = session.resume(config, args.out, args.device, _say)
        else:
            trainer = session.begin(config, args.out, args.device, _say, args.precision or "auto")
        _train(trainer)
        trained = trainer.model, trainer.average_state(), trainer.step
    summary = finish(config, *trained, args.out, validation)
    print(json.dumps(summary, indent=1))
    return exits.OK


# --- what to do -------------------------------------------------------------------------------------


def _config(args: argparse.Namespace) -> RunConfig:
    """The configuration of a new run from the options, or that of an old one, which they may not change."""
    asked: dict[str, Any] = {
        "preset": args.preset,
        "init": args.init,
        "like": args.like,
        "settings": args.settings and dict(args.settings),
        "objective": args.objective and dict(args.objective),
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    recipe: dict[str, Any] = {f.name: getattr(args, f.name, None) for f in fields(Recipe)}
    recipe = {key: value for key, value in recipe.items() if value is not None}
    if args.precision not in (None, "auto"):
        recipe["bf16"] = args.precision == "bf16"
    data: dict[str, Any] = {"data": str(args.data.resolve())} if args.data else {}
    if args.resume or args.export:
        config = RunConfig.read(args.out, args.method)
        _refuse_changes(config, asked | recipe, args.out)
        return replace(config, **data)
    if any((args.out / name).exists() for name in (CONFIG_FILE, "checkpoint.pt")):
        raise UsageError(
            f"'{args.out}' holds a run: go on with --resume, or choose another folder with --out"
        )
    config = RunConfig(args.method, recipe=Recipe(**recipe), **data, **asked)
    warmup = min(config.recipe.warmup, config.recipe.steps // _WARMUP_SHARE)
    return replace(config, recipe=replace(config.recipe, warmup=warmup))


def _refuse_changes(config: RunConfig, asked: dict[str, Any], folder: Path) -> None:
    recorded = {**vars(config), **vars(config.recipe)}
    for key, value in asked.items():
        if recorded[key] != value:
            raise UsageError(
                f"'{folder}' was started with {key} = {recorded[key]}, not {value}: leave that option out, "
                "or start another run"
            )


# --- training ---------------------------------------------------------------------------------------


def _train(trainer: Trainer) -> None:
    """Run to the end; raises KeyboardInterrupt if it was told to stop, after saving."""
    with _stopping_at_signals(trainer), _progress(trainer) as show:
        trainer.run(progress=show)
    if not trainer.done:
        log.info("saved at step %d: go on with --resume", trainer.step)
        raise KeyboardInterrupt


@contextlib.contextmanager
def _stopping_at_signals(trainer: Trainer) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets the step end and saves; a second one does what it always does."""
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in wanted}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        trainer.stop()

    try:
        for number in wanted:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- what the user sees -----------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(trainer: Trainer) -> Iterator[Callable[[int, float], None]]:
    """A function that shows the step on a terminal, as one line that overwrites itself."""
    recipe = trainer.recipe
    shown = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)

    def show(step: int, rate: float) -> None:
        if shown:
            if recipe.minutes is None:
                left = (recipe.steps - step) * recipe.batch / max(rate, 1e-9)
                last = f"/{recipe.steps}"
            else:
                left, last = 60 * recipe.minutes - trainer.seconds, ""
            line = f"step {step}{last}, {rate:.1f} crops/s, {_duration(left)} left"
            print(_ERASE_LINE + line[: shutil.get_terminal_size().columns - 1], end="", file=sys.stderr)
            sys.stderr.flush()

    try:
        yield show
    finally:
        if shown:
            print(_ERASE_LINE, end="", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _say(record: dict[str, Any]) -> None:
    """One line for each log record."""
    levels = {key: value for key, value in record.items() if key.startswith("q")}
    text = "  ".join(f"{key} {v['bpp']:.3f} bpp {v['psnr']:.2f} dB" for key, v in levels.items())
    log.info("step %d  %s", record["step"], text)
