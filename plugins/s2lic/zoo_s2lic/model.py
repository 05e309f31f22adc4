"""S2LIC as a codec model: transform and entropy model joined (arXiv 2403.14471)."""

from __future__ import annotations

from typing import Any

from zoo_core.model import CodecModel
from zoo_s2lic import TRANSFORM_KEYS
from zoo_s2lic.entropy import AdaptiveEntropy
from zoo_s2lic.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_s2lic.transform import S2LICTransform


def build(*, slices: tuple[int, ...], **settings: Any) -> CodecModel:
    """Build the model of a preset.

    Switches: `enhance` (dense, plain, none), `swin_version` (1, 2), `intra` (query, local, none), `ac` (full,
    conv, off), `ag` (full, fixed, off), `gates`, `lrp`.
    """
    transform = {key: settings.pop(key) for key in TRANSFORM_KEYS if key in settings}
    return CodecModel(S2LICTransform(sum(slices), **transform), AdaptiveEntropy(slices, **settings))
