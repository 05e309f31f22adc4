"""FEDS keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestFeds(CodecConformance):
    method = "feds"
