"""Publishing: weights and model card of a method in one commit, and the lines that pin them in its plugin."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields
from pathlib import Path

from zoo_core import hub, weights
from zoo_core.errors import UsageError
from zoo_core.hooks import Entry, Weights

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PICTURE = re.compile(r"!\[[^\]]*\]\((?!\w+:)([^)\s]+)[^)]*\)")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        url: page of the commit.
        preset: the preset that the weights belong to.
        weights: where they are now and what they must be.
    """

    url: str
    preset: str
    weights: Weights

    @property
    def revision(self) -> str:
        """The commit, 40 hex digits."""
        return self.weights.revision or ""

    @property
    def code(self) -> str:
        """Python for the `weights` of the plugin's Entry: `"base": Weights(...),` over several lines."""
        lines = [f'"{self.preset}": Weights(']
        for field in fields(Weights):
            value = getattr(self.weights, field.name)
            if value != field.default:
                lines.append(f"    {field.name}={_literal(value)},")
        return "\n".join([*lines, "),"])


def push(
    entry: Entry,
    preset: str,
    repo: str,
    *,
    card: Path,
    file: str | Path | None = None,
    private: bool = False,
    token: str | None = None,
) -> Published:
    """Publish the weights of a preset with their model card, in one commit.

    The card becomes the repository's README.md; pictures that it shows from below its own folder go along.

    Args:
        entry: the method.
        preset: the preset that the weights belong to.
        repo: "owner/name" on the Hub; created if there is none.
        card: the model card, Markdown with YAML front matter.
        file: the weights, or a folder that holds them; by default those that the plugin names.
        private: whether a repository that this creates is private.
        token: access token; by default that of the login or of HF_TOKEN.

    Raises:
        UsageError: repository, card or preset make no sense, or nobody is logged in.
        WeightsError: the weights are not fit to be read by others, or the Hub does not take them.
    """
    if not _REPO.fullmatch(repo):
        raise UsageError(f"{repo!r} is no repository of the Hub: write owner/name")
    if preset not in entry.presets:
        raise UsageError(f"{entry.name!r} has no preset {preset!r}: choose from {', '.join(entry.presets)}")
    _check_card(card)
    found = weights.locate(entry, preset, file)
    if found is None:
        raise UsageError(f"preset {preset!r} of {entry.name!r} has no weights yet: name the file to publish")
    weights.read_tensors(found)  # nobody should download what cannot be read
    known = entry.weights.get(preset)
    name = known.file if known else f"{entry.name}-{preset}.safetensors"
    files = {name: found.path, "README.md": card, **_pictures(card)}
    message = f"{entry.name}: weights of preset {preset}"
    url, revision = hub.publish(repo, files, message, private=private, token=token)
    inside = weights.bundled(entry, name)
    same = inside is not None and weights.digest(inside) == found.sha256
    size = found.path.stat().st_size
    return Published(url, preset, Weights(name, found.sha256, size, repo, revision, bundled=same))


def _check_card(card: Path) -> None:
    """Refuse a card that the Hub could not show or search."""
    from huggingface_hub import metadata_load

    if not card.is_file():
        raise UsageError(f"there is no model card {card}: write it, or name another one")
    try:
        facts = metadata_load(card)
    except Exception as error:  # not UTF-8, or whatever the YAML library raises
        raise UsageError(f"the front matter of {card} is no YAML: {' '.join(str(error).split())}") from error
    if not facts or "license" not in facts:
        raise UsageError(f"{card} must begin with front matter (YAML between lines of ---) with a license")


def _pictures(card: Path) -> dict[str, Path]:
    """The pictures that the card shows, by their names relative to it."""
    found = {}
    for name in _PICTURE.findall(card.read_text(encoding="utf-8")):
        path = card.parent / name
        if path.is_file() and path.resolve().is_relative_to(card.parent.resolve()):
            found[Path(name).as_posix()] = path
        else:
            log.warning("%s shows %s, not below its folder: it will be missing on the Hub", card, name)
    return found


def _literal(value: str | int | bool | None) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
