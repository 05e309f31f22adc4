"""What the settings of a model have to be, so that its two resolutions fit together.

Channels count both resolutions, which get half of them each: hence the least numbers and the multiples.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.errors import UsageError


def check_channels(name: str, value: int, octave: bool, multiple: int = 1) -> None:
    """Refuse what is no number of channels, or with two resolutions no multiple of `multiple`.

    Raises:
        UsageError: it is refused.
    """
    least = 2 if octave else 1
    if type(value) is not int or value < least:
        raise UsageError(f"{name}={value}: choose a whole number of channels, at least {least}")
    if octave and value % multiple:
        raise UsageError(f"{name}={value}: choose a multiple of {multiple}, for two resolutions")


def check_all_channels(name: str, values: Sequence[int], count: int, octave: bool) -> None:
    """Refuse what are not `count` numbers of channels.

    Raises:
        UsageError: they are refused.
    """
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise UsageError(f"{name}={values}: choose {count} numbers of channels")
    for value in values:
        check_channels(name, value, octave)


def check_kernel(name: str, value: int) -> None:
    """Refuse even kernels, which would change the sizes by one sample.

    Raises:
        UsageError: it is refused.
    """
    if type(value) is not int or value < 1 or value % 2 == 0:
        raise UsageError(f"{name}={value}: choose an odd kernel, 3 or 5")
