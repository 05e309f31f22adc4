"""Weights: found, checked in full, read; and written in one piece.

A preset's file is looked for in the plugin's package, then in the cache of the Hugging Face Hub, then on
the Hub. Wherever it lies, its size and SHA-256 must be those that the plugin states before anything
parses it: the digest is part of every compressed file, and other weights would decode it to noise.
Only safetensors files are read, since a pickle can run code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core import hub
from zoo_core.atomic import replacing
from zoo_core.errors import WeightsNotFoundError, WrongWeightsError
from zoo_core.hooks import Entry, Weights

if TYPE_CHECKING:
    import torch

RUN_FILE = "weights.safetensors"
"""Name of the weights in the folder of a training run."""

_BLOCK = 1 << 20
_PREFIX = 8  # a safetensors file starts with the length of its JSON header
_MAX_HEADER = 100_000_000
_FOREIGN = {
    b"PK\x03\x04": "a zip archive of pickles, as torch.save writes it",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"version https://git-lfs": "a pointer of Git LFS (git lfs pull gets the file)",
    b"<": "a web page",
}
"""What people and proxies put in the place of weights, by how it begins."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that was found and hashed.

    Attributes:
        path: where it is.
        sha256: 64 hex digits over the whole file.
    """

    path: Path
    sha256: str


def locate(entry: Entry, preset: str = "base", weights: str | Path | None = None) -> WeightsFile | None:
    """Find the weights of a preset: given by the user, bundled, cached, or on the Hub.

    Args:
        entry: the method; its model is not imported.
        preset: name of the preset.
        weights: a file, or a folder that holds it; taken as it is instead of the published one.

    Returns:
        The file, or None if the preset has no weights.

    Raises:
        WeightsNotFoundError: it is nowhere; the message says how to get it.
        WrongWeightsError: what is there has another size or digest than the plugin states.
        PluginError: the plugin pins its file to something else than a full commit.
    """
    spec = entry.weights.get(preset)
    if weights is not None:
        given = _given(Path(weights), spec)
        return WeightsFile(given, digest(given))
    if spec is None:
        return None
    path = bundled(entry, spec.file) if spec.bundled else None
    if path is not None:
        flaw = _flaw(path, spec)
        if flaw is not None:
            raise WrongWeightsError(f"{path} {flaw}: install the plugin of {entry.name!r} again")
    elif spec.repo is not None:
        path = hub.fetch(spec, lambda candidate: _flaw(candidate, spec))
    else:
        raise WeightsNotFoundError(f"{entry.name!r} comes without {spec.file}: install its plugin again")
    return WeightsFile(path, spec.sha256)


def bundled(entry: Entry, file: str) -> Path | None:
    """The file in the folder `weights/` of the plugin's package, None if it is not there."""
    package = importlib.util.find_spec(entry.factory.partition(":")[0].partition(".")[0])
    for folder in (package.submodule_search_locations if package else None) or ():
        path = Path(folder) / "weights" / file
        if path.is_file():
            return path
    return None


def digest(path: Path) -> str:
    """SHA-256 of a file in hex; computed once per process as long as the file is the same.

    Raises:
        WeightsNotFoundError: the file cannot be read.
    """
    try:
        state = path.stat()
        return _hash(path, (state.st_ino, state.st_size, state.st_mtime_ns))
    except OSError as error:
        reason = f"{error.strerror}: check the path and its permissions"
        raise WeightsNotFoundError(f"cannot read {path}: {reason}") from error


def read_tensors(file: WeightsFile) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name, on the CPU, in the type that they are stored in.

    Raises:
        WrongWeightsError: the file changed since it was hashed, is no sound safetensors file, or holds
            NaN or infinity.
        WeightsNotFoundError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if digest(file.path) != file.sha256:
        raise WrongWeightsError(f"{file.path} changed after it was checked: load the weights again")
    foreign = _foreign(file.path)
    if foreign is not None:
        raise WrongWeightsError(f"{file.path} is {foreign}: only safetensors files are read")
    try:
        tensors = load_file(file.path)
    except (SafetensorError, KeyError, ValueError) as error:
        raise WrongWeightsError(f"{file.path} is truncated or damaged ({error}): get it again") from error
    _check_finite(tensors, file.path)
    return tensors


def write_tensors(
    tensors: Mapping[str, torch.Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file, whole or not at all; the same tensors and metadata give the same bytes.

    Args:
        tensors: by name, of any device and layout.
        path: where to; an older file of that name is replaced.
        metadata: text by key, kept in the header.

    Returns:
        The file's SHA-256, 64 hex digits.

    Raises:
        WrongWeightsError: a tensor holds NaN or infinity.
        OSError: the file cannot be written; an older one is as it was.
    """
    _check_finite(tensors, path)
    data = _serialise(tensors, metadata or {})
    with replacing(Path(path)) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


# --- finding ----------------------------------------------------------------------------------------


def _given(path: Path, spec: Weights | None) -> Path:
    """The file that the user's path means."""
    if not path.is_dir():
        return path
    names = dict.fromkeys([spec.file, RUN_FILE] if spec else [RUN_FILE])
    for name in names:
        if (path / name).is_file():
            return path / name
    raise WeightsNotFoundError(f"the folder {path} holds no {' and no '.join(names)}: name the file itself")


def _flaw(path: Path, spec: Weights) -> str | None:
    """What makes the file another one than the plugin states; None if nothing does."""
    found = digest(path)
    if found == spec.sha256:
        return None
    size = path.stat().st_size
    what = f"is {_foreign(path)} and " if _foreign(path) else ""
    if size != spec.size:
        what += f"has {size:,} bytes instead of {spec.size:,} and "
    return f"{what}has the SHA-256 {found} instead of {spec.sha256}"


@functools.lru_cache(maxsize=64)
def _hash(path: Path, state: tuple[int, ...]) -> str:
    """SHA-256 of the file as it is in this state: another one is another key of the cache."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
    return sha256.hexdigest()


# --- reading ----------------------------------------------------------------------------------------


def _foreign(path: Path) -> str | None:
    """What the file is if it is not even the beginning of a safetensors file; None if it is that.

    The header's length comes first and may begin with the bytes of a pickle, so the brace after it counts.
    """
    with path.open("rb") as file:
        head = file.read(32)
    length = int.from_bytes(head[:_PREFIX], "little")
    if length <= _MAX_HEADER and head[_PREFIX : _PREFIX + 1] == b"{":
        return None
    return next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), "of no known format")


def _check_finite(tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    import torch

    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        try:  # 8-bit floats have no isfinite of their own, smaller ones no arithmetic at all
            finite = bool(torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all())
        except NotImplementedError:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise WrongWeightsError(
                f"{path}: tensor {name!r} has type {kind}: convert it to float16"
            ) from None
        if not finite:
            raise WrongWeightsError(f"{path}: tensor {name!r} holds NaN or infinity: train or get it again")


# --- writing ----------------------------------------------------------------------------------------


def _serialise(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file. The library writes metadata in random order; here it is sorted."""
    from safetensors.torch import save

    data = save({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()})
    if not metadata:
        return data
    end = _PREFIX + int.from_bytes(data[:_PREFIX], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[_PREFIX:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PREFIX)  # the tensors stay aligned
    return len(text).to_bytes(_PREFIX, "little") + text + data[end:]
