"""The dual-branch codec keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestDualBranch(CodecConformance):
    method = "dual-branch"
