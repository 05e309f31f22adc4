"""Whether bfloat16 pays on a device: processors without its instructions are many times slower with it."""

from __future__ import annotations

import time

import torch

_SHAPE = (4, 64, 64, 64)


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
