"""SELIC keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestSelic(CodecConformance):
    method = "selic"
