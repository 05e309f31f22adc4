"""Weights: found, checked, read, written and published; over real HTTP with the real client of the Hub."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants, file_download

from tests import golden_models
from tests.hub_server import TOKEN, HubServer, hub_server  # noqa: F401  (a fixture)
from zoo_core import cli, codec, publish, registry, weights
from zoo_core.cli import exits
from zoo_core.errors import (
    PluginError,
    UsageError,
    WeightsError,
    WeightsNotFoundError,
    WrongWeightsError,
    ZooError,
)
from zoo_core.hooks import Entry, Weights

REPO = "owner/fake"
FILE = "fake-base.safetensors"
TENSORS = {"g_a.weight": torch.linspace(-1, 1, 12288).reshape(16, 768).half(), "steps": torch.tensor([7])}
CARD = "---\nlicense: apache-2.0\n---\n# Fake\n\n![curve](figures/rd.png)\n"


@pytest.fixture
def hub(hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:  # noqa: F811
    """The server, with the client of this process pointed at it and logged in; its cache is empty."""
    settings = {
        "ENDPOINT": hub_server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub_server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "home" / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))  # between retries
    return hub_server


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `weights/` of a plugin's package that must not be imported."""
    folder = tmp_path / "site" / "zoo_fake" / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('the plugin was imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


@pytest.fixture(scope="session")
def content() -> bytes:
    """A file of weights."""
    return weights._serialise(TENSORS, {})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pinned(data: bytes, revision: str | None = None, **other: Any) -> Weights:
    """What a plugin states about a file with this content, by default one that is on the Hub only."""
    known = {"repo": REPO, "revision": revision, "bundled": False, **other}
    return Weights(FILE, sha256(data), len(data), **known)


def entry(spec: Weights | None = None) -> Entry:
    presets = {"base": {}, "paper": {}}
    published = {"base": spec} if spec else {}
    return Entry("fake", "codec", "zoo_fake.model:build", presets=presets, weights=published)


def cached() -> list[Path]:
    """Every file in the client's cache that holds content, whole or in part."""
    return list(Path(constants.HF_HUB_CACHE).glob("models--*/blobs/*"))


def equal(found: dict[str, torch.Tensor]) -> bool:
    """Whether these are TENSORS, types included."""
    pairs = [(found[name], tensor) for name, tensor in TENSORS.items()]
    return len(found) == len(pairs) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def one_line(error: pytest.ExceptionInfo[ZooError]) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# --- the plugin's package ---------------------------------------------------------------------------


def test_a_preset_without_weights_has_no_file(hub: HubServer) -> None:
    assert weights.locate(entry(), "base") is None
    assert weights.locate(entry(pinned(b"x")), "paper") is None
    assert hub.requests == []


def test_the_bundled_file_is_preferred(plugin: Path, hub: HubServer, content: bytes) -> None:
    (plugin / FILE).write_bytes(content)
    revision = hub.add(REPO, {FILE: content})
    found = weights.locate(entry(pinned(content, revision, bundled=True)))
    assert found == weights.WeightsFile(plugin / FILE, sha256(content))
    assert equal(weights.read_tensors(found))
    assert hub.requests == []


def test_a_damaged_bundled_file_is_refused(plugin: Path, hub: HubServer, content: bytes) -> None:
    other = bytes(reversed(content))
    (plugin / FILE).write_bytes(other)
    with pytest.raises(WrongWeightsError) as error:
        weights.locate(entry(pinned(content, hub.add(REPO, {FILE: content}), bundled=True)))
    text = one_line(error)
    assert sha256(content) in text and sha256(other) in text and "install the plugin" in text
    assert hub.requests == []


def test_a_missing_bundled_file_comes_from_the_hub(plugin: Path, hub: HubServer, content: bytes) -> None:
    found = weights.locate(entry(pinned(content, hub.add(REPO, {FILE: content}), bundled=True)))
    assert equal(weights.read_tensors(found))
    with pytest.raises(WeightsNotFoundError, match="install its plugin again"):
        weights.locate(entry(pinned(content, repo=None, bundled=True)))


def test_a_bundled_pointer_of_git_lfs_says_so(plugin: Path, content: bytes) -> None:
    (plugin / FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n")
    with pytest.raises(WrongWeightsError, match=f"Git LFS .* bytes instead of {len(content):,}"):
        weights.locate(entry(pinned(content, repo=None, bundled=True)))


# --- the Hub ----------------------------------------------------------------------------------------


def test_download_takes_the_pinned_revision(hub: HubServer, content: bytes) -> None:
    revision = hub.add(REPO, {FILE: content})
    hub.add(REPO, {FILE: content[::-1]})
    found = weights.locate(entry(pinned(content, revision)))
    assert found.sha256 == sha256(content) and equal(weights.read_tensors(found))
    assert hub.count("GET") == 1 and all(f"/resolve/{revision}/" in request for request in hub.requests)


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc1234", None])
def test_only_a_full_commit_pins(revision: str | None, hub: HubServer, content: bytes) -> None:
    with pytest.raises(PluginError, match="40 hex digits"):
        weights.locate(entry(pinned(content, revision)))
    assert hub.requests == []


def test_the_second_load_asks_nobody(hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    method = entry(pinned(content, hub.add(REPO, {FILE: content})))
    first = weights.locate(method)
    count = len(hub.requests)
    assert weights.locate(method) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert equal(weights.read_tensors(weights.locate(method)))
    assert len(hub.requests) == count


def test_a_cached_file_costs_no_request_and_no_import(hub: HubServer, tmp_path: Path, content: bytes) -> None:
    """A new process that is offline by HF_HUB_OFFLINE loads neither torch nor the client's HTTP part."""
    spec = pinned(content, hub.add(REPO, {FILE: content}))
    weights.locate(entry(spec))
    count = len(hub.requests)
    fetcher = start_fetcher(spec, hub, tmp_path, HF_HUB_OFFLINE="1")
    (tmp_path / "go").touch()
    answer = finish(fetcher)
    assert answer["sha256"] == spec.sha256
    assert not {"torch", "huggingface_hub.file_download", "huggingface_hub.hf_api"} & {*answer["modules"]}
    assert len(hub.requests) == count


def test_offline_without_the_file_says_how_to_get_it(
    hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = hub.add(REPO, {FILE: content})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsNotFoundError) as error:
        weights.locate(entry(pinned(content, revision)))
    text = one_line(error)
    assert "HF_HUB_OFFLINE" in text and f"{hub.url}/{REPO}/resolve/{revision}/{FILE}" in text
    assert hub.requests == []


def test_wrong_content_from_the_hub_is_refused_and_not_kept(hub: HubServer, content: bytes) -> None:
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    method = entry(pinned(content, hub.add(REPO, {FILE: content})))
    hub.replaced[FILE] = wrong
    for _ in range(2):
        with pytest.raises(WrongWeightsError) as error:
            weights.locate(method)
        assert sha256(content) in one_line(error) and sha256(wrong) in one_line(error)
        assert cached() == []
    hub.replaced.clear()
    assert equal(weights.read_tensors(weights.locate(method)))


def test_a_wrong_size_is_refused_before_the_download(hub: HubServer, content: bytes) -> None:
    revision = hub.add(REPO, {FILE: content + b"more"})
    with pytest.raises(WrongWeightsError, match=f"{len(content) + 4:,} bytes instead of {len(content):,}"):
        weights.locate(entry(pinned(content, revision)))
    assert hub.count("GET") == 0


@pytest.mark.parametrize("change", [lambda data: data[:-9], lambda data: data + bytes(9)])
def test_a_body_of_another_size_is_refused(change: Any, hub: HubServer, content: bytes) -> None:
    method = entry(pinned(content, hub.add(REPO, {FILE: content})))
    hub.replaced[FILE] = change(content)
    with pytest.raises(WeightsNotFoundError, match="cannot download"):
        weights.locate(method)
    assert cached() == []


def test_what_the_hub_does_not_have(hub: HubServer, content: bytes) -> None:
    revision = hub.add(REPO, {"other.txt": b"x"})
    for spec, reason in (
        (pinned(content, revision), "no such file"),
        (pinned(content, "0" * 40), "no such commit"),
        (pinned(content, revision, repo="owner/other"), "no such repository"),
    ):
        with pytest.raises(WeightsNotFoundError) as error:
            weights.locate(entry(spec))
        assert reason in one_line(error) and spec.repo in one_line(error)
    assert hub.count("GET") == 0


@pytest.mark.parametrize("block", [1 << 20, 1024])
def test_a_connection_that_breaks_once_is_taken_up_again(
    block: int, hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", block)  # what the client keeps when it breaks
    hub.breaking = 1
    found = weights.locate(entry(pinned(content, hub.add(REPO, {FILE: content}))))
    assert equal(weights.read_tensors(found)) and hub.count("GET") == 2
    kept = len(content) // 2 // block * block
    assert hub.requests[-1].endswith(f"{FILE} bytes={kept}-" if kept else f"{FILE} ")


def test_a_connection_that_keeps_breaking_leaves_nothing(hub: HubServer, content: bytes, capfd: Any) -> None:
    method = entry(pinned(content, hub.add(REPO, {FILE: content})))
    hub.breaking = 1000
    with pytest.raises(WeightsNotFoundError) as error:
        weights.locate(method)
    assert "check the network and try again" in one_line(error) and FILE in one_line(error)
    assert cached() == [] and capfd.readouterr().err == ""
    hub.breaking = 0
    assert equal(weights.read_tensors(weights.locate(method)))


def test_no_network_is_reported_in_one_line(
    hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = hub.add(REPO, {FILE: content})
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsNotFoundError) as error:
        weights.locate(entry(pinned(content, revision)))
    assert "check the network" in one_line(error)


def test_a_full_disk_says_so(hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(WeightsNotFoundError) as error:
        weights.locate(entry(pinned(content, hub.add(REPO, {FILE: content}))))
    assert "No space left on device" in one_line(error) and "HF_HOME" in one_line(error)


def test_a_damaged_file_in_the_cache_is_replaced(
    hub: HubServer, content: bytes, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    method = entry(pinned(content, hub.add(REPO, {FILE: content})))
    path = weights.locate(method).path
    path.resolve().write_bytes(content[:-100])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WrongWeightsError, match="unset HF_HUB_OFFLINE"):
        weights.locate(method)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with caplog.at_level(logging.WARNING, "zoo_core"):
        assert equal(weights.read_tensors(weights.locate(method)))
    assert "downloading it again" in caplog.text and hub.count("GET") == 2


FETCHER = """
import json, pathlib, sys, time
from zoo_core import weights
from zoo_core.hooks import Entry, Weights
spec, ready, go = Weights(**json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
ready.touch()
while not go.exists():
    time.sleep(0.005)
file = weights.locate(Entry("fake", "codec", "zoo_fake.model:build", {}, {"base": spec}))
modules = list(sys.modules)
print(json.dumps({"sha256": file.sha256, "size": file.path.stat().st_size, "modules": modules}))
"""


def start_fetcher(spec: Weights, hub: HubServer, tmp_path: Path, **settings: str) -> subprocess.Popen[str]:
    """A process that looks for the weights as soon as the file `go` is there; waits until it is ready."""
    ready = tmp_path / f"ready-{len(list(tmp_path.glob('ready-*')))}"
    words = [json.dumps(dataclasses.asdict(spec)), str(ready), str(tmp_path / "go")]
    settings |= {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": constants.HF_HUB_CACHE}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", FETCHER, *words],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not ready.exists() and process.poll() is None:
        time.sleep(0.01)
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize("damaged", [False, True], ids=["empty cache", "damaged cache"])
def test_two_processes_at_once_share_one_download(
    damaged: bool, hub: HubServer, tmp_path: Path, content: bytes
) -> None:
    spec = pinned(content, hub.add(REPO, {FILE: content}))
    path = weights.locate(entry(spec)).path
    alone = len(hub.requests)
    if damaged:
        path.resolve().write_bytes(b"damaged")
    else:
        shutil.rmtree(constants.HF_HUB_CACHE)
    hub.delay = 0.5
    fetchers = [start_fetcher(spec, hub, tmp_path) for _ in range(2)]
    (tmp_path / "go").touch()
    for answer in map(finish, fetchers):
        assert (answer["sha256"], answer["size"]) == (spec.sha256, spec.size)
    assert len(hub.requests) == 2 * alone
    assert [path.read_bytes() for path in cached()] == [content]


def test_a_killed_download_harms_nobody(hub: HubServer, tmp_path: Path, content: bytes) -> None:
    spec = pinned(content, hub.add(REPO, {FILE: content}))
    hub.delay = 5
    killed = start_fetcher(spec, hub, tmp_path)
    (tmp_path / "go").touch()
    deadline = time.monotonic() + 60
    while not hub.count("GET") and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert hub.count("GET") == 1, "the process was not killed in the middle of its download"
    hub.delay = 0
    assert equal(weights.read_tensors(weights.locate(entry(spec))))


# --- given by the user ------------------------------------------------------------------------------


def test_an_explicit_file_is_taken_as_it_is(tmp_path: Path, hub: HubServer, content: bytes) -> None:
    path = tmp_path / "mine.safetensors"
    mine = weights.write_tensors({"a": torch.ones(3)}, path)
    for method in (entry(), entry(pinned(content, hub.add(REPO, {FILE: content})))):
        assert weights.locate(method, weights=str(path)) == weights.WeightsFile(path, mine)
    assert hub.requests == [] and mine == sha256(path.read_bytes())


def test_an_explicit_folder_holds_the_file(tmp_path: Path, content: bytes) -> None:
    method = entry(pinned(content))
    with pytest.raises(WeightsNotFoundError, match=f"no {FILE} and no weights.safetensors"):
        weights.locate(method, weights=tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert weights.locate(method, weights=tmp_path).path == tmp_path / "weights.safetensors"
    assert weights.locate(entry(), weights=tmp_path).sha256 == sha256(content)
    (tmp_path / FILE).write_bytes(content)
    assert weights.locate(method, weights=tmp_path).path == tmp_path / FILE


def test_an_explicit_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="missing.safetensors: No such file"):
        weights.locate(entry(), weights=tmp_path / "missing.safetensors")


# --- reading ----------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, torch.Tensor]:
    return weights.read_tensors(weights.locate(entry(), weights=path))


def test_tensors_come_as_they_are_stored(tmp_path: Path) -> None:
    weights.write_tensors(TENSORS, tmp_path / "a")
    assert equal(read(tmp_path / "a"))


def test_pickles_are_refused_without_opening_them(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "new.pt")
    torch.save(TENSORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(WrongWeightsError, match=r"new.pt is a zip archive of pickles.*only safetensors"):
        read(tmp_path / "new.pt")
    with pytest.raises(WrongWeightsError, match=r"old.pt is a pickle"):
        read(tmp_path / "old.pt")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "p").write_bytes(pickle.dumps({"a": [1.0] * 99}, protocol))
        with pytest.raises(WrongWeightsError, match="only safetensors files are read"):
            read(tmp_path / "p")


def test_a_header_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    """A header of 640 bytes puts the first bytes of a pickle, 0x80 0x02, at the front of a sound file."""
    path = tmp_path / "a"
    weights.write_tensors({"a": torch.ones(2)}, path, {"note": ""})
    missing = 640 - int.from_bytes(path.read_bytes()[:8], "little")
    weights.write_tensors({"a": torch.ones(2)}, path, {"note": "x" * missing})
    assert path.read_bytes().startswith(b"\x80\x02")
    assert torch.equal(read(path)["a"], torch.ones(2))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    weights.write_tensors({"a": torch.arange(4.0), "b": torch.ones(2).half()}, tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "b").write_bytes(whole[:length])
        with pytest.raises(WrongWeightsError):
            read(tmp_path / "b")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.ones(99).to(dtype)
    tensor[50] = value
    (tmp_path / "a").write_bytes(weights._serialise({"sound": torch.ones(2), "bad.bias": tensor}, {}))
    with pytest.raises(WrongWeightsError, match="'bad.bias' holds NaN or infinity"):
        read(tmp_path / "a")
    with pytest.raises(WrongWeightsError, match="'bad.bias' holds NaN or infinity"):
        weights.write_tensors({"bad.bias": tensor}, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_8_bit_floats_are_checked_too(tmp_path: Path) -> None:
    tensor = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    (tmp_path / "a").write_bytes(weights._serialise({"a": tensor}, {}))
    with pytest.raises(WrongWeightsError, match="NaN"):
        read(tmp_path / "a")


def safetensors_file(
    path: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None
) -> Path:
    """A file with any header, and with any length stated for it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def tensor_header(dtype: str = "F32", shape: tuple[int, ...] = (1,), end: int = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, end]}


@pytest.mark.parametrize("length", [99_999_999, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_gigabytes_is_refused_at_once(length: int, tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "a", b"{" + b" " * 100, length=length)
    tracemalloc.start()
    try:
        with pytest.raises(WrongWeightsError, match="no known format|invalid header length"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        {"a": tensor_header(shape=(2**40,))},
        {"a": tensor_header(shape=(2**32, 2**32))},
        {"a": tensor_header(end=2**60)},
        {"a": tensor_header(), "b": tensor_header()},
        {"a": tensor_header(dtype="OBJECT")},
        b"{" * 100_000,
    ],
    ids=["larger than the file", "overflow", "beyond the end", "overlap", "unknown type", "nested"],
)
def test_a_header_that_lies_is_refused(header: bytes | dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WrongWeightsError, match="truncated or damaged.*get it again"):
        read(safetensors_file(tmp_path / "a", header, b"abcd"))


def test_4_bit_floats_are_refused_by_name(tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "a", {"a": tensor_header("F4", (2,), 1)}, b"\xff")
    with pytest.raises(WrongWeightsError, match="'a' has type float4.*convert it"):
        read(path)


def test_every_kind_of_misfit_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Shapes, types, missing and foreign tensors, and tables of the hyper-latent that are no distributions."""
    model = golden_models.build("feds")
    sound = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    [table] = [name for name in sound if name.endswith("frequencies")]
    kernel = next(name for name, tensor in sound.items() if tensor.dim() == 4)
    misfits = {
        "size mismatch": {**sound, kernel: sound[kernel][:1]},
        "Missing key": {name: tensor for name, tensor in sound.items() if name != kernel},
        "Unexpected key": {**sound, "foreign": torch.ones(1)},
        f"{kernel} is int32, not float32": {**sound, kernel: sound[kernel].int()},
        f"{kernel} is complex64, not float32": {**sound, kernel: sound[kernel].to(torch.complex64)},
        f"{table} is float32, not int32": {**sound, table: sound[table].float()},
    }
    for reason, tensors in misfits.items():
        weights.write_tensors(tensors, tmp_path / "a")
        with pytest.raises(WrongWeightsError, match=f"does not fit this model: .*{reason}"):
            codec._fill(model, weights.locate(entry(), weights=tmp_path / "a"))
    for value in (-1, 0, 2**30):
        model.load_state_dict({**sound, table: torch.full_like(sound[table], value)})
        with pytest.raises(WrongWeightsError, match="table of the hyper-latent"):
            model.prepare().compress(torch.zeros(1, 3, 64, 64))


def test_a_file_that_changes_between_check_and_reading_is_refused(tmp_path: Path) -> None:
    weights.write_tensors({"a": torch.ones(2)}, tmp_path / "a")
    found = weights.locate(entry(), weights=tmp_path / "a")
    weights.write_tensors({"a": torch.zeros(2)}, tmp_path / "a")
    with pytest.raises(WrongWeightsError, match="changed after it was checked"):
        weights.read_tensors(found)


# --- writing ----------------------------------------------------------------------------------------


def test_the_same_tensors_and_metadata_give_the_same_file(tmp_path: Path) -> None:
    pairs = [(f"key{i}", str(i)) for i in range(8)]
    digests = {
        weights.write_tensors(TENSORS, tmp_path / "a", dict(order)) for order in [pairs, pairs[::-1]] * 8
    }
    assert digests == {sha256((tmp_path / "a").read_bytes())}
    from safetensors import safe_open

    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata() == dict(pairs)
    assert equal(read(tmp_path / "a"))


def test_any_layout_can_be_written(tmp_path: Path) -> None:
    base = torch.randn(2, 3, 4, 5)
    tensors = {
        "last": base.to(memory_format=torch.channels_last),
        "part": base[:, 1],
        "tied": base,
        "parameter": torch.nn.Parameter(base),
    }
    weights.write_tensors(tensors, tmp_path / "a")
    found = read(tmp_path / "a")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    old = weights.write_tensors({"a": torch.ones(2)}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        weights.write_tensors({"a": torch.zeros(2)}, path)
    assert sha256(path.read_bytes()) == old
    assert list(tmp_path.iterdir()) == [path]


# --- publishing -------------------------------------------------------------------------------------


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A model card that shows a picture."""
    folder = tmp_path / "model_cards"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "rd.png").write_bytes(b"\x89PNG of the test")
    (folder / "fake.md").write_text(CARD)
    return folder / "fake.md"


@pytest.fixture
def trained(tmp_path: Path, content: bytes) -> Path:
    """The folder of a training run."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(content)
    return folder


def test_what_was_pushed_can_be_loaded(hub: HubServer, card: Path, trained: Path, content: bytes) -> None:
    published = publish.push(entry(), "base", REPO, card=card, file=trained)
    repository = hub.repositories[REPO]
    assert list(repository.commits) == [published.revision] and not repository.private
    assert published.url == f"{hub.url}/{REPO}/commit/{published.revision}"
    assert repository.commits[published.revision] == {
        FILE: content,
        "README.md": CARD.encode(),
        "figures/rd.png": b"\x89PNG of the test",
    }
    assert published.weights == pinned(content, published.revision)
    assert eval(f"{{{published.code}}}", {"Weights": Weights}) == {"base": published.weights}
    hub.add(REPO, {FILE: b"a later commit"})
    found = weights.locate(entry(published.weights))
    assert equal(weights.read_tensors(found)) and str(found.path).startswith(constants.HF_HUB_CACHE)


def test_pushing_the_bundled_file_keeps_it_bundled(
    plugin: Path, hub: HubServer, card: Path, content: bytes, trained: Path
) -> None:
    (plugin / FILE).write_bytes(content)
    method = entry(pinned(content, repo=None, bundled=True))
    assert publish.push(method, "base", REPO, card=card).weights.bundled
    weights.write_tensors({"a": torch.ones(2)}, trained / "weights.safetensors")
    assert not publish.push(method, "base", REPO, card=card, file=trained).weights.bundled


def test_pushing_again_without_a_change_makes_no_commit(hub: HubServer, card: Path, trained: Path) -> None:
    first = publish.push(entry(), "base", REPO, card=card, file=trained)
    assert publish.push(entry(), "base", REPO, card=card, file=trained) == first
    card.write_text(CARD + "More words.\n")
    third = publish.push(entry(), "base", REPO, card=card, file=trained)
    assert third.revision != first.revision and third.weights.sha256 == first.weights.sha256


def test_the_command_prints_what_to_paste(
    hub: HubServer, card: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(registry, "parse", lambda name: (entry(), None))
    monkeypatch.chdir(card.parent.parent)
    words = ["push", "fake", "--repo", REPO, "--weights", str(trained / "weights.safetensors"), "--private"]
    assert cli.main(words) == exits.OK
    out = capsys.readouterr().out
    head = hub.repositories[REPO].head
    assert out.startswith(f"{hub.url}/{REPO}/commit/{head}\n") and f'    revision="{head}",\n' in out
    assert hub.repositories[REPO].private
    card.unlink()
    assert cli.main(words) == exits.UNUSABLE
    error = capsys.readouterr().err
    assert error.startswith("zoo: error: there is no model card model_cards/fake.md")
    assert error.count("\n") == 1


def test_the_hub_must_know_who_pushes(
    hub: HubServer, card: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="refuses access: log in") as error:
        publish.push(entry(), "base", "forbidden/fake", card=card, file=trained)
    one_line(error)
    with pytest.raises(WeightsError, match="refuses access: log in") as error:
        publish.push(entry(), "base", REPO, card=card, file=trained, token="hf_wrong")
    one_line(error)
    monkeypatch.delenv("HF_TOKEN")
    count = len(hub.requests)
    with pytest.raises(UsageError, match="log in with 'hf auth login'"):
        publish.push(entry(), "base", REPO, card=card, file=trained)
    assert len(hub.requests) == count
    publish.push(entry(), "base", REPO, card=card, file=trained, token=TOKEN)


@pytest.fixture(params=["no network", "offline"])
def unreachable(request: Any, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The Hub cannot be reached; the words that the message must hold."""
    if request.param == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return "unset HF_HUB_OFFLINE"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return "check the network"


def test_pushing_without_the_hub(unreachable: str, card: Path, trained: Path) -> None:
    with pytest.raises(WeightsError) as error:
        publish.push(entry(), "base", REPO, card=card, file=trained)
    assert f"cannot publish to {REPO}" in one_line(error) and unreachable in one_line(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# Fake\n", "must begin with front matter"),
        ("---\ntags: [a]\n---\n", "a license"),
        ("---\nlicense: [apache\n---\n", "is no YAML"),
        ("---\n- license\n---\n", "is no YAML"),
    ],
)
def test_a_card_needs_front_matter(text: str, reason: str, hub: HubServer, card: Path, trained: Path) -> None:
    card.write_text(text)
    with pytest.raises(UsageError) as error:
        publish.push(entry(), "base", REPO, card=card, file=trained)
    assert reason in one_line(error) and str(card) in one_line(error)
    assert hub.requests == []


def test_the_hub_refuses_a_card(hub: HubServer, card: Path, trained: Path) -> None:
    card.write_text("---\nlicense: unheard-of\n---\n")
    with pytest.raises(WeightsError, match='"license" must be one of') as error:
        publish.push(entry(), "base", REPO, card=card, file=trained)
    one_line(error)
    assert hub.repositories[REPO].commits == {}


def test_a_picture_outside_the_folder_is_reported(
    hub: HubServer, card: Path, trained: Path, caplog: Any
) -> None:
    (card.parent.parent / "secret.png").write_bytes(b"x")
    card.write_text(CARD + "![a](../secret.png) ![b](https://example.org/b.png) ![c](figures/rd.png 'title')")
    published = publish.push(entry(), "base", REPO, card=card, file=trained)
    assert "shows ../secret.png" in caplog.text and "example.org" not in caplog.text
    assert set(hub.repositories[REPO].commits[published.revision]) == {FILE, "README.md", "figures/rd.png"}


def test_what_others_could_not_read_is_not_pushed(hub: HubServer, card: Path, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.pt")
    with pytest.raises(WrongWeightsError, match="zip archive of pickles"):
        publish.push(entry(), "base", REPO, card=card, file=tmp_path / "a.pt")
    with pytest.raises(UsageError, match="has no weights yet"):
        publish.push(entry(), "paper", REPO, card=card)
    with pytest.raises(UsageError, match="has no preset 'large'"):
        publish.push(entry(), "large", REPO, card=card)
    with pytest.raises(UsageError, match="write owner/name"):
        publish.push(entry(), "base", "fake", card=card)
    assert hub.requests == []
