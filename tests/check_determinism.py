"""Encodes pictures under one setting and decodes them under each other: threads, libraries, instruction sets.

Run by `make determinism`; not part of the suite, because it takes long and installs another torch. Every
setting is a process of its own. It writes all pictures at all levels, and then reads the files of all settings,
as `zoo verify` does: everything but the synthesis, which no symbol depends on. Files that several settings
wrote alike are read once a setting. Settings that change nothing but the transforms only write.

A method without trained weights takes those of its own start, in which the networks of the entropy model are
then disturbed, so that scales vary within the picture; `--weights` names better ones.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import torch
from PIL import Image

from zoo_core import container, registry, weights
from zoo_core.container import Section
from zoo_core.training.export import export
from zoo_core.training.initial import own_start

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tests" / "determinism_worker.py"
OTHER_TORCH = "2.11.0"
TRACED = 6
"""Files of the reference whose scales are compared number by number."""


@dataclass(frozen=True)
class Setting:
    """One way to run the codec.

    Attributes:
        environment: variables of the process; libraries read them when they start.
        needs: flag of the processor (/proc/cpuinfo), or "cuda", or "other torch"; without it, skipped.
        job: what the worker is told, see `JOB`.
        reads: decode the files of all settings; not for what changes the transforms alone.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    needs: str | None = None
    job: dict[str, Any] = field(default_factory=dict)
    reads: bool = True


JOB = {"threads": 1, "onednn": True, "bf16": False, "tiles": False, "device": "cpu", "action": "encode"}


def _cap(onednn: str, aten: str, mkl: str) -> dict[str, str]:
    """The instruction set of the three libraries that compute."""
    return {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten, "MKL_CBWR": mkl}


SETTINGS = (
    Setting("1 thread"),
    Setting("2 threads", {"OMP_WAIT_POLICY": "PASSIVE"}, job={"threads": 2}),
    Setting("oneDNN off", job={"onednn": False}),
    Setting("SSE4.1", _cap("SSE41", "default", "COMPATIBLE"), "sse4_1"),
    Setting("AVX2", _cap("AVX2", "avx2", "AVX2"), "avx2"),
    Setting("AVX-512", _cap("AVX512_CORE", "avx512", "AVX512"), "avx512bw"),
    Setting("AMX", _cap("AVX512_CORE_AMX", "avx512", "AUTO"), "amx_tile"),
    Setting("bf16 transforms", job={"bf16": True}, reads=False),
    Setting("tiles", job={"tiles": True}, reads=False),
    Setting("batch 8", job={"action": "batch"}, reads=False),
    Setting("other torch", needs="other torch"),
    Setting("GPU transforms", needs="cuda", job={"device": "cuda"}),
)
"""The first is the reference."""


