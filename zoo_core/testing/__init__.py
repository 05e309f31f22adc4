"""What a plugin's tests inherit: `CodecConformance` turns every promise of the zoo into a test."""

from zoo_core.testing.conformance import CodecConformance

__all__ = ["CodecConformance"]
