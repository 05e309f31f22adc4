"""ROI-Swin keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestRoiSwin(CodecConformance):
    method = "roi-swin"
