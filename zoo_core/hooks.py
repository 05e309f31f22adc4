"""What a plugin tells the zoo: one pluggy hook that returns plain data.

A plugin package implements the hook in its `__init__.py`, which imports neither torch nor its model:

    from zoo_core.hooks import Entry, Paper, hookimpl

    @hookimpl
    def zoo_register():
        return [Entry(name="mymethod", kind="codec", factory="zoo_mymethod.model:build", ...)]

and names itself in its metadata:

    [project.entry-points.zoo_core]
    mymethod = "zoo_mymethod"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy

from zoo_core.constants import ENTRY_POINT_GROUP, INTERFACE_VERSION

hookspec = pluggy.HookspecMarker(ENTRY_POINT_GROUP)
hookimpl = pluggy.HookimplMarker(ENTRY_POINT_GROUP)

Kind = Literal["codec", "transform", "entropy_model"]


@dataclass(frozen=True)
class Paper:
    """The publication that a method comes from."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class Weights:
    """Where the weights of one preset are, and what they must be.

    Attributes:
        file: name of the file, in the plugin's folder `weights/` and in the Hub repository.
        sha256: 64 hex digits over the whole file; checked before anything is parsed.
        size: bytes of the file.
        repo: Hub repository, "owner/name"; None if it is only bundled.
        revision: full 40-digit commit of that repository.
        bundled: whether the plugin's wheel carries the file.
    """

    file: str
    sha256: str
    size: int
    repo: str | None = None
    revision: str | None = None
    bundled: bool = True


@dataclass(frozen=True)
class Entry:
    """One method as a plugin registers it. Plain data: making one imports no model.

    Attributes:
        name: as users type it, without the level ("weconvene").
        kind: "codec", "transform" or "entropy_model".
        factory: import path "package.module:callable"; called as `factory(**presets[preset])`.
        presets: keyword arguments of the factory by preset name; "base" is the one with weights.
        weights: weights by preset name; a preset without them starts random and says so.
        paper: where the method was published.
        summary: one line for `zoo list`.
        licence: SPDX name of the licence of code and weights.
        interface: version of the interface that the plugin was written for.
        conditions: side inputs that the encoder takes ("roi", "caption").
    """

    name: str
    kind: Kind
    factory: str
    presets: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Weights] = field(default_factory=dict)
    paper: Paper | None = None
    summary: str = ""
    licence: str = "Apache-2.0"
    interface: int = INTERFACE_VERSION
    conditions: tuple[str, ...] = ()


@hookspec
def zoo_register() -> list[Entry]:
    """Return the entries that this plugin offers."""
    raise NotImplementedError
