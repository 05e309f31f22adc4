"""A transform and an entropy model joined into one model, with CompressAI's conventions."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from zoo_core import registry
from zoo_core.entropy.coder import Estimator
from zoo_core.errors import UsageError, ZooError
from zoo_core.hooks import Entry
from zoo_core.interfaces import EntropyModel, Transform


class CodecModel(nn.Module):
    """The network of a codec.

    `model(x)` returns the reconstruction and the likelihoods, as CompressAI's models do; real files are
    the business of `zoo_core.codec.Codec`.

    Attributes:
        transform, entropy_model: the two halves.
        default_level: quality level, 1 to 6, used when `forward` is given none.
    """

    def __init__(self, transform: Transform, entropy_model: EntropyModel):
        super().__init__()
        self.transform = transform
        self.entropy_model = entropy_model
        self.default_level = 3.0

    @property
    def downscale(self) -> int:
        """Height and width of a picture must be multiples of it."""
        return self.transform.downscale * self.entropy_model.downscale

    def forward(self, x: Tensor, level: Tensor | None = None, **conditions: object) -> dict:
        """x (B, 3, H, W) in [0, 1], level (B,) -> {"x_hat": (B, 3, H, W), "likelihoods": {name: tensor}}."""
        latents_hat, coder = self.estimate(x, level, **conditions)
        return {"x_hat": self.transform.synthesis(latents_hat), "likelihoods": coder.likelihoods}

    def estimate(
        self, x: Tensor, level: Tensor | None = None, **conditions: object
    ) -> tuple[tuple[Tensor, ...], Estimator]:
        """Analysis and the walk: what the synthesis is given, and the estimator with likelihoods and values."""
        if level is None:
            level = x.new_full((x.shape[0],), self.default_level)
        if x.shape[-2] % self.downscale or x.shape[-1] % self.downscale:
            raise UsageError(
                f"the model takes pictures whose sides are multiples of {self.downscale}, not "
                f"{x.shape[-1]} x {x.shape[-2]}: pad it first; Codec.encode does so by itself"
            )
        latents = self.transform.analysis(x, **conditions)
        precision = next(self.entropy_model.parameters()).dtype
        if precision == torch.float64:
            latents = tuple(y.double() for y in latents)
        coder = Estimator(self.training, self.entropy_model.noise_downstream)
        shapes = self.transform.latent_shapes(*x.shape[-2:])
        latents_hat = self.entropy_model.code(coder, latents, shapes, level)
        return tuple(y.to(x.dtype) for y in latents_hat), coder

    def prepare(self, device: torch.device | str = "cpu") -> CodecModel:
        """Ready for coding: transform on `device` in channels_last, entropy model in float64 on the CPU."""
        self.eval().requires_grad_(False)
        self.transform.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # not in its stub
        self.entropy_model.double().cpu()
        return self

    def update(self) -> None:
        """Build the integer tables of the hyper-latent from the learned density."""
        self.entropy_model.update()

    def compress(self, x: Tensor, level: float | None = None, **conditions: object) -> dict:
        """x (B, 3, H, W) -> {"strings": [payloads, calibrations], "shape": (H, W)}, image by image.

        H and W must be multiples of `downscale`, as everywhere in CompressAI's conventions.
        """
        level = self.default_level if level is None else level
        with torch.inference_mode():
            latents = self.transform.analysis(x, **conditions)
        coded = [write_latents(self, tuple(y[i : i + 1] for y in latents), level) for i in range(len(x))]
        return {"strings": [[c[0] for c in coded], [c[1] for c in coded]], "shape": tuple(x.shape[-2:])}

    def decompress(
        self, strings: list[list[bytes]], shape: tuple[int, int], level: float | None = None
    ) -> dict:
        """What `compress` returned -> {"x_hat": (B, 3, H, W)} in [0, 1]."""
        level = self.default_level if level is None else level
        images = []
        for payload, calibration in zip(*strings, strict=True):
            latents = read_latents(self, payload, calibration, shape, level)
            with torch.inference_mode():
                images.append(self.transform.synthesis(tuple(y.float() for y in latents)))
        return {"x_hat": torch.cat(images).clamp_(0, 1)}


def join(transform: str, entropy_model: str, preset: str = "base") -> CodecModel:
    """The model out of a registered transform and a registered entropy model.

    An entropy model of a single latent, whose factory takes its channels as `latent`, is built for those of the
    transform.

    Raises:
        UsageError: the latents of the one do not fit the other.
    """
    first = registry.build(registry.find(transform, "transform"), preset)
    side = 16 * first.downscale
    offered = tuple(shape[0] for shape in first.latent_shapes(side, side))
    second = _entropy_model_for(offered, registry.find(entropy_model, "entropy_model"), preset)
    if offered != tuple(second.latent_channels):
        raise UsageError(
            f"transform '{transform}' has latents of {_list(offered)} channels, entropy model '{entropy_model}' "
            f"takes {_list(second.latent_channels)}: choose a pair that agrees"
        )
    return CodecModel(first, second)


def _entropy_model_for(channels: tuple[int, ...], entry: Entry, preset: str) -> EntropyModel:
    """The registered entropy model, for a single latent of another width if that is what is offered."""
    usual = entry.presets.get(preset, {}).get("latent")
    if len(channels) > 1 or usual in (None, channels[0]):
        return registry.build(entry, preset)
    wanted = {preset: {**entry.presets[preset], "latent": channels[0]}}
    try:
        return registry.build(replace(entry, presets=wanted), preset)
    except ZooError as error:
        raise UsageError(
            f"entropy model '{entry.name}' cannot be built for a latent of {channels[0]} channels: {error}"
        ) from error


def _list(numbers: tuple[int, ...]) -> str:
    return " and ".join(str(n) for n in numbers)


def write_latents(
    model: CodecModel, latents: tuple[Tensor, ...], level: float
) -> tuple[bytes, bytes, tuple[Tensor, ...]]:
    """Code the latents of one picture: payload, calibration, and the latents as the decoder will know them."""
    from zoo_core.entropy.stream import Encoder

    coder = Encoder()
    stride = model.transform.downscale
    height, width = latents[0].shape[-2] * stride, latents[0].shape[-1] * stride
    with torch.inference_mode():
        latents_hat = model.entropy_model.code(
            coder,
            # One memory format for both sides: sums of convolutions depend on it in their last bit.
            tuple(y.double().contiguous() for y in latents),
            model.transform.latent_shapes(height, width),
            torch.tensor([level], dtype=torch.float64),
        )
    return coder.payload(), coder.calibration(), latents_hat


def read_latents(
    model: CodecModel, payload: bytes, calibration: bytes, size: tuple[int, int], level: float
) -> tuple[Tensor, ...]:
    """The latents of one picture of padded `size` = (H, W); raises if they are not the encoded ones."""
    from zoo_core.entropy.stream import Decoder

    coder = Decoder(payload, calibration)
    with torch.inference_mode():
        latents = model.entropy_model.code(
            coder, None, model.transform.latent_shapes(*size), torch.tensor([level], dtype=torch.float64)
        )
    coder.finish()
    return latents


def bits(likelihoods: dict[str, Tensor]) -> Tensor:
    """Bits of each sample, (B,)."""
    total: Tensor | None = None
    for likelihood in likelihoods.values():
        part = likelihood.log2().sum(dim=(1, 2, 3))
        total = part if total is None else total + part
    assert total is not None
    return -total


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def bits_per_pixel(likelihoods: dict[str, Tensor], pixels: int) -> Tensor:
    """Estimated rate of each sample, (B,), in bits per pixel of its true size."""
    return bits(likelihoods) / pixels


def psnr_from_mse(mse: float) -> float:
    """PSNR in dB of a mean squared error on the scale 0..1."""
    return -10 * math.log10(max(mse, 1e-12))
