"""The device that a user names, checked before anything is built for it, and what it computes fast.

Whether bfloat16 pays is measured, not assumed: processors without its instructions are many times slower with it.
"""

from __future__ import annotations

import functools
import time

import torch

from zoo_core.constants import PRECISIONS
from zoo_core.errors import UsageError

_SHAPE = (4, 64, 64, 64)


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


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether one of `PRECISIONS` means bfloat16 on this device.

    Raises:
        UsageError: it is none of them.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"the precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    return precision == "bf16" or (precision == "auto" and bf16_pays(device))


@functools.cache
def bf16_pays(device: torch.device) -> bool:
    """True if a convolution's forward and backward pass is faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _seconds(device, torch.bfloat16) < _seconds(device, torch.float32)


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Shortest of three runs after a first one that sets things up."""
    conv = torch.nn.Conv2d(64, 64, 3, padding=1).to(device, dtype)
    x = torch.zeros(_SHAPE, device=device, dtype=dtype)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        conv(x).sum().backward()
        times.append(time.perf_counter() - began)
    return min(times[1:])
