"""`zoo verify`: proves that files decode here to the symbols that were encoded, without writing anything."""

from __future__ import annotations

import argparse

from zoo_core.cli import batch, files, options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    options.add_inputs(parser, ".zoo files")
    options.add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Check every input and return the exit code; the sound ones are listed on standard output."""

    def prepare() -> batch.Work:
        codecs = options.CodecCache(args)
        return lambda job: _verify(codecs, job, args.quiet)

    return batch.run(files.find(args.inputs, files.ZOO), prepare)


def _verify(codecs: options.CodecCache, job: files.Job, quiet: bool) -> None:
    data = job.read()
    codecs.codec_for(data).check(data)
    if not quiet:
        print(f"{job.name}: ok")
