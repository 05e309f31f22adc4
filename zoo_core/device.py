"""The device that a user names, checked before anything is built for it."""

from __future__ import annotations

import torch

from zoo_core.errors import UsageError


def checked_device(name: str) -> torch.device:
    """The device of that name, proven with one real tensor.

    Raises:
        UsageError: torch knows no such device, or this build or machine cannot use it.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{name}' cannot be used: {str(error).splitlines()[0]}") from None
    return device
