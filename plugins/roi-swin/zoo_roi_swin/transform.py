"""Analysis and synthesis of Swin blocks, modulated by conditions in every layer.

    x (3, H, W)  -> conv5 -> SFT, RSTB, conv3 -> SFT, RSTB, conv3 -> SFT, RSTB, conv3 -> SFT -> y (M, H/16, W/16)
    y_hat -> SFT, deconv3 -> SFT, RSTB, deconv3 -> SFT, RSTB, deconv3 -> SFT, RSTB, deconv5 -> x_hat (3, H, W)

The encoder's conditions are made of picture and mask. The decoder has no mask: it makes its conditions of
y_hat and z_hat. Without conditions this is the autoencoder of Lu et al., Transformer-based Image Compression
(DCC 2022); that the paper uses it is inferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.swin_transform import SwinTransform, Widths, halving, transposed_picture
from zoo_roi_swin.mask import normalised
from zoo_roi_swin.modulation import SFT, DecoderPyramid, Pyramid, encoder_pyramid
from zoo_roi_swin.stages import Blocks, stage

MaskInput = Literal["layers", "first", "gate", "none"]
DecoderCondition = Literal["latent", "none", "signalled"]
Steps = list[Callable[[Tensor], Tensor]]

_WINDOW = 8
_GATE = 0.5
"""What `mask_input="gate"` multiplies y by outside of the region."""


class RoiSwinTransform(SwinTransform):
    """Pictures and masks to one latent at a sixteenth of the size.

    `analysis` returns y and the mask at the size of y, which is not coded: an entropy model may look at it
    where it makes its hyper-latent. `synthesis` takes y_hat and z_hat of this method's entropy model; y_hat
    alone is decoded without conditions.

    Args:
        widths, depths, heads: channels, blocks and heads of the stages at 1/2, 1/4 and 1/8.
        latent: channels M of y. hyper_latent: channels of z_hat. mlp_ratio: see `SwinStage`.
        condition: channels of the conditions. hidden: of the layer that gamma and beta share.
        mask_input: "layers": SFT in every layer; "first": the mask is a fourth channel of the picture;
            "gate": y is halved outside of the region; "none": SFT in every layer that are never shown the mask.
        dec_cond: the decoder's conditions: "latent": of y_hat and z_hat; "none": there are none;
            "signalled": of y_hat, z_hat and the mask at the size of y, which the file then contains.
        blocks: "swin", or "conv" for convolutions of equal cost.

    Attributes:
        modulated: False leaves all SFT out; for training without masks.
    """

    conditions = ("roi",)

    def __init__(
        self,
        widths: Widths,
        latent: int,
        hyper_latent: int,
        depths: Widths,
        heads: Widths,
        mlp_ratio: float,
        condition: int,
        hidden: int,
        mask_input: MaskInput = "layers",
        dec_cond: DecoderCondition = "latent",
        blocks: Blocks = "swin",
    ):
        if mask_input not in ("layers", "first", "gate", "none"):
            raise UsageError(f"mask_input={mask_input}: choose layers, first, gate or none")
        if dec_cond not in ("latent", "none", "signalled"):
            raise UsageError(f"dec_cond={dec_cond}: choose latent, none or signalled")
        super().__init__(
            latent, widths, depths, heads, mlp_ratio, 1, 0.0, transposed_picture, nn.Identity, _WINDOW
        )
        if blocks != "swin":
            for place, size in enumerate(zip(widths, depths, heads, strict=True)):
                self.g_a[2 * place + 1] = stage(blocks, *size, _WINDOW, mlp_ratio)
                self.g_s[5 - 2 * place] = stage(blocks, *size, _WINDOW, mlp_ratio)
        if mask_input == "first":
            self.g_a[0] = halving(4, widths[0], 5)
        self.mask_input, self.dec_cond, self.modulated = mask_input, dec_cond, True
        self.sft_a = self.pyramid = self.sft_s = self.decoder_pyramid = None
        sizes = (*widths, latent)
        if mask_input in ("layers", "none"):
            self.sft_a = nn.ModuleList(SFT(count, condition, hidden) for count in sizes)
            self.pyramid = encoder_pyramid(condition)
        if dec_cond != "none":
            self.sft_s = nn.ModuleList(SFT(count, condition, hidden) for count in reversed(sizes))
            self.decoder_pyramid = DecoderPyramid(
                latent, hyper_latent, condition, signalled=dec_cond == "signalled"
            )

    def side_inputs(self, pixels: np.ndarray, **given: Any) -> dict[str, Any]:
        """roi, roi_threshold and roi_dilate, see `mask.normalised`."""
        return {"roi": normalised(*pixels.shape[:2], **given)} if given else {}

    def analysis(self, x: Tensor, roi: Tensor | None = None) -> tuple[Tensor, ...]:
        """`roi` (B, 1, H, W) is 1 inside of the region and 0 outside; None for 1 everywhere."""
        if roi is None or self.mask_input == "none":
            roi = torch.ones_like(x[:, :1])
        both = torch.cat([x, roi], 1)
        steps = self._steps(self.sft_a, self.pyramid, both)
        y = _through(self.g_a, both if self.mask_input == "first" else x, steps)
        pooled = F.avg_pool2d(roi, self.downscale)  # (B, 1, H/16, W/16)
        if self.mask_input == "gate":
            y = y * (_GATE + (1 - _GATE) * pooled)
        return (y, pooled) if self.modulated else (y,)

    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        y_hat, *known = latents
        expected = 2 if self.dec_cond == "signalled" else 1  # z_hat, and the mask
        if len(known) < expected:
            return self.g_s(y_hat)
        first, *others = self._steps(self.sft_s, self.decoder_pyramid, y_hat, *known[:expected]) or (_same,)
        return _through(self.g_s, first(y_hat), others)

    def _steps(self, sft: nn.ModuleList | None, pyramid: Pyramid | None, *seen: Tensor) -> Steps:
        """The SFT of each size, given their conditions; none while there is no modulation."""
        if not self.modulated or sft is None or pyramid is None:
            return []
        return [partial(one, condition=c) for one, c in zip(sft, pyramid(*seen), strict=True)]


def _through(layers: nn.Sequential, x: Tensor, steps: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """The layers in turn; after each change of size, at every second layer, the next of the steps."""
    for place, layer in enumerate(layers):
        x = layer(x)
        if place % 2 == 0 and place // 2 < len(steps):
            x = steps[place // 2](x)
    return x


def _same(x: Tensor) -> Tensor:
    return x
