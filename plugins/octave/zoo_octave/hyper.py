"""The two hyper layers, each a pair of transforms made of generalised octave convolutions.

    layer 1: y -- h_a --> z at a quarter of the size;   z_hat -- h_s --> parameters of y
    layer 2: z -- h_a2 --> w at the size of z;          w_hat -- h_s2 --> parameters of z

Both analyses read latents that are not quantised and take no absolute values.
"""

from __future__ import annotations

from torch import nn

from zoo_octave.layers import GoConv, GoTConv, leaky, split


def hyper_analysis(
    inputs: int, hyper: int, kernel: int, stride: int, cross_kernel: int | None, octave: bool
) -> nn.Sequential:
    """h_a (stride 2) or h_a2 (stride 1), `inputs` -> `hyper` channels in total.

    The first layer keeps the size and has kernels of 3; the other two have `kernel` and `stride`, and
    the last one neither activation nor bias.
    """
    i, z = split(inputs, octave), split(hyper, octave)
    return nn.Sequential(
        GoConv(i, z, 3, 1, leaky, cross_kernel),
        GoConv(z, z, kernel, stride, leaky, cross_kernel),
        GoConv(z, z, kernel, stride, None, cross_kernel, bias=False, precise=True),
    )


def hyper_synthesis(
    hyper: int,
    middle: int,
    outputs: int,
    kernel: int,
    stride: int,
    cross_kernel: int | None,
    order: str,
    octave: bool,
) -> nn.Sequential:
    """h_s (stride 2) or h_s2 (stride 1), `hyper` -> `outputs` channels in total, by way of `middle`."""
    z, m, o = (split(channels, octave) for channels in (hyper, middle, outputs))
    return nn.Sequential(
        GoTConv(z, z, kernel, stride, leaky, cross_kernel, order),
        GoTConv(z, m, kernel, stride, leaky, cross_kernel, order),
        GoTConv(m, o, 3, 1, None, cross_kernel, order, precise=True),
    )
