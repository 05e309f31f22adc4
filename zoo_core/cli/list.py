"""`zoo list`: what is installed. Imports no model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from zoo_core import registry
from zoo_core.constants import LAMBDAS
from zoo_core.hooks import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--json", action="store_true", help="print JSON, broken plugins included")


def run(args: argparse.Namespace) -> int:
    """Print the methods and return the exit code."""
    rows = [_row(entry) for entry in registry.entries()]
    if args.json:
        broken = [asdict(plugin) for plugin in registry.broken()]
        print(json.dumps({"entries": rows, "broken": broken}, indent=2))
    elif rows:
        print(_table(rows))
    else:
        print("no method is installed: pip install zoo-weconvene")
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "models": [f"{entry.name}-q{n}" for n in range(1, len(LAMBDAS) + 1)] if entry.kind == "codec" else [],
        "presets": list(entry.presets),
        "trained": list(entry.weights),
        "package": registry.distribution(entry),
        "summary": entry.summary,
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Columns as wide as their widest cell; a star marks presets that have weights."""
    cells = [("NAME", "KIND", "LEVELS", "PRESETS", "PACKAGE", "SUMMARY")]
    for row in rows:
        levels = f"q1..q{len(row['models'])}" if row["models"] else "-"
        presets = ", ".join(name + "*" * (name in row["trained"]) for name in row["presets"])
        kind = row["kind"].replace("_", " ")
        cells.append((row["name"], kind, levels, presets, row["package"], row["summary"]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in [*lines, "", "* trained weights are published"])
