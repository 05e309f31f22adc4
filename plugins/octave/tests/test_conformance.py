"""Octave keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class TestOctave(CodecConformance):
    method = "octave"
    # At full sharpness 109 to 154 symbols of the drawn picture are rarer than 1e-9, and q1 is 1.5 % off.
    # Three photos have 0 to 7 of them, and are off by at most 0.4 %.
    enlarged = 2
