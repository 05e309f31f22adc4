"""What the modules of this package that are commands have in common: errors as the commands of `zoo` report them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from zoo_core.cli import console, exits

log = logging.getLogger("zoo_core.selic")  # below the zoo's own, which `console` shows


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Do the work with the options of a command line and return its exit code, see `zoo_core.cli.exits`.

    Whatever it raises becomes one line on standard error.

    Args:
        arguments: words after the name of the module; those of the process by default.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(arguments)
    with console.session(verbosity=0, debug=args.debug):
        try:
            work(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            log.error("interrupted")
            return exits.INTERRUPTED
        except BrokenPipeError:  # the reader left; Python would complain about it once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exits.UNUSABLE
        except Exception as error:
            return exits.report(error)
    return exits.OK
