"""`zoo new-plugin`: a working plugin to change into your own."""

from __future__ import annotations

import argparse
import importlib.resources
import logging
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.cli import files
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SUFFIX = ".in"

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("name", metavar="NAME", help="of the method: small letters, digits and dashes")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to write (default: one named NAME)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder, say what comes next, and return the exit code."""
    folder = args.output or Path(args.name)
    if not _NAME.fullmatch(args.name) or re.search(r"-q[0-9.]*$", args.name):
        raise UsageError(f"{args.name!r} is no name for a method: small letters, digits and dashes, no level")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty: choose another folder with -o")
    write(args.name, folder)
    log.info("%s: a mean-scale hyperprior that works and is untrained; next:", folder)
    log.info("  pip install -e %s && pytest %s && zoo list", folder, folder)
    return 0


def write(name: str, folder: Path) -> None:
    """Write the template of a plugin for the method `name` into `folder`."""
    words = {
        "method": name,
        "package": "zoo_" + name.replace("-", "_"),
        "title": "".join(part.capitalize() for part in name.split("-")),
    }
    root = importlib.resources.files("zoo_core") / "template"
    for source, place in _files(root, Path()):
        target = folder / str(place).replace("package", words["package"], 1)
        with files.writing(target.with_suffix("")) as file:
            file.write(string.Template(source.read_text("utf-8")).substitute(words).encode())


def _files(folder: Traversable, place: Path) -> list[tuple[Traversable, Path]]:
    """The template's files, and their places below its root."""
    found: list[tuple[Traversable, Path]] = []
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            found += _files(item, place / item.name)
        elif item.name.endswith(_SUFFIX):
            found.append((item, place / item.name))
    return found
