"""From the embedding of a caption to a change of the latent.

The embedding becomes a tensor of fixed size, whatever the lengths of the text and of the picture's sides. Its
4x4 grid can hold a layout (sky above, subject in the middle); resized to the latent, it is fused with it. The
last layers start at zero, so that a codec with text starts as the codec without.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.layers.residual import PreciseConv2d, conv3x3, zeroed

Kind = Literal["concat", "film", "add"]
FUSIONS = ("concat", "film", "add")


class TextTensor(nn.Module):
    """Embeddings (B, D) -> T (B, Ct, grid, grid). A row of zeros stands for no text, and a learned vector for it.

    Args:
        embedding: D. hidden: width of the inner layer. channels: Ct. grid: 1 for no layout.
    """

    def __init__(self, embedding: int, hidden: int, channels: int, grid: int = 4):
        super().__init__()
        self.shape = (channels, grid, grid)
        # As long as a real embedding, about 1.
        self.null = nn.Parameter(torch.randn(embedding) / embedding**0.5)
        self.norm = nn.LayerNorm(embedding)
        self.fc1 = nn.Linear(embedding, hidden)
        self.fc2 = nn.Linear(hidden, channels * grid**2)

    def forward(self, embedding: Tensor) -> Tensor:
        absent = (embedding == 0).all(1, keepdim=True)
        x = self.norm(torch.where(absent, self.null, embedding))
        return self.fc2(F.gelu(self.fc1(x))).unflatten(1, self.shape)


class Fusion(nn.Module):
    """y0 (B, M, h, w) and T (B, Ct, grid, grid) -> y (B, M, h, w); y is y0 at the start.

    Args:
        latent: M. channels: Ct. hidden: width of the inner layer.
        kind: "concat": y0 + what two convolutions make of y0 and T; "film": y0 scaled and shifted by T;
            "add": y0 + a convolution of T, which does not depend on the picture.
    """

    def __init__(self, latent: int, channels: int, hidden: int, kind: Kind = "concat"):
        super().__init__()
        if kind not in FUSIONS:
            raise UsageError(f"fusion={kind}: choose {', '.join(FUSIONS)}")
        self.kind = kind
        self.place = conv3x3(channels, channels)
        self.mix = conv3x3(latent + channels, hidden) if kind == "concat" else None
        inputs = hidden if kind == "concat" else channels
        # What is quantised keeps full precision.
        self.last = zeroed(PreciseConv2d(inputs, 2 * latent if kind == "film" else latent, 1))

    def forward(self, y0: Tensor, text: Tensor) -> Tensor:
        placed = F.interpolate(text, size=y0.shape[-2:], mode="bilinear", align_corners=False)
        placed = self.place(placed)  # (B, Ct, h, w)
        if self.mix is not None:
            return y0 + self.last(F.gelu(self.mix(torch.cat([y0, placed], 1))))
        change = self.last(placed)
        if self.kind == "add":
            return y0 + change
        scale, shift = change.chunk(2, 1)
        return y0 * (1 + scale) + shift
