"""CompressAI imports with and without torchvision's compiled operators; each case in a fresh process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS_OPERATORS = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
BRINGS_OPERATORS = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
FAILS_OTHERWISE = BRINGS_OPERATORS + 'raise RuntimeError("out of luck")\n'

PROBE = """
import torch
from zoo_core import compressai_bridge as bridge
package = bridge.import_compressai()
assert torch.ops.torchvision.nms and torch.ops.torchvision.qnms
assert bridge.import_compressai() is package
print(bridge._declare_operators.cache_info().currsize, package.__version__)
"""


def run(folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if folder is not None:
        environment["PYTHONPATH"] = str(folder)
    return subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True)


def package(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)


@pytest.mark.parametrize(
    ("torchvision", "declared"), [(NEEDS_OPERATORS, "1"), (BRINGS_OPERATORS, "0")], ids=["broken", "sound"]
)
def test_operators_are_declared_only_where_they_are_missing(tmp_path, torchvision, declared) -> None:
    package(tmp_path, "torchvision", torchvision)
    package(tmp_path, "compressai", "import torchvision\n__version__ = 'stand-in'\n")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [declared, "stand-in"]


def test_other_failures_of_torchvision_are_shown(tmp_path: Path) -> None:
    package(tmp_path, "torchvision", FAILS_OTHERWISE)
    done = run(tmp_path)
    assert done.returncode and done.stderr.strip().endswith("RuntimeError: out of luck")


def test_without_compressai_the_error_says_what_to_install(tmp_path: Path) -> None:
    package(tmp_path, "torchvision", BRINGS_OPERATORS)
    package(tmp_path, "compressai", "raise ModuleNotFoundError(\"No module named 'compressai'\")\n")
    done = run(tmp_path)
    assert "UsageError" in done.stderr and "pip install compressai" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("compressai") is None, reason="CompressAI is not installed")
def test_the_installed_packages_import() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1][0].isdecimal()
