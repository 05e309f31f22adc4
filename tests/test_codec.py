"""The codec as its users call it, with the trained weights of WeConvene."""

from __future__ import annotations

import copy
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo_core as zoo
from zoo_core import container
from zoo_core.codec import Codec, stage_times
from zoo_core.errors import RateError, UnknownModelError, UsageError, WrongWeightsError, ZooError
from zoo_core.testing.pictures import picture


@pytest.fixture(scope="module")
def codec():
    return zoo.load("weconvene-q3")


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(np.asarray(a, float) - np.asarray(b, float)).mean())


def test_names_and_levels():
    assert zoo.load("weconvene-q5").quality == 5
    assert zoo.load("weconvene", quality=3.4).quality == pytest.approx(3.4, abs=1 / 256)
    assert zoo.load("weconvene").quality == 3
    with pytest.raises(UsageError, match="from 1 to 6"):
        zoo.load("weconvene", quality=7)
    with pytest.raises(UnknownModelError, match="weconvene"):
        zoo.load("wecovnene-q3")
    with pytest.raises(UsageError, match="device"):
        zoo.load("weconvene", device="abacus")


def test_every_kind_of_source_gives_the_same_file(codec, tmp_path):
    x = picture(50, 34)
    image = Image.fromarray(x)
    path = tmp_path / "a.png"
    image.save(path)
    buffer = io.BytesIO(path.read_bytes())
    tensor = torch.from_numpy(x).permute(2, 0, 1)
    files = [
        codec.encode(s) for s in (x, image, path, str(path), path.read_bytes(), buffer, tensor, tensor / 255)
    ]
    assert len(set(files)) == 1


