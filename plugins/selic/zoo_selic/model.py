"""SELIC as a codec model: transform and entropy model joined (after arXiv 2504.01279)."""

from __future__ import annotations

from typing import Any

from zoo_core.entropy.channelwise import ChannelwiseEntropy
from zoo_core.layers.residual16 import Three
from zoo_core.model import CodecModel
from zoo_core.training.residual_start import start_residual as start  # noqa: F401 (zoo train looks for it here)
from zoo_selic.objective import objective  # noqa: F401 (as well)
from zoo_selic.transform import SelicTransform

_TEXT = ("embedding", "text_hidden", "text_channels", "fusion_hidden", "grid", "fusion", "fuse_at", "text")


def build(*, widths: Three, blocks: Three, latent: int, **sizes: Any) -> CodecModel:
    """Build the model of a preset.

    Switches: `fusion` (concat, film, add), `grid` (4, 1), `fuse_at` (y, f3), `text` (false: no text modules).
    """
    text = {name: sizes.pop(name) for name in _TEXT if name in sizes}
    return CodecModel(SelicTransform(widths, blocks, latent, **text), ChannelwiseEntropy(latent, **sizes))
