"""3DM-WeConvene keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class Test3DMWeConvene(CodecConformance):
    method = "3dm-weconvene"
    # At full sharpness 28 to 323 symbols of the drawn picture are rarer than 1e-9, and q3 and q6 are 2.4 % off.
    # Three photos, with 2 to 40 such symbols, are off by at most 0.3 %.
    enlarged = 2
