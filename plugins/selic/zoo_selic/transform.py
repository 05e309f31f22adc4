"""The plain residual transform, whose latent is fused with a caption before it is coded.

x -> g_a -> y0, caption -> text tensor T;  y = fuse(y0, T);  y_hat -> g_s -> x_hat

The decoder has none of it: neither caption nor text modules, and the file holds no text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo_core.errors import SideInputError, UsageError
from zoo_core.layers.residual16 import ResidualTransform16, Three
from zoo_selic.captions import Caption, Captioner, Resolved, resolve
from zoo_selic.fusion import Fusion, Kind, TextTensor

log = logging.getLogger("zoo_core.selic")  # below the zoo's own, which its commands show

TextMode = Literal["given", "best"]

CHEAPER = "no text costs less than the text; null text used"
"""What `text_mode="best"` reports where the null text won."""


class SelicTransform(ResidualTransform16):
    """Pictures and captions to one latent at a sixteenth of the size.

    Args:
        widths, blocks, latent: as in `ResidualTransform16`.
        embedding: numbers D of a caption's vector. text_hidden, text_channels, grid: of the text tensor.
        fusion_hidden, fusion: of the fusion. fuse_at: "y", or "f3" for the features at 1/8.
        text: false for no text modules, the codec to compare with.
    """

    conditions = ("caption",)

    def __init__(
        self,
        widths: Three,
        blocks: Three,
        latent: int,
        embedding: int,
        text_hidden: int,
        text_channels: int,
        fusion_hidden: int,
        grid: int = 4,
        fusion: Kind = "concat",
        fuse_at: Literal["y", "f3"] = "y",
        text: bool = True,
    ):
        super().__init__(widths, blocks, latent)
        if fuse_at not in ("y", "f3"):
            raise UsageError(f"fuse_at={fuse_at}: choose y or f3")
        self.embedding, self.fuse_at = embedding, fuse_at
        self.text = TextTensor(embedding, text_hidden, text_channels, grid) if text else None
        width = latent if fuse_at == "y" else widths[2]
        self.fuse = Fusion(width, text_channels, fusion_hidden, fusion) if text else None

    def side_inputs(
        self,
        pixels: np.ndarray,
        caption: Caption = None,
        captioner: Captioner = None,
        strict_text: bool = False,
        text_mode: TextMode = "given",
        info: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The embedding of the caption, (1, D), zeros for no text; and whether to try the null text as well.

        Args:
            pixels: uint8 (H, W[, 3]).
            caption, captioner, strict_text: see `captions.resolve`.
            text_mode: "best" for what costs less, the text or no text.
            info: is told what text was used and where it comes from; with "best", once that is known.
        """
        if text_mode not in ("given", "best"):
            raise SideInputError(f"text_mode={text_mode}: choose given or best")
        found = resolve(pixels, self.embedding, caption, captioner, strict_text)
        if info is not None:
            found.tell(info)
        vector = torch.zeros(self.embedding) if found.vector is None else found.vector
        return {"caption": vector[None], "best": text_mode == "best" and found.vector is not None}

    def choices(self, caption: Tensor, best: bool) -> Sequence[dict[str, Any]]:
        alone = {"caption": caption}
        return (alone, {"caption": torch.zeros_like(caption)}) if best else (alone,)

    def chosen(self, number: int, info: dict[str, Any] | None = None, **given: Any) -> None:
        """Called with the number of the choice that a file was made with, and the side inputs as given."""
        if number > 0:
            used = Resolved(None, note=CHEAPER)
            log.info("%s", used.note)
            if info is not None:
                used.tell(info)

    def analysis(self, x: Tensor, caption: Tensor | None = None) -> tuple[Tensor, ...]:
        """x (B, 3, H, W) and embeddings (B, D), zeros or None for no text -> y (B, M, H/16, W/16)."""
        f3 = self.features(x)
        if self.text is None or self.fuse is None:
            return (self.to_latent(f3),)
        if caption is None:
            caption = x.new_zeros(1, self.embedding)
        text = self.text(caption.to(x.device, self.text.null.dtype))
        text = text.expand(len(x), -1, -1, -1)
        if self.fuse_at == "f3":
            return (self.to_latent(self.fuse(f3, text)),)
        return (self.fuse(self.to_latent(f3), text),)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        """Weights of the codec without text may be loaded: the text modules then keep what they have."""
        own = {name: t for name, t in self.state_dict().items() if name.startswith(("text.", "fuse."))}
        if not any(prefix + name in state_dict for name in own):
            state_dict.update({prefix + name: tensor for name, tensor in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *others)
