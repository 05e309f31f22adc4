"""3DM-WeConvene keeps every promise of the zoo."""

from zoo_core.testing import CodecConformance


class Test3DMWeConvene(CodecConformance):
    method = "3dm-weconvene"
