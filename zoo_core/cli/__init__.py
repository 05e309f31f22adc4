"""The command `zoo`: one module per command, imported only when that command is called.

A command's module has two functions, `add_arguments(parser)` and `run(args) -> int`. They import what
costs time inside their functions, so that help and listings start without torch.

Once imported, the modules `list` and `eval` hide the builtins of these names in this file.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from zoo_core import __version__
from zoo_core.cli import console, exits

log = logging.getLogger(__name__)

COMMANDS = {
    "list": "list the installed methods",
    "info": "describe a method, or a .zoo file without decoding it",
    "encode": "compress pictures to .zoo files",
    "decode": "turn .zoo files back into pictures",
    "verify": "check that .zoo files decode to the symbols that were encoded",
    "demo": "compress a real photo and draw it beside JPEG at the same size",
    "eval": "measure rate and distortion on real files, with BD-rates against named curves",
    "bench": "measure where the time of encoding and decoding goes",
    "train": "train a method on a folder of photos",
    "new-plugin": "write a working plugin to change into your own method",
    "push": "publish weights and model card on the Hugging Face Hub",
}
"""Every command with its line of help; its module is `zoo_core.cli.<command>`, with _ for -."""


_SPINS = "3000"
"""How often a thread of OpenMP looks for its next work before it sleeps. By default it looks 300,000 times, and on a
machine that has other work to do it keeps the processor from the threads that it waits for (docs/speed.md)."""


class _Parser(argparse.ArgumentParser):
    """Answers a wrong command line in one line instead of the whole usage.

    Attributes:
        words: the command line, in which a name of a file may look like an option.
    """

    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        file = next((word for word in self.words if word.startswith("-") and os.path.isfile(word)), None)
        hint = f"see {self.prog} --help" if file is None else f"if you mean the file, write ./{file}"
        self.exit(exits.UNUSABLE, f"zoo: error: {message} ({hint})\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `zoo_core.cli.exits`).

    Args:
        argv: words after `zoo`; those of the process by default.
    """
    console.open_missing_streams()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(
            "GOMP_SPINCOUNT", _SPINS
        )  # read when torch is imported, which no command has done yet
    words = sys.argv[1:] if argv is None else argv
    try:
        args = _parse(words)
    except SystemExit as stop:  # argparse after --help, --version or a wrong command line
        return int(stop.code or 0)
    except Exception as error:
        with console.session(verbosity=0, debug="--debug" in words):
            return exits.report(error)
    with console.session(-1 if args.quiet else args.verbose, args.debug):
        return exits.reporting(lambda: args.run(args))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; only the module of the command in it is imported."""
    place = next((i for i, word in enumerate(words) if not word.startswith("-")), None)
    defaults = argparse.Namespace(verbose=0, quiet=False, debug=False)
    if place is None:
        return _overview().parse_args(words or ["--help"], defaults)
    name = words[place]
    if name not in COMMANDS:
        _overview().error(_unknown(name))
    parser = _parser(f"zoo {name}", COMMANDS[name], exits.EPILOG)
    module = importlib.import_module(f"zoo_core.cli.{name.replace('-', '_')}")
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    parser.words = rest = [*words[:place], *words[place + 1 :]]
    if "--" in rest:  # what follows are files, whatever they begin with
        return parser.parse_args(rest, defaults)
    return parser.parse_intermixed_args(rest, defaults)  # options may stand between the files


def _overview() -> _Parser:
    """The parser of `zoo` without a command: help and version."""
    parser = _parser(
        "zoo",
        "learned image codecs: compress photos to .zoo files and back",
        exits.EPILOG + "\nzoo COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"zoo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser


def _parser(prog: str, text: str, epilog: str) -> _Parser:
    return _Parser(
        prog=prog,
        description=text[0].upper() + text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[_common()],
    )


def _common() -> _Parser:
    """Options for before or after the command; without defaults, so that neither place undoes the other."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("-v", "--verbose", action="count", help="say more")
    common.add_argument("--quiet", action="store_true", help="say nothing but errors")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return common


def _unknown(command: str) -> str:
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(COMMANDS)}"
    return f"no command {command!r}: {hint}"
