"""Res-SwinV2 as a codec model: transform and entropy model joined (arXiv 2308.11864)."""

from __future__ import annotations

from typing import Any

from zoo_core.model import CodecModel
from zoo_res_swinv2 import SHARED_KEYS, TRANSFORM_KEYS
from zoo_res_swinv2.entropy import ResSwinEntropy
from zoo_res_swinv2.start import start  # noqa: F401 (zoo train looks for it here)
from zoo_res_swinv2.transform import ResSwinTransform


def build(**settings: Any) -> CodecModel:
    """Build the model of a preset.

    Switches: `enhance` (plain, dense, none), `swin_version` (1, 2), `hyper_attention`, `hyper_depth`, and
    `context` (checkerboard, none).
    """
    transform = {key: value for key, value in settings.items() if key in SHARED_KEYS + TRANSFORM_KEYS}
    entropy = {key: value for key, value in settings.items() if key not in TRANSFORM_KEYS}
    return CodecModel(ResSwinTransform(**transform), ResSwinEntropy(**entropy))
