"""What a measured time depends on besides the codec; stands beside every figure."""

from __future__ import annotations

import platform
from typing import Any

import zoo_core


def environment() -> dict[str, Any]:
    """The machine and the versions that times depend on."""
    import torch

    return {
        "zoo_core": zoo_core.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
