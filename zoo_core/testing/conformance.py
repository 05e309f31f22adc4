"""The conformance kit: inherit it, name the method, and every promise of the zoo becomes a test.

    from zoo_core.testing import CodecConformance

    class TestMyMethod(CodecConformance):
        method = "mymethod"

Needs pytest. A plugin with trained weights is tested with them, otherwise with random ones.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zoo_core as zoo
from zoo_core import registry, weights
from zoo_core.codec import Codec, counts
from zoo_core.container import Section, inspect, read, write
from zoo_core.entropy.stream import Encoder
from zoo_core.errors import RateError, UsageError, WrongWeightsError, ZooError
from zoo_core.model import CodecModel, bits, psnr_from_mse, read_latents, write_latents
from zoo_core.testing.narrow import NarrowFloats
from zoo_core.testing.pictures import picture
from zoo_core.testing.poison import Recorder
from zoo_core.training.initial import own_start
from zoo_core.training.loss import rate_distortion

_SIZES = (1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 70)

_PAYLOAD_FRAME, _CODER_STATE = 5, 8
"""Bytes of the symbols payload besides the words: checksum and a length; and of the coder's final state."""

_CHILD = """
import sys, torch
import zoo_core as zoo
from zoo_core.testing.pictures import picture
model, theirs, mine, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
codec = zoo.load(model)
codec.check(open(theirs, "rb").read())
open(mine, "wb").write(codec.encode(picture(96, 80)))
"""

_LEAST_INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
}
"""What makes torch and its libraries compute as on an old processor: their sums end in other bits."""


