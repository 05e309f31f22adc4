"""Hyperprior and channel-wise autoregression, equal for student and teacher but for their sizes."""

from __future__ import annotations

from typing import Any

from zoo_core.entropy.channelwise import ChannelwiseEntropy


class FedsEntropy(ChannelwiseEntropy):
    """`ChannelwiseEntropy` of a student, or of a teacher that is larger than it.

    Args:
        latent: all channels of y, a teacher's additional ones too.
        hyper_blocks, sizes: of the student, as in `ChannelwiseEntropy`.
        extra_rb: residual blocks more in the hyper transforms.
    """

    def __init__(self, latent: int, hyper_blocks: int, extra_rb: int = 0, **sizes: Any):
        super().__init__(latent, hyper_blocks=hyper_blocks + extra_rb, **sizes)
