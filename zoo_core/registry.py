"""Finds the installed plugins and answers names, without importing a model.

pluggy's own loader stops at the first plugin that raises, so one broken package would take every
command down. Here each entry point is loaded alone: one that fails is reported once, with its
distribution and the reason, and skipped. A plugin's `__init__` only describes its methods; the module
that holds the network is imported when `build` calls the entry's factory.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pluggy

from zoo_core import hooks
from zoo_core.constants import ENTRY_POINT_GROUP, INTERFACE_VERSION, LAMBDAS
from zoo_core.errors import DuplicateNameError, PluginError, UnknownModelError, UsageError, ZooError
from zoo_core.hooks import Entry, Kind

log = logging.getLogger(__name__)

PUBLISHED = (
    "weconvene",
    "3dm-weconvene",
    "selic",
    "feds",
    "s2lic",
    "res-swinv2",
    "roi-swin",
    "octave",
    "dual-branch",
    "deformable-checkerboard",
)
"""Methods that the zoo publishes; the method NAME comes in the package zoo-NAME."""

WITH = "-with-"
"""Joins the names of two halves to that of a codec."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_WITH_LEVEL = re.compile(r"(?P<method>.+)-q(?P<level>-?[0-9.]*)")


@dataclass(frozen=True)
class BrokenPlugin:
    """An entry point that was skipped.

    Attributes:
        distribution: name and version of the package, "zoo-weconvene 0.1.0".
        entry_point: name of the entry point in that package's metadata.
        reason: one line.
    """

    distribution: str
    entry_point: str
    reason: str


@dataclass(frozen=True)
class _Registered:
    entry: Entry
    distribution: str


@dataclass(frozen=True)
class _Discovery:
    registered: tuple[_Registered, ...]
    broken: tuple[BrokenPlugin, ...]


def entries() -> list[Entry]:
    """All entries of all sound plugins, sorted by name.

    Raises:
        DuplicateNameError: two plugins offer the same kind and name.
    """
    groups: dict[tuple[str, Kind], list[_Registered]] = {}
    for item in _discover().registered:
        groups.setdefault((item.entry.name, item.entry.kind), []).append(item)
    return [_only(groups[key]).entry for key in sorted(groups)]


def models() -> list[str]:
    """Every name that `zoo.load` takes: "<method>-q1" to "<method>-q6" for each codec."""
    levels = range(1, len(LAMBDAS) + 1)
    return [f"{entry.name}-q{level}" for entry in entries() if entry.kind == "codec" for level in levels]


def find(name: str, kind: Kind | None = None) -> Entry:
    """The entry of that name. Without `kind`, a codec comes before a transform or an entropy model.

    "<transform>-with-<entropy model>" is a codec too, made out of the two.

    Raises:
        UnknownModelError: nobody offers the name; the message has the near misses or the package to install.
        DuplicateNameError: several plugins offer it; only the name asked for matters here.
        PluginError: the plugin that should offer it was skipped as broken.
    """
    registered = _discover().registered
    for wanted in KINDS if kind is None else (kind,):
        same = [item for item in registered if (item.entry.kind, item.entry.name) == (wanted, name)]
        if same:
            return _only(same).entry
    if kind in (None, "codec") and name.count(WITH) == 1:
        return _composed(name)
    raise _not_found(name, kind)


def parse(name: str) -> tuple[Entry, float | None]:
    """Split a model's name: "weconvene-q3" -> (entry, 3.0), "weconvene" -> (entry, None).

    Raises:
        UsageError: the level is no number between 1 and 6.
        UnknownModelError, DuplicateNameError, PluginError: as `find`.
    """
    if not isinstance(name, str):
        raise UsageError(f"a model is named by a string such as 'weconvene-q3', not by {type(name).__name__}")
    match = _WITH_LEVEL.fullmatch(name)
    if match is None:
        return find(name), None
    return find(match["method"]), _level(name, match["level"])


def broken() -> list[BrokenPlugin]:
    """The entry points that were skipped, with the reasons."""
    return list(_discover().broken)


def distribution(entry: Entry) -> str:
    """Name and version of the package that registered the entry: "zoo-weconvene 0.1.0", or of its halves.

    Raises:
        PluginError: no installed package registered it.
    """
    for item in _discover().registered:
        if item.entry is entry:
            return item.distribution
    if WITH in entry.name:
        owners = (distribution(find(part, kind)) for part, kind in _halves(entry.name))
        return ", ".join(dict.fromkeys(owners))
    raise PluginError(f"{entry.name!r} was not registered by an installed package")


def build(entry: Entry, preset: str = "base") -> Any:
    """The CodecModel, Transform or EntropyModel that the entry's factory makes with the preset's arguments.

    Raises:
        UsageError: there is no such preset.
        PluginError: the factory cannot be imported, or raises.
    """
    if preset not in entry.presets:
        raise UsageError(f"{entry.name!r} has no preset {preset!r}: choose from {', '.join(entry.presets)}")
    module, _, attribute = entry.factory.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)(**entry.presets[preset])
    except ZooError:
        raise
    except Exception as error:  # a stranger's code: whatever it raises is the plugin's fault
        raise PluginError(
            f"{entry.name!r}: {entry.factory} of {_maker(entry)} fails: {_reason(error)}: report it there"
        ) from error


def refresh() -> None:
    """Forget what was discovered: packages installed since then are found by the next question."""
    importlib.invalidate_caches()
    _discover.cache_clear()


# --- discovery --------------------------------------------------------------------------------------


