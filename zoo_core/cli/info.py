"""`zoo info`: what a method is, or what a .zoo file says about itself, without importing a model."""

from __future__ import annotations

import argparse
import enum
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo_core import registry
from zoo_core.cli import exits, files
from zoo_core.constants import LAMBDAS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("subjects", nargs="+", metavar="NAME", help="method, model or .zoo file; - for stdin")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(args: argparse.Namespace) -> int:
    """Print the facts about each subject and return the exit code."""
    codes = []
    for subject in args.subjects:
        try:
            facts = _file_facts(subject) if _is_file(subject) else _model_facts(subject)
            print(json.dumps(facts) if args.json else "\n".join(_lines(facts)))
            codes.append(exits.OK)
        except BrokenPipeError:
            raise
        except Exception as error:
            codes.append(exits.report(error, source=subject))
    return exits.overall(codes, of_several=len(codes) > 1)


def _is_file(subject: str) -> bool:
    looks_like_path = Path(subject).suffix.lower() in files.ZOO or os.sep in subject
    return subject == files.STREAM or looks_like_path or os.path.isfile(subject)


def _file_facts(subject: str) -> dict[str, Any]:
    from zoo_core import container

    job = files.Job(None if subject == files.STREAM else Path(subject), Path(subject))
    data = job.read()
    return {"file": job.name} | _plain(container.inspect(data).to_dict())


def _model_facts(subject: str) -> dict[str, Any]:
    entry, level = registry.parse(subject)
    facts: dict[str, Any] = {"name": entry.name, "package": registry.distribution(entry)}
    if level is not None:
        facts["level"] = level
    elif entry.kind == "codec":
        facts["lambdas"] = {f"q{n}": value for n, value in enumerate(LAMBDAS, 1)}
    described = _plain(asdict(entry))
    return facts | {key: value for key, value in described.items() if value not in (None, {}, [], "")}


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: bytes in hex, members of enumerations by name."""
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.name.lower()
    return value.hex() if isinstance(value, bytes) else value


def _lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """One "key  value" per line; nested facts are indented below their key, what is not known is left out."""
    width = max(map(len, facts), default=0)
    for key, value in facts.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else _text(key, value)
            yield f"{indent}{key.ljust(width)}  {text}"


def _text(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    counts = isinstance(value, int) and not isinstance(value, bool) and key != "year"
    return f"{value:,}" if counts else str(value)
