"""S2LIC keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestS2LIC(CodecConformance):
    method = "s2lic"
