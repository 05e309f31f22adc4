"""Res-SwinV2 keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestResSwinV2(CodecConformance):
    method = "res-swinv2"
