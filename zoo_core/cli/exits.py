"""Exit codes, and how an exception becomes one line and one of them."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence

from zoo_core.errors import ZooError

OK = 0
SOME_FAILED = 1
UNUSABLE = 2
BUG = 3
INTERRUPTED = 130

EPILOG = """\
exit codes:
  0    everything was done
  1    some of several files failed; the others were done
  2    the input, the output or the command line cannot be used
  3    a bug in the zoo or in a plugin; --debug shows where
  130  interrupted
"""

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose another folder with -o",
    errno.ENOSPC: "free some space or choose another folder with -o",
}

log = logging.getLogger(__name__)


def reporting(work: Callable[[], int]) -> int:
    """The exit code of `work`; whatever it raises becomes one line."""
    try:
        code = work()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        log.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except Exception as error:
        return report(error)


def report(error: Exception, source: str | None = None) -> int:
    """Say in one line what went wrong and return the exit code for it.

    Args:
        error: what was raised.
        source: the file that was worked on; named in the line unless the message names it already.
    """
    expected = isinstance(error, (ZooError, OSError, MemoryError))
    text = _describe(error)
    if source is not None and source not in text:
        text = f"{source}: {text}"
    if expected:
        log.error(text, exc_info=error)
        return UNUSABLE
    log.critical("%s (please report it with the output of --debug)", text, exc_info=error)
    return BUG


def overall(codes: Sequence[int], of_several: bool) -> int:
    """The exit code of a command from those of its files; `of_several`: it was given more than one."""
    failures = [code for code in codes if code != OK]
    if not failures:
        return OK
    if not of_several:
        return failures[0]
    return BUG if BUG in failures else SOME_FAILED


def _describe(error: Exception) -> str:
    """The error in one line, with what to do next where the operating system does not say it."""
    message = " ".join(str(error).split())
    if isinstance(error, ZooError):
        return message
    if isinstance(error, MemoryError):
        return f"not enough memory: {message or 'try a smaller picture'}"
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename or repr('')}: " if error.filename is not None else ""
        remedy = f" ({_REMEDIES[error.errno]})" if error.errno in _REMEDIES else ""
        return f"{name}{error.strerror}{remedy}"
    return message if isinstance(error, OSError) and message else f"{type(error).__name__}: {message}"
