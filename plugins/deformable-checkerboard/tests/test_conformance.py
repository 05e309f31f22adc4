"""Deformable-checkerboard keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestDeformableCheckerboard(CodecConformance):
    method = "deformable-checkerboard"
