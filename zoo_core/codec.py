"""Pictures in, bytes out, and back: the codec that `zoo.load` returns.

The transforms run in float32 on the codec's device. The entropy model runs in float64 on the CPU, because
what it computes must agree between the machine that writes a file and the one that reads it.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import numbers
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_core import container, images, registry, tiles
from zoo_core.constants import DEFAULT_MEMORY, LAMBDAS, QUALITY_STEP
from zoo_core.container import Header, Section
from zoo_core.device import checked_device, use_bf16
from zoo_core.errors import (
    CorruptFileError,
    RateError,
    UsageError,
    WrongWeightsError,
)
from zoo_core.hooks import Entry
from zoo_core.images import Picture
from zoo_core.model import CodecModel
from zoo_core.tiles import Grid, Span
from zoo_core.timing import count, counts, stage, stage_times
from zoo_core.weights import WeightsFile, locate, read_tensors

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Codec", "compose", "counts", "decode", "load", "stage_times"]

_SECANT_STEPS = 8
"""Rate control bisects after so many steps."""

_BAND = 256
"""Rows of a picture that are compared at once."""

_Coded = tuple[bytes, bytes, tuple[Tensor, ...]]
"""Payload, calibration, and the latents as the decoder will know them."""

log = logging.getLogger(__name__)


def load(
    name: str,
    *,
    quality: float | None = None,
    preset: str = "base",
    device: str = "cpu",
    weights: str | Path | None = None,
) -> Codec:
    """A codec by name.

    Args:
        name: "<method>-q<level>" or "<method>".
        quality: level from 1 to 6, decimals allowed; goes before the level in the name. Default 3.
        preset: "base" has weights; "paper" is the paper's size and starts random.
        device: of the transforms, as torch names it.
        weights: file to use instead of the published weights, or a folder that holds them.

    Raises:
        UnknownModelError, UsageError: no such name, level, preset or device.
        WeightsError: the weights are missing or not the right ones.
    """
    entry, level = registry.parse(name)
    quality = _checked_quality(quality if quality is not None else level if level is not None else 3.0)
    codec = _shared(entry, quality, preset, device, weights)
    # A copy of its own: whoever trains or changes a codec's model changes no other codec.
    return Codec(entry, preset, copy.deepcopy(codec.model), quality, codec.weights)


def _shared(entry: Entry, quality: float, preset: str, device: str, weights: str | Path | None) -> Codec:
    """A codec that has its parameters in common with others; for callers that show its model to nobody."""
    file = locate(entry, preset, weights)
    model = copy.copy(_network(entry.name, preset, file, checked_device(device)))
    return Codec(entry, preset, model, quality, file)


@functools.lru_cache(maxsize=4)
def _network(name: str, preset: str, file: WeightsFile | None, device: torch.device) -> CodecModel:
    """The network with its weights, ready for coding; kept, so that a second file costs no loading."""
    entry = registry.find(name, "codec")
    # Random weights are the same in every process, so that files of untrained models can be read again.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = registry.build(entry, preset)
    if file is None:
        log.warning("%s, preset %s, has no trained weights: it starts random", name, preset)
        model.update()
    else:
        _fill(model, file)
    return model.prepare(device)


def _fill(model: CodecModel, file: WeightsFile) -> None:
    tensors = read_tensors(file)
    own = model.state_dict()
    for name, tensor in tensors.items():  # PyTorch would convert what is of another kind, and say nothing
        if name in own and own[name].is_floating_point() != tensor.is_floating_point():
            kind, wanted = (str(t.dtype).removeprefix("torch.") for t in (tensor, own[name]))
            raise WrongWeightsError(f"'{file.path}' does not fit this model: {name} is {kind}, not {wanted}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WrongWeightsError(f"'{file.path}' does not fit this model: {reason}") from None


def decode(
    data: bytes, *, device: str = "cpu", weights: str | Path | None = None, precision: str = "fp32"
) -> Image.Image:
    """The picture in the bytes of a .zoo file; the file names its own codec.

    Args:
        device, weights: as in `load`. precision: as in `Codec.decode`.

    Raises:
        FileError: not a .zoo file, or damaged.
        UnknownModelError: the plugin is not installed.
        WeightsError: the weights are missing, or not those that the file was written with.
        MismatchError: the symbols did not decode to what was encoded.
    """
    header, _ = container.read(data)
    entry = registry.find(header.method, "codec")
    return _shared(entry, 3.0, header.preset, device, weights).decode(data, precision=precision)


def compose(
    *, transform: str, entropy_model: str, preset: str = "base", quality: float = 3.0, device: str = "cpu"
) -> Codec:
    """A codec out of a registered transform and a registered entropy model, with random weights.

    It has a name, "<transform>-with-<entropy model>", which `load`, `zoo train` and its files know too.

    Raises:
        UnknownModelError: one of the names is not registered.
        UsageError: the latents of the one do not fit the other.
    """
    return load(f"{transform}{registry.WITH}{entropy_model}", quality=quality, preset=preset, device=device)


class Codec:
    """Encodes pictures to .zoo files and decodes them.

    Attributes:
        entry: what the plugin registered. preset: size of the model.
        model: the network, in evaluation mode, with CompressAI's conventions.
        quality: level from 1 to 6 that `encode` uses unless told otherwise.
        weights: the file of the weights; None if they are random.
    """

    def __init__(
        self,
        entry: Entry,
        preset: str,
        model: CodecModel,
        quality: float,
        weights: WeightsFile | None,
    ):
        self.entry, self.preset, self.model = entry, preset, model
        self.quality, self.weights = quality, weights
        self.model.default_level = quality
        self.device = next(model.transform.parameters()).device
        self._digest = bytes.fromhex(weights.sha256)[: container.DIGEST_SIZE] if weights else bytes(8)
        self._versions = self._parameter_versions()

    def encode(
        self,
        image: images.Source,
        *,
        quality: float | None = None,
        max_bytes: int | None = None,
        target_bpp: float | None = None,
        target_psnr: float | None = None,
        metadata: bytes | None = None,
        keep_metadata: bool = True,
        convert: bool = False,
        verify: bool = False,
        tile: int | None = None,
        memory: int = DEFAULT_MEMORY,
        **conditions: object,
    ) -> bytes:
        """The bytes of a .zoo file.

        Args:
            image: path, bytes of an image file, PIL image, array (H, W[, C]) or tensor (C, H, W).
            quality: level from 1 to 6. At most one of quality, max_bytes, target_bpp, target_psnr.
            max_bytes: the best quality whose whole file is not larger, to 0.5 % of the bytes.
            target_bpp: the same in bits per pixel of the whole file.
            target_psnr: the lowest quality that reaches this PSNR in dB over RGB, to 0.02 dB.
            metadata: bytes of the user's own, kept in the file.
            keep_metadata: keep ICC profile and EXIF.
            convert: bring other modes (16 bit, CMYK, ...) to 8-bit grey or RGB instead of refusing them.
            verify: decode the symbols again before returning.
            tile: side of the tiles in pixels that the picture is cut into; 0 for none. Default: none if that
                fits into `memory`, else the largest that fit.
            memory: about how many bytes the process may use to encode this picture, or later to decode it.
            conditions: side inputs of methods that take them ("roi", "caption").

        Raises:
            ImageError: the picture cannot be read or needs `convert`.
            RateError: the target is out of reach; the message says what is reachable.
        """
        wanted = [v for v in (quality, max_bytes, target_bpp, target_psnr) if v is not None]
        if len(wanted) > 1:
            raise UsageError("give only one of quality, max_bytes, target_bpp, target_psnr")
        if any(not isinstance(v, numbers.Real) or not v > 0 for v in wanted):
            raise UsageError(f"a rate or quality is a number above 0, not {wanted[0]!r}")
        if metadata is not None and not isinstance(metadata, bytes):
            raise UsageError(f"metadata is bytes, not {type(metadata).__name__}: encode it first")
        self._check_unchanged()
        with stage("image"):
            picture = images.read(image, convert=convert)
            extra = _extra_sections(picture, metadata, keep_metadata)
        if tile is None:
            tile = tiles.choose(self.model, picture.shape, memory)
        job = _Encoding(self, picture, extra, tile, conditions)
        if target_bpp is not None:
            max_bytes = int(target_bpp * picture.size[0] * picture.size[1] / 8)
        if max_bytes is not None:
            data = job.largest_under(max_bytes)
        elif target_psnr is not None:
            data = job.smallest_over(target_psnr)
        else:
            data = job.file(self.quality if quality is None else _checked_quality(quality))
        self.model.transform.chosen(job.choice, **conditions)
        if verify:
            self.check(data)
        return data

    def decode(self, data: bytes, *, precision: str = "fp32") -> Image.Image:
        """The picture in the bytes of a .zoo file of this method; see `zoo_core.decode` for the errors.

        Args:
            precision: of the synthesis, "fp32", "bf16", or "auto" for bf16 where this device is faster with it.
                Symbols do not depend on it; pixels do by a level or two.
        """
        self._check_unchanged()
        bf16 = use_bf16(precision, self.device)
        header, sections, latents = self._latents(data)
        pixels = self.reconstruct(latents, (header.height, header.width), header.grey, header.tile, bf16)
        del latents  # as large as the picture, which Pillow copies next
        with stage("image"):
            alpha = sections.get(Section.ALPHA)
            picture = Picture(
                pixels,
                None if alpha is None else images.decode_alpha(alpha, (header.width, header.height)),
                sections.get(Section.ICC),
                sections.get(Section.EXIF),
            )
            return images.to_pil(picture)

    def check(self, data: bytes) -> None:
        """Decode everything but the pixels; raises what `decode` would raise."""
        header, sections, _ = self._latents(data)
        if Section.ALPHA in sections:
            images.decode_alpha(sections[Section.ALPHA], (header.width, header.height))

    def analyse(self, picture: Picture, tile: int = 0, **conditions: object) -> tuple[Tensor, ...]:
        """Latents (1, C, h, w) of a picture padded to the model's stride by repeating its border.

        `conditions` are side inputs as the user gave them.
        """
        transform = self.model.transform
        first, *_ = transform.choices(**transform.side_inputs(picture.pixels, **conditions))
        return self._analyse(picture, tile, first)

    def _analyse(self, picture: Picture, tile: int, prepared: dict[str, object]) -> tuple[Tensor, ...]:
        """`analyse` with side inputs as the transform takes them."""
        grid = Grid.of(self.model, picture.shape, tile)
        whole = {name: _map(value, picture.shape, grid) for name, value in prepared.items()}

        def parts() -> Iterator[tuple[Tensor, ...]]:
            for rows, columns in grid:
                pixels = picture.pixels[rows.first : rows.last, columns.first : columns.last]
                x = _padded(pixels, (rows.last - rows.first, columns.last - columns.first), self.device)
                beside = {
                    name: _part(value, grid, rows, columns, self.device) for name, value in whole.items()
                }
                latents = self.model.transform.analysis(x, **beside)
                count("analysis")
                yield tuple(y.cpu() for y in grid.core(latents, rows, columns))

        with stage("analysis"), torch.inference_mode():
            return grid.join(parts())

    def reconstruct(
        self,
        latents: tuple[Tensor, ...],
        size: tuple[int, int],
        grey: bool,
        tile: int = 0,
        bf16: bool = False,
    ) -> np.ndarray:
        """Latents -> uint8 (H, W, 3), or (H, W) if grey, cropped to size = (H, W)."""
        out = np.empty(size if grey else (*size, 3), np.uint8)
        grid = Grid.of(self.model, size, tile)
        precision = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
        with stage("synthesis"), torch.inference_mode(), precision:
            for rows, columns in grid:
                part = grid.inside(latents, rows, columns, around=True)
                inputs = tuple(y.float().to(self.device) for y in part)
                x = self.model.transform.synthesis(inputs)[0]
                x = x[:, rows.start - rows.first :, columns.start - columns.first :]
                target = out[rows.start : rows.stop, columns.start : columns.stop]
                target[:] = _pixels(x[:, : target.shape[0], : target.shape[1]], grey)
        return out

    def _parameter_versions(self) -> tuple[int, ...]:
        """Counts how often each parameter was written."""
        return tuple(p._version for p in self.model.parameters() if not p.is_inference())

    def _check_unchanged(self) -> None:
        """Files name the weights that were loaded: nobody could decode them if others had written them."""
        precision = next(self.model.entropy_model.parameters()).dtype
        if self._parameter_versions() != self._versions or self.model.training or precision != torch.float64:
            raise WrongWeightsError(
                f"the model of this {self.entry.name} was changed after loading (weights, mode or precision): save "
                "its weights with zoo_core.weights.write_tensors and load a codec with weights=FILE"
            )

    @property
    def stride(self) -> int:
        """Pictures are padded to multiples of it."""
        return self.model.downscale

    def _latents(self, data: bytes) -> tuple[Header, dict[Section, bytes], tuple[Tensor, ...]]:
        """Everything up to the latents, checked."""
        with stage("container"):
            header, sections = container.read(data)
            self._check_header(header)
        level = header.quality / QUALITY_STEP
        calibration = sections.get(Section.CALIBRATION, b"")
        grid = Grid.of(self.model, (header.height, header.width), header.tile)
        tiles.check_memory(self.model, grid)
        with stage("networks"):
            latents = tiles.read(self.model, sections[Section.SYMBOLS], calibration, level, grid)
        return header, sections, latents

    def _check_header(self, header: Header) -> None:
        if (header.method, header.preset) != (self.entry.name, self.preset):
            raise UsageError(
                f"this file is of {header.method}, preset {header.preset}, and this codec is {self.entry.name}, "
                f"preset {self.preset}: use zoo_core.decode, which chooses by itself"
            )
        if header.digest != self._digest:
            raise WrongWeightsError(
                f"the file was written with weights {header.digest.hex()}, but these are {self._digest.hex()}: "
                "install the plugin version that has them, or give the file with --weights"
            )
        if header.tile % self.stride:
            raise CorruptFileError(
                f"tiles of {header.tile} pixels do not fit this method: get the file again"
            )


class _Encoding:
    """One picture on its way to a file: analysed once, coded at as many levels as rate control asks for."""

    def __init__(
        self,
        codec: Codec,
        picture: Picture,
        extra: dict[Section, bytes],
        tile: int,
        conditions: dict[str, object],
    ):
        unknown = set(conditions) - set(codec.entry.conditions)
        if unknown:
            raise UsageError(f"{codec.entry.name} does not take {', '.join(sorted(unknown))}")
        self.codec, self.picture, self.extra = codec, picture, extra
        self.grid = tiles.checked(Grid.of(codec.model, picture.shape, tile))
        transform = codec.model.transform
        choices = transform.choices(**transform.side_inputs(picture.pixels, **conditions))
        self.latents = [codec._analyse(picture, self.grid.side, prepared) for prepared in choices]
        self._known: tuple[Tensor, ...] = ()  # latents of the file coded last, as the decoder will know them
        self.choice = 0  # number of the transform's choice in that file, or in the one that a search returned

    def file(self, level: float) -> bytes:
        """The whole file at a level, a multiple of 1/256."""
        self._coded = None  # the latents of another level, as large as the picture
        with stage("networks"):
            coded = [tiles.write(self.codec.model, y, level, self.grid) for y in self.latents]
        self.choice = 0 if len(coded) == 1 else self._cheapest(coded, level)
        payload, calibration, self._known = coded[self.choice]
        sections = {Section.SYMBOLS: payload, **self.extra}
        if calibration:
            sections[Section.CALIBRATION] = calibration
        width, height = self.picture.size
        header = Header(
            method=self.codec.entry.name,
            preset=self.codec.preset,
            digest=self.codec._digest,
            quality=round(level * QUALITY_STEP),
            width=width,
            height=height,
            tile=self.grid.side,
            grey=self.picture.grey,
        )
        with stage("container"):
            return container.write(header, sections)

    def largest_under(self, max_bytes: int) -> bytes:
        """The file of about the highest level that is not larger than max_bytes: less than 0.5 % smaller."""
        target = math.log(max(max_bytes, 1))
        best = self._search(lambda data: math.log(len(data)), target, 0.005, 0.35, above=False)
        if best is None:
            least = len(self.file(1.0))
            raise RateError(
                f"the smallest file of this picture has {least} bytes ({self._bpp(least):.3f} bits per pixel), more "
                f"than {max_bytes}: ask for more"
            )
        return best

    def smallest_over(self, psnr: float) -> bytes:
        """The file of about the lowest level that reaches a PSNR in dB: less than 0.02 dB more."""
        best = self._search(lambda _data: self._psnr(), psnr, 0.02, 1.4, above=True)
        if best is None:
            self.file(float(len(LAMBDAS)))
            raise RateError(
                f"level {len(LAMBDAS)} reaches {self._psnr():.2f} dB on this picture, not {psnr:g}: ask for less"
            )
        return best

    def _search(
        self, measure: Callable[[bytes], float], target: float, tolerance: float, slope: float, above: bool
    ) -> bytes | None:
        """The file whose measure is closest to the target, on the side that is asked for; None if none is.

        Secant steps from the middle level, with bisection where they do not converge. The measure of the file
        coded last grows with the level, by about `slope` a level.
        """
        low, high = QUALITY_STEP, len(LAMBDAS) * QUALITY_STEP
        place, slope = (low + high) // 2, slope / QUALITY_STEP
        aim = target + (tolerance if above else -tolerance) / 2
        best, before, steps = None, None, 0
        while low <= high:
            data, steps = self.file(place / QUALITY_STEP), steps + 1
            value = measure(data)
            good = value >= target if above else value <= target
            if good:
                best, level, choice = data, place / QUALITY_STEP, self.choice
                if abs(value - target) <= tolerance:
                    break
            if good == above:
                high = place - 1
            else:
                low = place + 1
            if before is not None and (value - before[1]) * (place - before[0]) > 0:
                slope = (value - before[1]) / (place - before[0])
            before = place, value
            guess = place + round((aim - value) / slope) if steps < _SECANT_STEPS else (low + high) // 2
            place = min(max(guess, low), high)
        if best is not None:
            self.choice = choice
            log.info("level %.2f after %d steps", level, steps)
        return best

    def _cheapest(self, coded: list[_Coded], level: float) -> int:
        """The place of what costs least in bits per pixel + lambda * 255^2 * MSE."""
        pixels = math.prod(self.picture.size)
        weight = math.exp(np.interp(level, range(1, len(LAMBDAS) + 1), np.log(LAMBDAS)))

        def cost(place: int) -> float:
            payload, calibration, latents_hat = coded[place]
            return 8 * (len(payload) + len(calibration)) / pixels + weight * self._mse(latents_hat)

        return min(range(len(coded)), key=cost)

    def _bpp(self, size: int) -> float:
        """Bits per pixel of a file of this picture."""
        width, height = self.picture.size
        return 8 * size / (width * height)

    def _psnr(self) -> float:
        """PSNR in dB of the file coded last."""
        return float(10 * np.log10(255**2 / max(self._mse(self._known), 1e-10)))

    def _mse(self, latents_hat: tuple[Tensor, ...]) -> float:
        """Mean squared error of the picture that the decoder will make, on the scale 0..255."""
        width, height = self.picture.size
        pixels = self.codec.reconstruct(latents_hat, (height, width), self.picture.grey, self.grid.side)
        bands = range(0, height, _BAND)  # of rows: in float64 the whole picture would take 16 times its bytes
        pairs = ((pixels[i : i + _BAND], self.picture.pixels[i : i + _BAND]) for i in bands)
        return sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs) / pixels.size


def _map(value: object, size: tuple[int, int], grid: Grid) -> object:
    """A side input; one that is a map of the picture is padded as the picture is."""
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == size:
        return F.pad(value, (0, grid.width - size[1], 0, grid.height - size[0]), mode="replicate")
    return value


def _part(value: object, grid: Grid, rows: Span, columns: Span, device: torch.device) -> object:
    """A side input for one tile with its margin."""
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == (grid.height, grid.width):
        return grid.inside((value,), rows, columns, around=True)[0].to(device)
    return value


def _padded(pixels: np.ndarray, size: tuple[int, int], device: torch.device) -> Tensor:
    """uint8 (h, w[, 3]) -> (1, 3, H, W) in [0, 1], channels_last, the border repeated up to size = (H, W)."""
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None].repeat(3, 2)
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(2, 0, 1)[None]
    height, width = x.shape[-2:]
    x = F.pad(x.float().div_(255), (0, size[1] - width, 0, size[0] - height), mode="replicate")
    return x.contiguous(memory_format=torch.channels_last)


def _pixels(x: Tensor, grey: bool) -> np.ndarray:
    """(3, H, W) in about [0, 1] -> uint8 (H, W, 3), or (H, W) if grey."""
    if grey:
        x = x.mean(0, keepdim=True)
    pixels = x.clamp(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels[:, :, 0] if grey else pixels


def _extra_sections(picture: Picture, metadata: bytes | None, keep: bool) -> dict[Section, bytes]:
    extra: dict[Section, bytes] = {}
    if picture.alpha is not None:
        extra[Section.ALPHA] = images.encode_alpha(picture.alpha)
    if keep and picture.icc:
        extra[Section.ICC] = picture.icc
    if keep and picture.exif:
        extra[Section.EXIF] = picture.exif
    if metadata is not None:
        extra[Section.USER] = metadata
    return extra


def _checked_quality(quality: float) -> float:
    """The level on the file's grid of 1/256."""
    if not isinstance(quality, numbers.Real) or not 1 <= quality <= len(LAMBDAS):
        raise UsageError(f"the quality is a level from 1 to {len(LAMBDAS)}, not {quality!r}")
    return round(quality * QUALITY_STEP) / QUALITY_STEP