def main() -> None:
    """Run the matrix for each model, print its outcome, and fail if a file did not decode."""
    args = _arguments()
    _say(
        f"pictures: {len(args.pictures) or 'one of matplotlib'}, levels {', '.join(map('{:g}'.format, args.levels))}"
    )
    python = other_torch(args.torch) if args.torch else None
    settings = [s for s in SETTINGS if _available(s, python)]
    outcomes = []
    for name in args.models or [e.name for e in registry.entries() if e.kind == "codec"]:
        with tempfile.TemporaryDirectory() as folder:
            matrix = Matrix(name, args, Path(folder), python)
            outcomes.append(matrix.run(settings))
        print(json.dumps(outcomes[-1], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps(outcomes, indent=1) + "\n")
    _print_table(outcomes)
    if any(outcome["failures"] or outcome["batch"]["different"] for outcome in outcomes):
        sys.exit("some files did not decode to what was encoded")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("models", nargs="*", metavar="METHOD", help="default: every installed codec")
    add("--pictures", type=Path, metavar="DIR", help="default: a photo that matplotlib brings")
    add("--limit", type=int, metavar="N", help="only the first N pictures")
    add("--crop", type=int, metavar="N", help="only the N x N pixels in the middle")
    add("--levels", type=float, nargs="+", default=[1, 3, 6], metavar="Q", help="default: 1 3 6")
    add("--weights", action="append", default=[], metavar="METHOD=FILE", help="weights of a method")
    add("--torch", default=OTHER_TORCH, metavar="VERSION", help="default: %(default)s; '' for none")
    add("--json", type=Path, metavar="FILE", help="write the outcome")
    args = parser.parse_args()
    args.weights = dict(item.split("=", 1) for item in args.weights)
    args.pictures = (
        sorted(p for p in args.pictures.iterdir() if p.is_file())[: args.limit] if args.pictures else []
    )
    return args


def _available(setting: Setting, python: Path | None) -> bool:
    """Whether this machine can run it; says so if not."""
    if setting.needs == "cuda":
        there = torch.cuda.is_available()
    elif setting.needs == "other torch":
        there = python is not None
    else:
        there = setting.needs is None or setting.needs in _processor_flags()
    if not there:
        _say(f"skipped: {setting.name}: there is no {setting.needs} here")
    return there


def _processor_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return set(found[1].split()) if found else set()


def other_torch(version: str) -> Path | None:
    """Python of an environment with that torch and the zoo, made in build/ if need be; None if it cannot be."""
    folder = ROOT / "build" / f"torch-{version}"
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    needed = [r for r in importlib.metadata.requires("zoo-core") or [] if "extra ==" not in r]
    needed = [r for r in needed if not r.startswith(("torch", "compressai", "numpy"))]
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    projects = [ROOT, *(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
    editable = [word for project in projects for word in ("-e", str(project))]
    _say(f"installing torch {version} in {folder.relative_to(ROOT)}")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [*pip, f"torch=={version}", "numpy<2", "setuptools>=70.1,<82", "pytest", *needed], check=True
        )
        subprocess.run([*pip, "--no-build-isolation", "--no-deps", *editable], check=True)
    except subprocess.CalledProcessError as error:
        _say(f"torch {version} cannot be installed here ({error})")
        return None
    done.touch()
    return python


class Matrix:
    """All settings of one model.

    Args:
        python: of the environment with another torch.
    """

    def __init__(self, model: str, args: argparse.Namespace, folder: Path, python: Path | None) -> None:
        self.model, self.folder, self.python = model, folder, python
        self.pictures = list(_prepared(args, folder))
        self.levels = args.levels
        self.weights = args.weights.get(model) or _weights(model, self.pictures, folder)
        (folder / "traces").mkdir()

    def run(self, settings: list[Setting]) -> dict[str, Any]:
        """What came out, as `_print_table` shows it."""
        batch = {"different": 0, "compared": 0}
        for setting in settings:
            answer = self._work(setting, out=self._out(setting))
            batch = {key: answer.get(key, count) for key, count in batch.items()}
        files = {s.name: sorted(self._out(s).glob("*.zoo")) for s in settings}
        unique = {_digest(path): path for paths in reversed(files.values()) for path in paths}
        readers = [s for s in settings if s.reads]
        read = [self._read(s, sorted(unique.values()), files) for s in readers]
        return {
            "model": self.model,
            "files": sum(map(len, files.values())),
            "unique": len(unique),
            "pairs": sum(map(len, files.values())) * len(read),
            "failures": [failure for answer in read for failure in answer["failures"]],
            "identical": self._identical(files),
            "calibration": _calibration_share(list(unique.values())),
            "distance": {s.name: a["distance"] for s, a in zip(readers, read, strict=True)},
            "batch": batch,
            "ran": {s.name: f"torch {a['torch']}, {a['isa']}" for s, a in zip(readers, read, strict=True)},
        }

    def _out(self, setting: Setting) -> Path:
        return self.folder / re.sub(r"\W+", "-", setting.name)

    def _read(self, setting: Setting, files: list[Path], written: dict[str, list[Path]]) -> dict[str, Any]:
        """Decode all files under a setting; the reference leaves its traces for the others."""
        first = setting.name == SETTINGS[0].name
        reference = written[SETTINGS[0].name]
        answer = self._work(
            setting,
            action="decode",
            files=[str(path) for path in files],
            traces=str(self.folder / "traces"),
            traced=[str(path) for path in reference[:: max(1, len(reference) // TRACED)]],
            write_traces=first,
        )
        answer["failures"] = [f"{setting.name}: {failure}" for failure in answer["failures"]]
        return answer

    def _work(self, setting: Setting, **more: Any) -> dict[str, Any]:
        """Let the worker do a job under a setting."""
        job = {**JOB, **setting.job, **more, "model": self.model, "weights": self.weights}
        job |= {"pictures": [str(p) for p in self.pictures], "levels": self.levels}
        _say(f"{self.model}: {setting.name}: {job['action']}")
        if "out" in job:
            job["out"].mkdir()
        path = self.folder / "job.json"
        path.write_text(json.dumps(job, default=str))
        python = self.python if setting.needs == "other torch" else sys.executable
        environment = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), **setting.environment}
        done = subprocess.run(
            [str(python), str(WORKER), str(path)],
            env=environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def _identical(self, files: dict[str, list[Path]]) -> dict[str, float]:
        """Share of each setting's files that are the reference's, bit for bit."""
        first = [_digest(path) for path in files[SETTINGS[0].name]]
        return {
            name: float(np.mean([_digest(path) == digest for path, digest in zip(paths, first, strict=True)]))
            for name, paths in files.items()
        }


def _prepared(args: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """The pictures as PNG, cropped as asked, in multiples of 64 pixels so that batches can hold them."""
    photo = Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    for path in args.pictures or [photo]:
        image = Image.open(path).convert("RGB")
        size = [min(args.crop or n, n) // 64 * 64 for n in image.size]
        left, top = ((n - m) // 2 for n, m in zip(image.size, size, strict=True))
        target = folder / f"{path.stem}.png"
        image.crop((left, top, left + size[0], top + size[1])).save(target, compress_level=1)
        yield target


def _weights(model: str, pictures: list[Path], folder: Path) -> str | None:
    """None for the published weights; else a file with the method's own start, its entropy model disturbed."""
    entry = registry.find(model, "codec")
    if weights.locate(entry, "base", None) is not None:
        return None
    torch.manual_seed(0)
    network = registry.build(entry, "base")
    photos = [torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) for p in pictures]
    own_start(entry)(network, photos)
    with torch.no_grad():
        for parameter in network.entropy_model.parameters():
            if parameter.dim() == 4:
                parameter.add_(torch.randn_like(parameter), alpha=0.5 / parameter[0].numel() ** 0.5)
    path = folder / "start.safetensors"
    export(network, network.state_dict(), path)
    return str(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _calibration_share(files: list[Path]) -> float:
    """Bytes of the calibration sections, framing included, as a share of all bytes."""
    total = listed = 0
    for path in files:
        data = path.read_bytes()
        _, sections = container.read(data)
        total += len(data)
        listed += len(sections[Section.CALIBRATION]) + 6 if Section.CALIBRATION in sections else 0
    return listed / total


def _print_table(outcomes: list[dict[str, Any]]) -> None:
    """A row of Markdown for each model."""
    print(
        "| codec | files | of them unique | pairs | failures | identical files | calibration | log-scales differ by |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for o in outcomes:
        others = [share for name, share in o["identical"].items() if name != SETTINGS[0].name]
        distance = max(max(d.values()) for d in o["distance"].values())
        cells = (o["model"], o["files"], o["unique"], o["pairs"], len(o["failures"]))
        print("|", *(f"{cell} |" for cell in cells), end=" ")
        print(f"{np.mean(others):.1%} | {o['calibration']:.5%} | {distance:.1e} |")


def _say(text: str) -> None:
    """Report progress at once, also into a pipe."""
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    main()
