"""Options for what some encoders take beside the picture: a mask, a caption.

An option's name is that of the side input in `Entry.conditions` and in the keywords of `Codec.encode`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from zoo_core.errors import UsageError
from zoo_core.hooks import Entry


class SideInput(NamedTuple):
    """A side input as the command line takes it; `read` turns its text into what the codec takes."""

    name: str
    metavar: str
    read: Callable[[str], object]
    help: str

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


def mask(text: str) -> str | list[tuple[float, ...]]:
    """ "mask.png" -> the path; "0,0,40,30;50,0,60,9" -> two boxes (x0, y0, x1, y1)."""
    try:
        return [tuple(float(number) for number in box.split(",")) for box in text.split(";")]
    except ValueError:
        return text


SIDE_INPUTS = (
    SideInput(
        "roi", "MASK", mask, "region that matters most: a mask, white inside, or boxes X0,Y0,X1,Y1;..."
    ),
    SideInput("roi_threshold", "X", float, "grey from 0 to 1 at which the region begins (default: 0.5)"),
    SideInput("roi_dilate", "N", int, "widen the region by N pixels (default: 0)"),
    SideInput("caption", "TEXT", str, "what the picture shows, in a few words"),
    SideInput("captioner", "NAME", str, "who writes the caption if none is given, see the model card"),
    SideInput("text_mode", "MODE", str, "best: use the caption only where it saves something"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare an option for every side input; they hold for all pictures of the command."""
    group = parser.add_argument_group("for methods that take it beside the picture (see zoo info)")
    for item in SIDE_INPUTS:
        group.add_argument(item.option, dest=item.name, type=item.read, metavar=item.metavar, help=item.help)


def given(args: argparse.Namespace, entry: Entry) -> dict[str, Any]:
    """The side inputs on the command line, as keywords of `Codec.encode`.

    Raises:
        UsageError: the method does not take one of them.
    """
    found = {item.name: getattr(args, item.name) for item in SIDE_INPUTS}
    found = {name: value for name, value in found.items() if value is not None}
    refused = [
        item.option for item in SIDE_INPUTS if item.name in found and item.name not in entry.conditions
    ]
    if refused:
        raise UsageError(
            f"{entry.name} does not take {', '.join(refused)}: leave it out, or choose another -m"
        )
    return found
