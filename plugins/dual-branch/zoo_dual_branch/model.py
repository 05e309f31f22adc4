"""The dual-branch codec as a model: transform and entropy model joined (arXiv 2401.11093)."""

from __future__ import annotations

from typing import Any

from zoo_core.model import CodecModel
from zoo_dual_branch.entropy import DualBranchEntropy
from zoo_dual_branch.objective import objective  # noqa: F401 (zoo train looks for it here)
from zoo_dual_branch.start import block_transform as start  # noqa: F401 (as well)
from zoo_dual_branch.transform import DualBranchTransform


def build(
    *,
    widths: tuple[int, ...],
    lr_widths: tuple[int, ...],
    lr_blocks: int,
    slices: tuple[int, ...],
    lr_slices: tuple[int, ...],
    lr_off: bool = False,
    **entropy: Any,
) -> CodecModel:
    """Build the model of a preset.

    `order` chooses which latent is the condition of the other: "hl" (HR conditions LR, the paper's), "lh", or
    "none". `lr_off=True` leaves out the LR branch; widen `widths` for an ablation at equal cost.
    """
    return CodecModel(
        DualBranchTransform(widths, sum(slices), lr_widths, lr_blocks, sum(lr_slices), lr_off),
        DualBranchEntropy(slices, lr_slices, lr_off=lr_off, **entropy),
    )
