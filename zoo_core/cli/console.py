"""What the user sees on standard error: messages, warnings and a progress bar.

Standard output belongs to results, so that they can be piped; everything else goes through logging and
ends here, one line each.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_PREFIXES = {logging.WARNING: "zoo: warning: ", logging.ERROR: "zoo: error: ", logging.CRITICAL: "zoo: bug: "}
_ERASE_LINE = "\r\x1b[K"

log = logging.getLogger("zoo_core")


def open_missing_streams() -> None:
    """Let nothing be read from and nowhere be written to where the process was started without a stream.

    Python puts None in its place, and `print` writes what was meant for a missing standard error to standard
    output, into the middle of the results.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open as long as the process)


@contextlib.contextmanager
def session(verbosity: int, debug: bool) -> Iterator[None]:
    """Show the zoo's messages and Python's warnings on standard error while the context lasts.

    Args:
        verbosity: negative for errors only, 0 for the results of each file, positive for details.
        debug: show tracebacks.
    """
    with _attached(_Handler(debug), verbosity):
        yield


@contextlib.contextmanager
def recording(verbosity: int) -> Iterator[list[logging.LogRecord]]:
    """Collect messages and warnings instead of showing them; the records can travel to another process."""
    recorder, handlers, propagate = _Recorder(), log.handlers, log.propagate
    log.handlers, log.propagate = [], False
    try:
        with _attached(recorder, verbosity):
            yield recorder.records
    finally:
        log.handlers, log.propagate = handlers, propagate


def replay(records: Iterable[logging.LogRecord]) -> None:
    """Show what was recorded."""
    for record in records:
        log.handle(record)


@contextlib.contextmanager
def _attached(handler: logging.Handler, verbosity: int) -> Iterator[None]:
    """Let the handler have the zoo's messages and Python's warnings."""
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.ERROR if verbosity < 0 else logging.DEBUG if verbosity else logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def progress(items: Sequence[T], names: Sequence[str]) -> Iterator[T]:
    """Yield the items, with a bar on standard error if that is a terminal and messages are wanted."""
    shown = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    try:
        for done, (item, name) in enumerate(zip(items, names, strict=True)):
            if shown:
                print(_bar(done, len(items), name), end="", file=sys.stderr, flush=True)
            yield item
    finally:
        if shown:
            print(_ERASE_LINE, end="", file=sys.stderr, flush=True)


def _bar(done: int, total: int, name: str) -> str:
    """One line of text that overwrites the last: "[#####...............] 3/12 photo.jpg"."""
    filled = 20 * done // total
    line = f"[{'#' * filled}{'.' * (20 - filled)}] {done}/{total} {name}"
    return _ERASE_LINE + line[: shutil.get_terminal_size().columns - 1]


class _Handler(logging.Handler):
    """Writes each record as one line, over the progress bar if there is one."""

    def __init__(self, debug: bool) -> None:
        super().__init__()
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        if self._debug and (trace := record.exc_text or _traceback(record)):
            print(trace, end="", file=sys.stderr)
        erase = _ERASE_LINE if sys.stderr.isatty() else ""
        print(f"{erase}{_PREFIXES.get(record.levelno, '')}{record.getMessage()}", file=sys.stderr, flush=True)


class _Recorder(logging.Handler):
    """Keeps each record in a form that can be pickled: text instead of arguments and tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        plain = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
        plain |= {"msg": record.getMessage(), "exc_text": _traceback(record)}
        self.records.append(logging.makeLogRecord(plain))


def _traceback(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    return "".join(traceback.format_exception(record.exc_info[1]))


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A Python warning as one line of ours; those about someone's code only with -v."""
    about_code = issubclass(category, (DeprecationWarning, FutureWarning))
    log.log(logging.DEBUG if about_code else logging.WARNING, "%s", " ".join(str(message).split()))
