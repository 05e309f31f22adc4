"""Octave keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestOctave(CodecConformance):
    method = "octave"