@functools.cache
def _discover() -> _Discovery:
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(hooks)
    registered: list[_Registered] = []
    skipped: list[BrokenPlugin] = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            found = _load(manager, point)
        except (Exception, SystemExit) as error:  # whatever a stranger's import does, the others stay usable
            skipped.append(BrokenPlugin(_owner(point), point.name, _reason(error)))
            log.warning("skipped plugin %s (entry point %s): %s", _owner(point), point.name, _reason(error))
        else:
            registered += [_Registered(entry, _owner(point)) for entry in found]
    return _Discovery(tuple(registered), tuple(skipped))


def _load(manager: pluggy.PluginManager, point: importlib.metadata.EntryPoint) -> Sequence[Entry]:
    """Import one plugin, register it, and return its entries; a failure leaves the manager without it."""
    plugin = point.load()
    manager.register(plugin, name=f"{_owner(point)}: {point.name}")
    try:
        manager.check_pending()  # refuses hooks that match no specification, misspelt ones mostly
        return _call(manager, plugin)
    except BaseException:
        manager.unregister(plugin)
        raise


def _call(manager: pluggy.PluginManager, plugin: object) -> Sequence[Entry]:
    """What the plugin's own hook returns, checked."""
    implementations = [i for i in manager.hook.zoo_register.get_hookimpls() if i.plugin is plugin]
    if not implementations:
        raise PluginError("implements no hook: decorate zoo_register with zoo_core.hooks.hookimpl")
    found = implementations[0].function()
    if not isinstance(found, (list, tuple)):
        raise PluginError(f"zoo_register returned {type(found).__name__}, not a list of Entry")
    for entry in found:
        _check(entry)
    names = [(entry.kind, entry.name) for entry in found]
    twice = next((name for kind, name in names if names.count((kind, name)) > 1), None)
    if twice is not None:
        raise PluginError(f"registers {twice!r} twice")
    return found


def _check(entry: object) -> None:
    """Refuse an entry that this core could not use later."""
    if not isinstance(entry, Entry):
        raise PluginError(f"zoo_register returned a list with {type(entry).__name__}, not Entry")
    if entry.interface != INTERFACE_VERSION:
        older = "zoo-core" if entry.interface > INTERFACE_VERSION else "the plugin"
        raise PluginError(
            f"{entry.name!r} is written for plugin interface {entry.interface}, this zoo-core has "
            f"{INTERFACE_VERSION}: upgrade {older}"
        )
    if entry.kind not in KINDS:
        raise PluginError(f"{entry.name!r} has unknown kind {entry.kind!r}: choose from {', '.join(KINDS)}")
    if not _NAME.fullmatch(entry.name) or _WITH_LEVEL.fullmatch(entry.name):
        raise PluginError(f"{entry.name!r} is no valid name: lower-case words, digits, no level")
    if ":" not in entry.factory:
        raise PluginError(f"{entry.name!r} has factory {entry.factory!r}, not 'package.module:callable'")


def _maker(entry: Entry) -> str:
    """Who offers an entry, also one that was changed on the way."""
    owners = [i.distribution for i in _discover().registered if i.entry.factory == entry.factory]
    return owners[0] if owners else "an unknown package"


def _owner(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _reason(error: BaseException) -> str:
    """An exception in one line; our own errors already say what happened."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


# --- names ------------------------------------------------------------------------------------------


def _halves(name: str) -> list[tuple[str, Kind]]:
    return list(zip(name.split(WITH), ("transform", "entropy_model"), strict=True))


def _composed(name: str) -> Entry:
    """The codec "<transform>-with-<entropy model>" out of two halves that have a preset in common."""
    transform, entropy_model = (find(part, kind) for part, kind in _halves(name))
    return Entry(
        name=name,
        kind="codec",
        factory="zoo_core.model:join",
        presets={
            preset: {"transform": transform.name, "entropy_model": entropy_model.name, "preset": preset}
            for preset in transform.presets
            if preset in entropy_model.presets
        },
        summary=f"transform of {transform.name}, entropy model of {entropy_model.name}",
        conditions=transform.conditions,
    )


def _only(same: Sequence[_Registered]) -> _Registered:
    if len(same) > 1:
        owners = " and ".join(item.distribution for item in same)
        entry = same[0].entry
        raise DuplicateNameError(f"{entry.kind} {entry.name!r} is offered by {owners}: uninstall all but one")
    return same[0]


def _level(name: str, text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not 1 <= level <= len(LAMBDAS):
        raise UsageError(
            f"no level {text!r} in {name!r}: levels are q1 to q{len(LAMBDAS)}, decimals such as q3.4 too"
        )
    return level


def _not_found(name: str, kind: Kind | None) -> PluginError | UnknownModelError:
    """The error that helps most: broken, not installed, misspelt, or unknown."""
    for plugin in _discover().broken:
        if name == plugin.entry_point or plugin.distribution.startswith(f"zoo-{name} "):
            return PluginError(f"{name!r} comes from {plugin.distribution}, which is broken: {plugin.reason}")
    if name in PUBLISHED:
        return UnknownModelError(f"{name!r} is not installed: install its package zoo-{name}")
    what = f"no {'model' if kind is None else kind.replace('_', ' ')} named {name!r}"
    installed = {i.entry.name for i in _discover().registered if kind in (None, i.entry.kind)}
    near = difflib.get_close_matches(name.lower().replace("_", "-"), [*installed, *PUBLISHED])
    if near:
        hints = [repr(n) if n in installed else f"{n!r} (package zoo-{n})" for n in dict.fromkeys(near)]
        return UnknownModelError(f"{what}: did you mean {' or '.join(hints)}?")
    return UnknownModelError(f"{what}: installed are {', '.join(sorted(installed)) or 'none'} (see zoo list)")
