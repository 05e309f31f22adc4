"""Commands of plugins, `python -m zoo_method.name`: they report errors as the commands of `zoo` do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from zoo_core.cli import console, exits


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Do the work with the options of a command line and return its exit code, see `zoo_core.cli.exits`.

    Args:
        parser: of the module's options; gets `--debug`.
        arguments: words after the name of the module; those of the process by default.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)

    def done() -> int:
        work(args)
        return exits.OK

    with console.session(verbosity=0, debug=args.debug):
        return exits.reporting(done)
