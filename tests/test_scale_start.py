"""Entropy parameters at the start of training."""

from __future__ import annotations

import torch
from torch import nn

from zoo_core import registry
from zoo_core.testing.pictures import picture
from zoo_core.training.initial import initialise
from zoo_core.training.recipe import RunConfig
from zoo_core.training.scale_start import start_scales


def test_a_photo_below_the_stride_has_scales_too() -> None:
    model = RunConfig("3dm-weconvene").build().eval()
    small = torch.from_numpy(picture(40, 24)).permute(2, 0, 1)
    initialise(model, registry.find("3dm-weconvene", "codec"), [small], "block")
    scales = torch.cat([nets.scale[-1].bias.detach() for nets in model.entropy_model.low.slices])
    assert bool(scales.isfinite().all()) and float(scales.max()) > 1


def test_scales_start_as_wide_as_the_channels() -> None:
    last = nn.Conv2d(5, 6, 1)
    before = last.weight.clone()
    start_scales(last, torch.tensor([3.0, 2.0, 1.0]), 0.2)
    scale, mean = last(torch.zeros(1, 5, 2, 2)).chunk(2, 1)
    assert scale[0, :, 0, 0].tolist() == [3.0, 2.0, 1.0] and not mean.any()
    torch.testing.assert_close(last.weight, 0.02 * before)
