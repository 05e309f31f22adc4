"""Lets a long measurement show how far it is, without knowing where to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Watch(Protocol):
    """Yields the items unchanged; `names` are what a progress bar may write beside each."""

    def __call__(self, items: Sequence[T], names: Sequence[str]) -> Iterable[T]: ...


def watch_nothing(items: Sequence[T], names: Sequence[str]) -> Iterable[T]:
    """No display at all."""
    return items
