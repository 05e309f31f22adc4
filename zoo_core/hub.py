"""The Hugging Face Hub: fetch the file that a plugin pins, publish files in one commit.

The client library trusts what it downloads and what its cache holds, so the caller brings the check of
the content, and a file that fails it leaves the cache. A look into the cache needs the client's constants
only; its HTTP part, slow to import, is loaded when the Hub is really asked. Whatever the client raises
leaves here as one line of ours.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from zoo_core.errors import (
    PluginError,
    UsageError,
    WeightsError,
    WeightsNotFoundError,
    WrongWeightsError,
    ZooError,
)
from zoo_core.hooks import Weights

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_REFUSED = (401, 403)

_LOG_IN = "log in with 'hf auth login' or give a token"
_REASONS = {
    "RepositoryNotFoundError": f"there is no such repository, or it is private: check its name, or {_LOG_IN}",
    "RevisionNotFoundError": "the repository has no such commit: upgrade the plugin",
    "EntryNotFoundError": "the commit holds no such file: upgrade the plugin",
    "OfflineModeIsEnabled": "offline mode is on: unset HF_HUB_OFFLINE",
}
"""What the client's errors mean, by their names in `huggingface_hub.utils`."""

log = logging.getLogger(__name__)


def fetch(spec: Weights, flaw_of: Callable[[Path], str | None]) -> Path:
    """The pinned file, from the client's cache if it is sound there, else downloaded.

    Processes that fetch the same file take turns, so it travels once and nobody sees another's repair.

    Args:
        spec: names repository, commit and file.
        flaw_of: says what is wrong with the content of a file, None if nothing is.

    Raises:
        WeightsNotFoundError: not in the cache, and the Hub cannot be reached or does not have it.
        WrongWeightsError: the Hub delivers something else; it does not stay in the cache.
        PluginError: the revision is not a full commit, so its content could change.
    """
    if not _COMMIT.fullmatch(spec.revision or ""):
        raise PluginError(f"{spec.file} is pinned to {spec.revision!r}, not to a commit of 40 hex digits")
    path = _cached(spec)
    if path is not None and flaw_of(path) is None:
        return path
    if _is_offline():
        raise _offline_error(spec, path, flaw_of)
    with _explained(f"cannot download {_url(spec)}", WeightsNotFoundError), _lock(spec):
        return _refresh(spec, flaw_of)


def publish(
    repo: str, files: Mapping[str, Path], message: str, *, private: bool = False, token: str | None = None
) -> tuple[str, str]:
    """Put files into a repository in one commit; the repository is created if there is none.

    Args:
        repo: "owner/name".
        files: local files by their names in the repository.
        message: summary of the commit.
        private: visibility of a repository that this call creates.
        token: access token; by default that of the login or of HF_TOKEN.

    Returns:
        URL and 40-digit SHA of the commit that holds the files.

    Raises:
        UsageError: nobody is logged in.
        WeightsError: the Hub refuses or cannot be reached; nothing was published.
    """
    with _explained(f"cannot publish to {repo}", WeightsError):
        from huggingface_hub import CommitOperationAdd, HfApi, get_token

        if token is None and get_token() is None:
            raise UsageError(f"the Hub takes files from known users only: {_LOG_IN}")
        api = HfApi(token=token)
        api.create_repo(repo, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message)
    return commit.commit_url, commit.oid


# --- cache ------------------------------------------------------------------------------------------


def _cached(spec: Weights) -> Path | None:
    """The file in the client's cache, whose layout is part of its documentation."""
    folder = f"models--{spec.repo}".replace("/", "--")
    path = _cache() / folder / f"snapshots/{spec.revision}" / spec.file
    return path if path.is_file() else None


def _forget(path: Path) -> None:
    """Take a file out of the cache: the entry, and the blob that it links to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(spec: Weights) -> Iterator[None]:
    """Wait for other processes that fetch this file. The client's own locks are named after ETags."""
    from huggingface_hub.utils import WeakFileLock

    folder = _cache() / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder / f"zoo-{spec.sha256}.lock"):
        yield


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


# --- download ---------------------------------------------------------------------------------------


def _refresh(spec: Weights, flaw_of: Callable[[Path], str | None]) -> Path:
    """A sound file in the cache; to be called under the lock."""
    path = _cached(spec)  # again: another process may have fetched it while this one waited
    if path is not None:
        flaw = flaw_of(path)
        if flaw is None:
            return path
        log.warning("%s %s: downloading it again", path, flaw)
        _forget(path)
    path = _download(spec)
    flaw = flaw_of(path)
    if flaw is not None:
        _forget(path)
        raise WrongWeightsError(f"{_url(spec)} {flaw}: try again later, or upgrade the plugin")
    return path


def _download(spec: Weights) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download

    # One request without retries: it reports at once that there is no network, no file or the wrong size.
    size = get_hf_file_metadata(_url(spec)).size
    if size not in (None, spec.size):
        flaw = f"has {size:,} bytes instead of {spec.size:,}"
        raise WrongWeightsError(f"{_url(spec)} {flaw}: try again later, or upgrade the plugin")
    assert spec.repo is not None  # without one, nobody asks for a download
    return Path(hf_hub_download(spec.repo, spec.file, revision=spec.revision))


def _url(spec: Weights) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{spec.repo}/resolve/{spec.revision}/{quote(spec.file)}"


# --- errors -----------------------------------------------------------------------------------------


def _offline_error(spec: Weights, path: Path | None, flaw_of: Callable[[Path], str | None]) -> WeightsError:
    if path is not None:
        return WrongWeightsError(f"{path} {flaw_of(path)}: unset HF_HUB_OFFLINE to download it again")
    return WeightsNotFoundError(
        f"{spec.file} is not in the cache {_cache()}, and HF_HUB_OFFLINE forbids to download it: unset that, "
        f"or get {_url(spec)} on another machine and pass its path as weights"
    )


@contextlib.contextmanager
def _explained(action: str, kind: type[WeightsError]) -> Iterator[None]:
    """Turn what the client raises into one line that begins with `action`, the only one that it causes."""
    try:
        with _hushed():
            yield
    except ZooError:
        raise
    except Exception as error:  # the client's, OSError, or of an HTTP library that depends on the version
        raise kind(f"{action}: {_reason(error)}") from error


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """The client without log lines about its retries, and without progress bars outside of terminals."""
    from huggingface_hub import utils

    verbosity, bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    wanted = sys.stderr.isatty() and log.isEnabledFor(logging.WARNING)
    utils.logging.set_verbosity_error()
    if bars and not wanted:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(verbosity)
        if bars and not wanted:
            utils.enable_progress_bars()


def _reason(error: BaseException) -> str:
    """Why it failed and what to do."""
    from huggingface_hub import utils

    if isinstance(error, utils.LocalEntryNotFoundError):  # how the client says that the network failed
        error = error.__cause__ or error
    for name, reason in _REASONS.items():
        if isinstance(error, getattr(utils, name)) and not isinstance(error, utils.LocalEntryNotFoundError):
            return reason
    response = getattr(error, "response", None)
    if response is not None and response.status_code in _REFUSED:
        return f"the Hub refuses access: {_LOG_IN} that has the right"
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return f"{error.strerror} ({_cache()}): make room there or set HF_HOME to another folder"
    text = " ".join(str(error).split()) or type(error).__name__
    if response is not None or isinstance(error, ValueError):  # the Hub answered, or an argument is wrong
        return text
    what, *_ = text.split(". ")  # the client's own advice comes after it
    return f"{what.rstrip('.')}: check the network and try again"
