"""`zoo eval`: rate and distortion on real files, beside published curves and classical codecs."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core import registry
from zoo_core.cli import console, exits, files, options
from zoo_core.constants import LAMBDAS
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from zoo_core.evaluation.curves import Curve
    from zoo_core.evaluation.evaluate import Evaluation, Subject
    from zoo_core.evaluation.report import Report

ALL_LEVELS: tuple[float, ...] = tuple(float(level) for level in range(1, len(LAMBDAS) + 1))

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `zoo eval`."""
    parser.usage = "zoo eval (MODEL[,MODEL...] | --all) PICTURES... [options]"
    add = parser.add_argument
    add("words", nargs="+", metavar="MODEL PICTURES", help="a method or a level of it; files or folders")
    add("--all", action="store_true", help="all installed codecs; then no MODEL is named")
    add("--levels", type=options.levels, metavar="LIST", help="as 1,2.5,4..6 (default: all six)")
    add("--against", type=_words, default=(), metavar="LIST", help="published curves, as vtm-9.1,webp")
    add("--anchors", type=_words, default=(), metavar="LIST", help="of jpeg, jpeg-420, webp, avif, jxl")
    add("--json", type=Path, metavar="FILE", help="write everything, per picture")
    add("--plot", type=Path, metavar="FILE", help="draw the curves (png, svg, pdf)")
    add("--markdown", action="store_true", help="print Markdown tables")
    add("--save", type=Path, metavar="FOLDER", help="keep the compressed files")
    add("-f", "--force", action="store_true", help="overwrite what exists")
    options.add_runtime(parser)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, and write what was asked for."""
    from zoo_core import images
    from zoo_core.evaluation import anchors, curves

    images.use_own_pixel_limit()
    models, pictures = _models_and_pictures(args)
    references = [curves.reference(name) for name in args.against]
    classical = [anchors.anchor(name) for name in args.anchors]
    _check_outputs(args)
    options.use_threads(args.threads)
    codecs = [e for e in _evaluate_codecs(models, pictures, args) if e is not None]
    report = _report(codecs, [_evaluate(a, pictures, args) for a in classical], references)
    if report.evaluations:
        _publish(report, args)
    return _exit_code(report, len(models) - len(codecs))


def _models_and_pictures(args: argparse.Namespace) -> tuple[dict[str, tuple[float, ...]], list[Path]]:
    """Levels by method, and the pictures.

    Raises:
        UsageError: no pictures, standard input among them, or a level that is given twice.
    """
    names = [entry.name for entry in registry.entries() if entry.kind == "codec"] if args.all else None
    inputs = args.words
    if names is None:
        names, inputs = args.words[0].split(","), args.words[1:]
    models: dict[str, tuple[float, ...]] = {}
    for name in names:
        entry, level = registry.parse(name)
        if level is not None and args.levels is not None:
            raise UsageError(f"{name} names its level already; leave out --levels, or write {entry.name}")
        more = (args.levels or ALL_LEVELS) if level is None else (level,)
        models[entry.name] = tuple(sorted({*models.get(entry.name, ()), *more}))
    if args.weights is not None and len(models) > 1:
        raise UsageError("--weights belongs to one method; name only that one")
    if not inputs or files.STREAM in inputs:
        raise UsageError("name at least one picture or folder after the model")
    jobs = files.find(inputs, files.PICTURES)
    for job in jobs:
        if job.problem is not None:
            raise job.problem
    return models, [job.source for job in jobs if job.source]


def _check_outputs(args: argparse.Namespace) -> None:
    """Find out before hours of measuring what could not be written after them."""
    from zoo_core.evaluation import figure

    if args.plot:
        figure.require(args.plot)
    if args.force:
        return
    for path in (args.json, args.plot):
        if path is not None and path.exists():
            raise UsageError(f"{path} exists: overwrite it with -f, or choose another file")
    if args.save is not None and args.save.is_dir() and any(args.save.iterdir()):
        raise UsageError(f"{args.save} is not empty: write into it with -f, or choose another folder")


def _evaluate_codecs(
    models: dict[str, tuple[float, ...]], pictures: Sequence[Path], args: argparse.Namespace
) -> Iterator[Evaluation | None]:
    """One evaluation for each method; None for one that cannot be used, which is reported."""
    import zoo_core as zoo
    from zoo_core.evaluation.evaluate import LearnedCodec

    runtime = {"device": args.device, "weights": args.weights}
    for name, wanted in models.items():
        try:
            codec = zoo.load(name, **runtime)
            yield _evaluate(LearnedCodec(codec, name, wanted, decoding=runtime), pictures, args)
        except Exception as error:  # whatever is wrong with one codec, the others are measured
            exits.report(error, source=name)
            yield None


def _evaluate(subject: Subject, pictures: Sequence[Path], args: argparse.Namespace) -> Evaluation:
    from zoo_core.evaluation.evaluate import evaluate

    evaluation = evaluate(subject, pictures, folder=args.save, watch=console.progress)
    for failure in evaluation.failures:
        log.error("%s: %s: %s", subject.name, failure.picture, failure.reason)
    return evaluation


def _report(codecs: list[Evaluation], anchors: list[Evaluation], references: list[Curve]) -> Report:
    from zoo_core.evaluation.report import Report

    command = shlex.join(["zoo", *sys.argv[1:]])
    return Report(codecs, anchors, references, command)


def _publish(report: Report, args: argparse.Namespace) -> None:
    from zoo_core.evaluation.report import to_json, to_text

    print(to_text(report, markdown=args.markdown), end="")
    if args.json:
        with files.writing(args.json) as file:
            file.write(to_json(report).encode())
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        report.draw(args.plot)


def _exit_code(report: Report, unusable_codecs: int) -> int:
    if not report.evaluations:
        return exits.UNUSABLE
    failures = [failure for e in (*report.codecs, *report.anchors) for failure in e.failures]
    return exits.SOME_FAILED if failures or unusable_codecs else exits.OK