def test_metadata_travels(codec):
    image = Image.fromarray(picture(20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif.tobytes(), icc_profile=b"profile" * 20)
    data = codec.encode(buffer.getvalue(), metadata=b"mine")
    restored = zoo.decode(data)
    assert restored.size == (20, 20)  # not turned: the tag says how to look at it
    assert restored.getexif()[0x0112] == 6
    assert restored.info["icc_profile"] == b"profile" * 20
    assert container.read(data)[1][container.Section.USER] == b"mine"
    bare = container.read(codec.encode(buffer.getvalue(), keep_metadata=False))[1]
    assert set(bare) <= {container.Section.SYMBOLS, container.Section.CALIBRATION}


def test_targets_are_met(codec):
    x = picture(128, 96)
    data = codec.encode(x, target_bpp=0.4)
    assert 0.39 <= 8 * len(data) / (128 * 96) <= 0.4
    low, high = (psnr(zoo.decode(codec.encode(x, quality=q)), x) for q in (2, 5))
    target = (low + high) / 2
    reached = psnr(zoo.decode(codec.encode(x, target_psnr=target)), x)
    assert target <= reached < target + 0.1
    with pytest.raises(RateError, match="smallest file of this picture"):
        codec.encode(x, target_bpp=1e-6)  # less than a byte
    with pytest.raises(RateError, match="level 6 reaches"):
        codec.encode(x, target_psnr=70)
    with pytest.raises(UsageError, match="only one"):
        codec.encode(x, quality=2, max_bytes=500)
    with pytest.raises(UsageError, match="above 0"):
        codec.encode(x, target_bpp=float("nan"))


def test_verify_is_a_real_decode(codec, monkeypatch):
    from zoo_core.entropy import stream

    x = picture(32, 32)
    assert codec.encode(x, verify=True) == codec.encode(x)
    put = stream.Encoder._put
    monkeypatch.setattr(
        stream.Encoder, "_put", lambda self, values, *groups: put(self, values[::-1], *groups)
    )
    codec.encode(x)
    with pytest.raises(ZooError):
        codec.encode(x, verify=True)


def test_wrong_shapes_of_weights_are_refused(codec, tmp_path):
    from zoo_core import weights

    path = tmp_path / "w.safetensors"
    weights.write_tensors({"transform.g_a.0.conv1.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(WrongWeightsError, match="does not fit"):
        zoo.load("weconvene", weights=path)


def test_other_codecs_file_is_not_ours(codec):
    header, sections = container.read(codec.encode(picture(9, 9)))
    foreign = container.write(container.Header(**{**header.__dict__, "method": "nobody"}), sections)
    with pytest.raises(UnknownModelError, match="nobody"):
        zoo.decode(foreign)
    with pytest.raises(UsageError, match=r"zoo_core\.decode"):
        codec.decode(foreign)


def test_model_follows_compressai(codec):
    x = torch.from_numpy(picture(64, 64)).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.pad(x, (0, -64 % codec.stride, 0, -64 % codec.stride))
    with torch.inference_mode():
        out = codec.model(x)
    assert out["x_hat"].shape == x.shape
    assert all((p > 0).all() and (p <= 1).all() for p in out["likelihoods"].values())
    coded = codec.model.compress(x)
    restored = codec.model.decompress(coded["strings"], coded["shape"])["x_hat"]
    assert torch.allclose(restored, out["x_hat"].clamp(0, 1), atol=1e-4)


def test_compose_joins_registered_halves():
    composed = zoo.compose(transform="weconvene", entropy_model="weconvene")
    x = picture(40, 40)
    data = composed.encode(x)
    assert zoo.inspect(data).method == "weconvene-with-weconvene"
    assert np.array_equal(zoo.decode(data), composed.decode(data))
    with pytest.raises(UnknownModelError):
        zoo.compose(transform="weconvene", entropy_model="nothing")


def test_a_model_without_weights_says_that_it_starts_random(monkeypatch, caplog):
    from zoo_core import codec as module

    monkeypatch.setattr(module, "locate", lambda *args: None)
    untrained = zoo.load("weconvene")
    assert untrained.weights is None and "starts random" in caplog.text
    data = untrained.encode(picture(16, 16))
    assert container.read(data)[0].digest == bytes(8)
    assert untrained.decode(data).size == (16, 16)


def test_stage_times_cover_the_work(codec):
    with stage_times() as times:
        data = codec.encode(picture(256, 192))
        codec.decode(data)
    assert set(times) == {"image", "analysis", "networks", "coder", "synthesis", "container"}
    assert all(t > 0 for t in times.values())


# -- the command, on real files ---------------------------------------------------------------------------


def run(*args: object, **kwargs):
    command = [sys.executable, "-m", "zoo_core.cli", *map(str, args)]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run(command, capture_output=True, timeout=120, env=env, **kwargs)


def test_command_round_trip(tmp_path: Path):
    photo, coded, back = tmp_path / "a.png", tmp_path / "a.zoo", tmp_path / "b.png"
    Image.fromarray(picture(90, 60)).save(photo)
    assert run("encode", photo, "-o", coded, "--verify").returncode == 0
    assert run("verify", coded).returncode == 0
    info = run("info", coded)
    assert b"weconvene" in info.stdout and b"90" in info.stdout
    assert run("decode", coded, "-o", back).returncode == 0
    assert psnr(Image.open(back), Image.open(photo)) > 20
    refused = run("decode", coded, "-o", back)
    assert refused.returncode == 2 and b"-f" in refused.stderr


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "huge", "weights"])
def test_command_refuses_bad_files_in_one_line(tmp_path: Path, codec, damage: str):
    data = codec.encode(picture(20, 20))
    header, sections = container.read(data)
    if damage == "weights":
        data = container.write(container.Header(**{**header.__dict__, "digest": b"12345678"}), sections)
    bad = {"empty": b"", "text": b"hello", "cut": data[:50], "huge": _huge(data), "weights": data}[damage]
    path, out = tmp_path / "bad.zoo", tmp_path / "out.png"
    path.write_bytes(bad)
    result = run("decode", path, "-o", out)
    assert result.returncode == 2
    lines = result.stderr.decode().strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("zoo: error:") and "Traceback" not in lines[0]
    assert list(tmp_path.iterdir()) == [path]


def _huge(data: bytes) -> bytes:
    """The file with its width and height, one byte each, replaced by 2^31 each."""
    size = data.index(bytes([19, 19]))  # stored less one
    number = b"\x80\x80\x80\x80\x08"
    return data[:size] + number + number + data[size + 2 :]


def test_compressais_own_evaluation_accepts_the_model(codec):
    if importlib.util.find_spec("compressai") is None:
        pytest.skip("CompressAI is not installed")
    from zoo_core.compressai_bridge import import_compressai

    import_compressai()
    from compressai.utils.eval_model import __main__ as evaluation

    x = torch.from_numpy(picture(256, 192)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        real, estimated = (
            evaluation.inference(codec.model, x),
            evaluation.inference_entropy_estimation(codec.model, x),
        )
    assert real["bpp"] == pytest.approx(estimated["bpp"], rel=0.02, abs=0.01)
    assert real["psnr-rgb"] == pytest.approx(estimated["psnr-rgb"], abs=0.02)
    assert real["bpp"] == pytest.approx(8 * len(codec.encode(picture(256, 192))) / (256 * 192), rel=0.05)


def test_codecs_do_not_share_weights(codec):
    other = zoo.load("weconvene-q3")
    with torch.no_grad():
        next(other.model.transform.parameters()).add_(1)
    x = picture(40, 40)
    assert zoo.load("weconvene-q3").encode(x) == codec.encode(x)
    with pytest.raises(WrongWeightsError, match="changed after loading"):
        other.encode(x)


def test_a_model_can_be_copied_after_use(codec):
    x = picture(40, 40)
    data = codec.encode(x)
    model = copy.deepcopy(codec.model)
    again = Codec(codec.entry, codec.preset, model, codec.quality, codec.weights)
    assert again.encode(x) == data


def test_a_model_in_another_mode_or_precision_writes_no_file():
    for change in (lambda m: m.float(), lambda m: m.train()):
        other = zoo.load("weconvene-q3")
        change(other.model)
        with pytest.raises(WrongWeightsError, match="changed after loading"):
            other.encode(picture(8, 8))


@pytest.mark.parametrize(
    "arguments", [{"metadata": "text"}, {"quality": "3"}, {"max_bytes": "9"}, {"quality": 7}]
)
def test_arguments_of_the_wrong_type_say_so(codec, arguments):
    with pytest.raises(UsageError):
        codec.encode(picture(8, 8), **arguments)


def test_a_model_says_which_sizes_it_takes(codec):
    with pytest.raises(UsageError, match="multiples of 64, not 100 x 64"):
        codec.model(torch.zeros(1, 3, 64, 100))


def test_a_name_is_a_string():
    with pytest.raises(UsageError, match="named by a string"):
        zoo.load(3)


def test_an_encoder_keeps_the_cheapest_of_its_choices(monkeypatch):
    """Whichever side inputs a transform offers: none costs less in rate and distortion than what is written."""
    codec, x = zoo.load("weconvene-q3"), picture(64, 64)
    plain = type(codec.model.transform).analysis

    def coarser(transform, x, factor=1.0):
        return tuple(factor * y for y in plain(transform, x))

    monkeypatch.setattr(type(codec.model.transform), "analysis", coarser)
    costs = {}
    for factors in ((1.0,), (0.5,), (0.5, 1.0), (1.0, 0.5)):
        choices = tuple({"factor": factor} for factor in factors)
        monkeypatch.setattr(type(codec.model.transform), "choices", lambda self, choices=choices: choices)
        data = codec.encode(x, quality=3)
        error = np.square(np.asarray(codec.decode(data), float) - x).mean()
        bytes_coded = sum(map(len, container.read(data)[1].values()))
        costs[factors] = 8 * bytes_coded / 64**2 + 0.0067 * error
    assert costs[(1.0,)] < costs[(0.5,)]
    assert costs[(0.5, 1.0)] == costs[(1.0, 0.5)] == costs[(1.0,)]


def test_side_inputs_are_told_the_picture(monkeypatch):
    codec, x, seen = zoo.load("weconvene-q3"), picture(40, 24), []
    monkeypatch.setattr(
        type(codec.model.transform), "side_inputs", lambda self, pixels, **given: seen.append(pixels) or given
    )
    codec.encode(x)
    assert len(seen) == 1 and np.array_equal(seen[0], x)


def test_the_decoder_may_choose_its_precision(codec):
    x = picture(96, 64)
    data = codec.encode(x)
    plain, narrow = (np.asarray(codec.decode(data, precision=p), float) for p in ("fp32", "bf16"))
    assert 0 < np.abs(plain - narrow).max() <= 16
    assert abs(psnr(narrow, x) - psnr(plain, x)) < 0.1
    either = np.asarray(zoo.decode(data, precision="auto"), float)
    assert np.array_equal(either, plain) or np.array_equal(either, narrow)
    with pytest.raises(UsageError, match="fp32, bf16, auto"):
        codec.decode(data, precision="fp16")


def test_errors_of_large_pictures_are_summed_in_bands(codec, monkeypatch):
    """The PSNR that rate control aims at does not depend on how many rows are compared at once."""
    x, files = picture(70, 90), []
    for rows in (7, 1000):
        monkeypatch.setattr("zoo_core.codec._BAND", rows)
        files.append(codec.encode(x, target_psnr=30))
    assert files[0] == files[1]
    assert psnr(codec.decode(files[0]), x) >= 30
