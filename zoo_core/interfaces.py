"""What a plugin implements: a transform and an entropy model; `zoo_core.model.CodecModel` joins one of each.

A transform turns pictures into latents and back. An entropy model turns latents into symbols and back,
as one walk over a `Coder` (zoo_core.entropy.coder): the same `code` estimates bits in training, writes a
file, and reads it. The factory of a codec returns a `CodecModel`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo_core.constants import BYTES_PER_PIXEL
from zoo_core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from zoo_core.entropy.coder import Coder

Shape = tuple[int, int, int]
"""(channels, height, width) of one latent."""


class Transform(nn.Module, ABC):
    """Pictures (B, 3, H, W) in [0, 1] to a tuple of latents, and back.

    Attributes:
        downscale: H and W must be multiples of it; the codec pads to that.
        conditions: side inputs that `analysis` takes by keyword, known to the encoder only.
        bytes_per_pixel: memory of the transforms and the entropy model at their peak; from it the codec
            chooses tiles for large pictures.
    """

    downscale: int
    bytes_per_pixel: int = BYTES_PER_PIXEL
    conditions: tuple[str, ...] = ()

    def side_inputs(self, pixels: np.ndarray, **given: Any) -> dict[str, Any]:
        """Side inputs as a user gave them, checked, and as `analysis` takes them; for one picture.

        A map of the picture, (1, C, H, W), is padded and cut into tiles with it.

        Args:
            pixels: of the picture, uint8 (H, W[, 3]).

        Raises:
            SideInputError: one of them cannot be used.
        """
        return given

    def choices(self, **prepared: Any) -> Sequence[dict[str, Any]]:
        """Side inputs that the encoder tries, given those that `side_inputs` returned.

        It keeps what costs least in rate and distortion.
        """
        return (prepared,)

    def chosen(self, number: int, **given: Any) -> None:
        """Called once a file is made, with the number of the choice in it and the side inputs as a user gave them."""

    @abstractmethod
    def analysis(self, x: Tensor, **conditions: Any) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> latents, as many as `latent_shapes` lists.

        More may follow that are not coded, for the encoder's half of an entropy model that knows them.
        """

    @abstractmethod
    def synthesis(self, latents: tuple[Tensor, ...]) -> Tensor:
        """Latents, and what else the entropy model returned -> (B, 3, H, W), not clamped."""

    @abstractmethod
    def latent_shapes(self, height: int, width: int) -> tuple[Shape, ...]:
        """Shapes of the latents of a padded picture."""

    def chain(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """Layers of the analysis and of the synthesis, where nothing but one layer after the other is done.

        With it a method can imitate another one (`zoo train --like`), and be imitated.

        Raises:
            UsageError: the transform has another structure.
        """
        raise UsageError(f"{type(self).__name__} is no chain of layers: it cannot imitate or be imitated")


class EntropyModel(nn.Module, ABC):
    """The probability model of the latents, and the order in which they are coded.

    Attributes:
        downscale: height and width of the first latent must be multiples of it.
        latent_channels: channels of each latent that it codes.
        noise_downstream: in training the walk goes on with noisy latents, not with rounded ones.
    """

    downscale: int
    latent_channels: tuple[int, ...]
    noise_downstream: bool = False

    @abstractmethod
    def update(self) -> None:
        """Build the integer tables of all learned densities; they become part of the weights."""

    @abstractmethod
    def code(
        self,
        coder: Coder,
        latents: tuple[Tensor, ...] | None,
        shapes: tuple[Shape, ...],
        level: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Walk over all symbols and return the latents as the decoder will know them.

        More may follow that the decoder knows, for a synthesis that uses it (the hyper-latent).

        Args:
            coder: estimates, writes or reads symbols. Nothing else may look at `latents`.
            latents: from the transform; None when decoding.
            shapes: of the latents.
            level: (B,) real quality level from 1 to 6; None when the model has a single rate.
        """
