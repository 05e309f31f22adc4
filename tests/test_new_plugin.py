"""A plugin made by `zoo new-plugin` works as it is, outside of this repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_core.cli import exits, main


def test_a_new_plugin_passes_its_own_tests(tmp_path: Path) -> None:
    folder, site = tmp_path / "plugin", tmp_path / "site"
    assert main(["--quiet", "new-plugin", "my-method", "-o", str(folder)]) == exits.OK
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, folder], check=True)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", _QUICK, folder],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


_QUICK = "exact or estimated or rises or causal or gradients or parameters or wrong"
"""The kit's tests that depend most on the plugin; all of them take half a minute."""


@pytest.mark.parametrize("name", ["My_Method", "a--b", "mine-q3", "-x", ""])
def test_names_that_cannot_be_are_refused(name: str, tmp_path: Path, capsys) -> None:
    assert main(["new-plugin", "-o", str(tmp_path / "a"), "--", name]) == exits.UNUSABLE
    assert "is no name" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["new-plugin", "ant", "-o", str(tmp_path)]) == exits.UNUSABLE
    assert "is not empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "notes.txt"]
