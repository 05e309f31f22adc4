"""`zoo push`: publishes weights and model card on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo_core import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("name", metavar="NAME", help="method whose weights are published, see zoo list")
    parser.add_argument(
        "--repo", required=True, metavar="OWNER/NAME", help="repository; created if there is none"
    )
    parser.add_argument("--preset", default="base", help="size of the model (default: %(default)s)")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="file to publish, or the folder of a training run (default: what the plugin names)",
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="model card (default: model_cards/NAME.md in this folder)"
    )
    parser.add_argument("--private", action="store_true", help="make a repository that is created private")
    parser.add_argument("--token", help="access token (default: HF_TOKEN, or that of hf auth login)")


def run(args: argparse.Namespace) -> int:
    """Publish, print the commit and the lines that pin it, and return the exit code."""
    from zoo_core import publish

    entry, _ = registry.parse(args.name)
    published = publish.push(
        entry,
        args.preset,
        args.repo,
        card=args.card or Path("model_cards", f"{entry.name}.md"),
        file=args.weights,
        private=args.private,
        token=args.token,
    )
    print(f"{published.url}\n\nPin this commit in the plugin's Entry, under weights:\n\n{published.code}")
    return 0
