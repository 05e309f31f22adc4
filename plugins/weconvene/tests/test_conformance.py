"""WeConvene keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestWeConvene(CodecConformance):
    method = "weconvene"
