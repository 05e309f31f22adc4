"""`zoo verify`: proves that files decode here to the symbols that were encoded, without writing anything."""

from __future__ import annotations

import argparse
from functools import partial

from zoo_core.cli import batch, files, options
from zoo_core.cli.workers import Done, Task, Work


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    options.add_inputs(parser, ".zoo files")
    options.add_workers(parser)
    options.add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Check every input and return the exit code; the sound ones are listed on standard output."""
    jobs = files.find(args.inputs, files.ZOO)
    return batch.run(jobs, partial(_prepare, args), partial(_show, quiet=args.quiet), args)


def _prepare(args: argparse.Namespace) -> Work:
    return partial(_verify, options.CodecCache(args))


def _verify(codecs: options.CodecCache, task: Task) -> Done:
    codecs.codec_for(task.data).check(task.data)
    return Done(b"")


def _show(job: files.Job, done: Done, quiet: bool) -> None:
    if not quiet:
        print(f"{job.name}: ok")