class CodecConformance:
    """Tests that every codec of the zoo passes. Subclasses set `method`."""

    method: str

    @pytest.fixture(scope="class")
    @classmethod
    def codec(cls) -> Codec:
        return zoo.load(f"{cls.method}-q3")

    @pytest.fixture(scope="class")
    @classmethod
    def small(cls, codec: Codec) -> bytes:
        """A file of a small picture."""
        return codec.encode(picture(40, 24))

    # -- round trip -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("level", [1.0, 2.5, 6.0])
    def test_symbols_are_exact(self, codec: Codec, level: float) -> None:
        latents = codec.analyse(zoo_picture(96, 80))
        payload, calibration, known = write_latents(codec.model, latents, level)
        size = (80 + -80 % codec.stride, 96 + -96 % codec.stride)
        again = read_latents(codec.model, payload, calibration, size, level)
        for a, b in zip(known, again, strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("side", _SIZES)
    def test_every_size(self, codec: Codec, side: int) -> None:
        for width, height in ((side, 70), (33, side)):
            image = zoo.decode(codec.encode(picture(width, height)))
            assert image.size == (width, height)

    def test_tiles(self, codec: Codec) -> None:
        """A picture in tiles decodes, whatever is left for the last row and column of them."""
        side = 2 * codec.stride
        data = codec.encode(picture(3 * side - 5, side + 1), tile=side, verify=True)
        assert inspect(data).tile == side
        assert codec.decode(data).size == (3 * side - 5, side + 1)

    def test_decoded_picture_resembles_the_original(self, codec: Codec) -> None:
        if codec.weights is None:
            pytest.skip("this method has no trained weights yet")
        x = picture(128, 96)
        error = np.asarray(codec.decode(codec.encode(x, quality=6)), float) - x
        assert 10 * np.log10(255**2 / np.square(error).mean()) > 30

    def test_decode_equals_forward(self, codec: Codec) -> None:
        """The picture from a file is the picture that the network's forward pass promises."""
        x = picture(codec.stride * 2, codec.stride)
        tensor = torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            promised = codec.model(tensor)["x_hat"].clamp(0, 1).mul(255).round()[0].permute(1, 2, 0).numpy()
        decoded = np.asarray(codec.decode(codec.encode(x)), float)
        assert np.abs(decoded - promised).max() <= 1
        assert (decoded != promised).mean() < 0.01

    @pytest.mark.parametrize("level", [1.0, 3.0, 6.0])
    def test_estimated_and_real_bytes_agree(self, codec: Codec, level: float) -> None:
        x = picture(4 * codec.stride, 4 * codec.stride)
        tensor = torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            out = codec.model(tensor, torch.tensor([level]))
        estimate = float(bits(out["likelihoods"])) / 8
        _, sections = read(codec.encode(x, quality=level))
        coded = len(sections[Section.SYMBOLS]) - _PAYLOAD_FRAME
        # Random weights predict badly, and many of their symbols escape: the estimate knows that price roughly.
        share = 0.01 if codec.weights else 0.03
        assert coded == pytest.approx(estimate, rel=0, abs=share * estimate + _CODER_STATE)

    def test_modes_are_kept(self, codec: Codec) -> None:
        x = picture(30, 20)
        assert zoo.decode(codec.encode(x[:, :, 0])).mode == "L"
        alpha = np.random.default_rng(1).integers(0, 256, (20, 30, 1), dtype=np.uint8)
        image = zoo.decode(codec.encode(np.concatenate([x, alpha], 2)))
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image)[:, :, 3:], alpha)

    # -- rate -------------------------------------------------------------------------------------------

    def test_rate_rises_with_the_level(self, codec: Codec) -> None:
        x = picture(128, 128)
        sizes = [len(codec.encode(x, quality=q)) for q in (1, 2, 3, 4, 5, 6)]
        assert sizes == sorted(set(sizes)), (
            "bytes of q1..q6 must rise: does the walk pass RateGains to the coder?"
        )

    def test_max_bytes(self, codec: Codec) -> None:
        x = picture(96, 96)
        low, high = (len(codec.encode(x, quality=q)) for q in (2, 5))
        limit = (low + high) // 2
        with counts() as once:
            codec.encode(x, quality=2)
        with counts() as searched:
            size = len(codec.encode(x, max_bytes=limit))
        assert size <= limit
        assert codec.weights is None or size >= 0.99 * limit  # random weights may jump over the limit
        assert searched["analysis"] == once["analysis"], "rate control analyses the picture again"
        assert searched["walk"] <= 20 * once["walk"]
        assert len(codec.encode(x, target_bpp=8 * limit / 96**2)) == size
        with pytest.raises(RateError, match=r"smallest file of this picture has \d+ bytes"):
            codec.encode(x, max_bytes=20)

    def test_target_psnr(self, codec: Codec) -> None:
        if codec.weights is None:
            pytest.skip("random weights: the quality need not rise with the level")
        x = picture(96, 96)

        def psnr(**rate: Any) -> float:
            error = np.asarray(codec.decode(codec.encode(x, **rate))).astype(float) - x
            return float(10 * np.log10(255**2 / np.square(error).mean()))

        target = (psnr(quality=2) + psnr(quality=5)) / 2
        assert target <= psnr(target_psnr=target) < 1.01 * target
        with pytest.raises(RateError, match="level 6 reaches"):
            codec.encode(x, target_psnr=90)

    # -- decode right or refuse -------------------------------------------------------------------------

    def test_truncation_at_every_byte(self, codec: Codec, small: bytes) -> None:
        for end in range(len(small)):
            with pytest.raises(ZooError):
                codec.decode(small[:end])

    def test_flipped_bytes(self, codec: Codec, small: bytes) -> None:
        for position in range(len(small)):
            broken = bytearray(small)
            broken[position] ^= 0x55
            with pytest.raises(ZooError):
                codec.decode(bytes(broken))

    def test_flipped_symbols_behind_a_valid_container(self, codec: Codec) -> None:
        """Damage that the container's checksums do not see is refused by the symbols' own checksum."""
        latents = codec.analyse(zoo_picture(40, 24))
        payload, calibration, _ = write_latents(codec.model, latents, 3.0)
        size = (24 + -24 % codec.stride, 40 + -40 % codec.stride)
        for position in range(len(payload)):
            broken = bytearray(payload)
            broken[position] ^= 0x10
            with pytest.raises(ZooError):
                read_latents(codec.model, bytes(broken), calibration, size, 3.0)

    def test_wrong_weights(self, codec: Codec, small: bytes, tmp_path: Path) -> None:
        state = {k: v.half() if v.is_floating_point() else v for k, v in codec.model.state_dict().items()}
        name = next(k for k, v in state.items() if v.is_floating_point() and v.dim() == 4)
        state[name] = state[name] * 1.01
        path = tmp_path / "other.safetensors"
        weights.write_tensors(state, path)
        with pytest.raises(WrongWeightsError, match="written with weights"):
            zoo.load(self.method, weights=path).decode(small)

    def test_wrong_method(self, codec: Codec, small: bytes) -> None:
        header, sections = read(small)
        other = write(dataclasses.replace(header, method="another-method"), sections)
        with pytest.raises(UsageError, match="this file is of another-method"):
            codec.decode(other)

    def test_changed_weights_write_no_file(self, codec: Codec) -> None:
        """Files name the weights: a model that somebody changed must not write under the old name."""
        changed, untouched = zoo.load(f"{self.method}-q3"), zoo.load(f"{self.method}-q3")
        with torch.no_grad():
            next(changed.model.transform.parameters()).add_(1)
        with pytest.raises(WrongWeightsError, match="changed after loading"):
            changed.encode(picture(8, 8))
        assert untouched.encode(picture(8, 8)) == codec.encode(picture(8, 8))

    # -- one walk ---------------------------------------------------------------------------------------

    def test_walk_is_causal(self, codec: Codec) -> None:
        """Poison at step k reaches no parameter of the steps up to k, and some parameter of a later one."""
        clean = self._record(codec, None)
        assert clean
        for k in range(len(clean)):
            poisoned = self._record(codec, k)
            for before, after in zip(clean[: k + 1], poisoned[: k + 1], strict=True):
                if before.mean is not None:
                    assert torch.equal(before.mean, after.mean) and torch.equal(before.scale, after.scale)
            assert all(step.mean is None or step.mean.isnan().any() for step in poisoned[k + 1 : k + 2])

    @classmethod
    def _record(cls, codec: Codec, poisoned: int | None) -> list:
        latents = tuple(y.double() for y in codec.analyse(zoo_picture(codec.stride, codec.stride)))
        return cls._walk(codec, latents, poisoned)

    @staticmethod
    def _walk(codec: Codec, latents: tuple[torch.Tensor, ...], poisoned: int | None = None) -> list:
        shapes = codec.model.transform.latent_shapes(codec.stride, codec.stride)
        coder = Recorder(poisoned)
        with torch.inference_mode():
            codec.model.entropy_model.code(coder, latents, shapes, torch.tensor([3.0], dtype=torch.float64))
        return coder.steps

    def test_a_batch_is_coded_picture_by_picture(self, codec: Codec) -> None:
        batch = torch.stack([_tensor(codec, seed) for seed in (1, 2)])
        together = codec.model.compress(batch, 3.0)
        alone = codec.model.compress(batch[1:], 3.0)
        assert together["strings"][0][1] == alone["strings"][0][0]
        restored = codec.model.decompress(together["strings"], together["shape"], 3.0)["x_hat"]
        assert restored.shape == batch.shape

    # -- training ---------------------------------------------------------------------------------------

    def test_gradients_reach_all_parameters(self) -> None:
        model = _trainable(self.method)
        side = max(64, model.downscale)
        pictures = [torch.from_numpy(picture(side, side, seed)) for seed in range(6)]
        x = torch.stack(pictures).permute(0, 3, 1, 2) / 255
        out = model(x, torch.arange(1.0, 7.0))
        (bits(out["likelihoods"]).mean() + 1e3 * (out["x_hat"] - x).square().mean()).backward()
        silent = [
            name
            for name, p in model.named_parameters()
            if not name.endswith("quantiles") and (p.grad is None or not p.grad.abs().any())
        ]
        assert not silent

    def test_start_codes_what_it_sees(self) -> None:
        """Where training has a start of the method's own: symbols carry the picture at a sensible rate."""
        entry = registry.find(self.method, "codec")
        model = registry.build(entry, "base").eval()
        photo = torch.from_numpy(picture(128, 128)).permute(2, 0, 1)
        try:
            own_start(entry)(model, [photo])
        except UsageError as reason:
            pytest.skip(str(reason))
        x, level = photo[None].float() / 255, torch.tensor([4.0])
        with torch.inference_mode():
            _, bpp, mse = rate_distortion(x, model(x, level), level)
        assert psnr_from_mse(float(mse)) > 25 and float(bpp) < 4

    # -- determinism ------------------------------------------------------------------------------------

    def test_walk_is_in_float64(self, codec: Codec) -> None:
        """No step between the coded latents and the parameters of the next ones is any narrower."""
        latents = tuple(y.double() for y in codec.analyse(zoo_picture(codec.stride, codec.stride)))
        with NarrowFloats() as narrow:
            self._walk(codec, latents)
        assert not narrow.found

    def test_same_bytes_in_another_process(self, codec: Codec, tmp_path: Path) -> None:
        data = codec.encode(picture(96, 80))
        assert self._elsewhere(data, tmp_path, threads=1) == data

    def test_another_instruction_set_reads_and_writes(self, codec: Codec, tmp_path: Path) -> None:
        """Transforms may give other latents there, so the bytes may differ; files must decode both ways."""
        data = codec.encode(picture(96, 80))
        codec.check(self._elsewhere(data, tmp_path, threads=2, **_LEAST_INSTRUCTIONS))

    def _elsewhere(self, data: bytes, folder: Path, threads: int, **variables: str) -> bytes:
        """Check a file in a new process, and return the one of `picture(96, 80)` that it writes."""
        theirs, mine = folder / "theirs.zoo", folder / "mine.zoo"
        theirs.write_bytes(data)
        command = [sys.executable, "-c", _CHILD, f"{self.method}-q3", str(theirs), str(mine), str(threads)]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return mine.read_bytes()

    def test_other_thread_counts_decode(self, codec: Codec) -> None:
        x, before = picture(96, 80), torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            data = codec.encode(x)
            torch.set_num_threads(2)
            codec.check(data)
        finally:
            torch.set_num_threads(before)

    def test_container_overhead(self, codec: Codec, small: bytes) -> None:
        _, sections = read(small)
        coder = Encoder()
        assert set(sections) <= {Section.SYMBOLS, Section.CALIBRATION}
        bare = len(coder.payload())  # of no symbols at all: checksum and length of the escapes
        assert len(small) - len(sections[Section.SYMBOLS]) + bare <= 64

    def test_registered(self) -> None:
        entry = registry.find(self.method, "codec")
        assert entry.presets and "base" in entry.presets and entry.summary and entry.paper


def zoo_picture(width: int, height: int):
    """`picture` as the codec's internals take it."""
    from zoo_core.images import Picture

    return Picture(picture(width, height))


def _tensor(codec: Codec, seed: int) -> torch.Tensor:
    return torch.from_numpy(picture(codec.stride, codec.stride, seed)).permute(2, 0, 1).float() / 255


def _trainable(method: str) -> CodecModel:
    """A fresh model in which every weight can have a gradient: neither its hyper-latent nor a layer is all zero."""
    torch.manual_seed(1)
    model = registry.build(registry.find(method, "codec"), "base").train()
    with torch.no_grad():
        for name, p in model.entropy_model.named_parameters():
            if "h_a" in name and name.endswith("weight") and p.dim() == 4:
                p.mul_(4)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)
    return model
