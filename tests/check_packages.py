"""Builds the wheels and uses them as a stranger would: in a clean environment, one plugin at a time.

Run by `make test-packages`; not part of the suite, because it installs torch once more. What it catches is
what an editable install hides: data files that a wheel lacks, and dependencies that nobody declared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

ROOT = Path(__file__).resolve().parents[1]

NOT_PACKAGED = (".*", "build", "dist", "*.egg-info", "__pycache__", "plugins", "tests", "docs")
"""At the root of a project; the core's package holds a folder `tests` of its own, the template's."""


def main() -> None:
    """Build, install the core, then install, try and remove each plugin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plugins", nargs="*", metavar="METHOD", help="folders of plugins/ (default: all)")
    everything = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
    names = parser.parse_args().plugins or everything
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        core = build(ROOT, scratch)
        wheels = [build(ROOT / "plugins" / name, scratch) for name in names]
        environment = Environment(scratch / "venv")
        environment.install(core)
        check_core(environment, scratch)
        for wheel in wheels:
            environment.install(wheel)
            check_plugin(environment, package_of(wheel), scratch)
            environment.uninstall(package_of(wheel))
    print(f"the wheels of the core and of {', '.join(names)} work in a clean environment")


def build(project: Path, scratch: Path) -> Path:
    """The wheel of a copy of the project, so that nothing is left behind in the tree."""
    copy, out = scratch / "source" / project.name, scratch / "wheels" / project.name
    top, below = shutil.ignore_patterns(*NOT_PACKAGED), shutil.ignore_patterns("__pycache__")
    shutil.copytree(
        project, copy, ignore=lambda folder, names: (top if Path(folder) == project else below)(folder, names)
    )
    say(f"building {project.name}")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = out.glob("*.whl")
    say(f"{wheel.name}: {wheel.stat().st_size:,} bytes")
    return wheel


class Environment:
    """A virtual environment that sees nothing of this one and runs outside the source tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)

    def install(self, wheel: Path) -> None:
        """Install a wheel with its declared dependencies."""
        say(f"installing {wheel.name}")
        self.run("python", "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel))

    def uninstall(self, package: str) -> None:
        """Remove a package again; its dependencies stay."""
        self.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", package)

    def run(self, program: str, *words: str) -> str:
        """Standard output of a program of the environment; its failure ends the check."""
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(self.folder / "bin" / program), *words]
        return subprocess.run(
            command, check=True, cwd=self.folder, env=variables, text=True, stdout=subprocess.PIPE
        ).stdout


class LightEnvironment(Environment):
    """Like `Environment`, but with the libraries of the running one, so that nothing is downloaded.

    It sees none of the zoo's own packages that are installed there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        libraries = folder / "libraries"
        libraries.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.startswith(("zoo", "__editable__")):
                (libraries / path.name).symlink_to(path)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site_packages = Path(self.run("python", "-c", code).strip())
        (site_packages / "libraries.pth").write_text(f"{libraries}\n")

    def install(self, wheel: Path) -> None:
        """Install a wheel alone; its dependencies are here."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python")]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)


def check_core(environment: Environment, scratch: Path) -> None:
    """Alone, the core lists nothing, imports no torch, has reference curves and writes new plugins with tests."""
    assert installed(environment) == []
    listing = "import sys, zoo_core as zoo; zoo.models(); assert 'torch' not in sys.modules"
    environment.run("python", "-c", listing)
    environment.run("python", "-c", "from zoo_core.evaluation.curves import reference; reference('vtm-9.1')")
    environment.run("zoo", "new-plugin", "mymethod", "-o", str(scratch / "mymethod"))
    assert list(scratch.glob("mymethod/tests/test_*.py"))


def check_plugin(environment: Environment, package: str, scratch: Path) -> None:
    """Every codec of a plugin takes a picture there and back."""
    entries = installed(environment)
    assert entries and all(entry["package"].startswith(package) for entry in entries), entries
    photo, coded, decoded = (scratch / f"picture{ending}" for ending in (".jpg", ".zoo", ".png"))
    Image.radial_gradient("L").resize((97, 61)).convert("RGB").save(photo)
    for entry in entries:
        if entry["kind"] == "codec":
            say(f"trying {entry['name']}")
            environment.run("zoo", "encode", "-f", "-m", entry["models"][2], str(photo), "-o", str(coded))
            environment.run("zoo", "verify", str(coded))
            environment.run("zoo", "decode", "-f", str(coded), "-o", str(decoded))
            with Image.open(photo) as before, Image.open(decoded) as after:
                assert after.size == (97, 61)
                assert max(ImageStat.Stat(ImageChops.difference(before, after)).mean) < 16  # of 255


def installed(environment: Environment) -> list[dict]:
    """The entries that `zoo list` finds; a plugin that does not load fails the check."""
    found = json.loads(environment.run("zoo", "list", "--json"))
    assert found["broken"] == [], found["broken"]
    return found["entries"]


def package_of(wheel: Path) -> str:
    """Name of the distribution in a wheel."""
    return wheel.name.split("-")[0].replace("_", "-")


def say(text: str) -> None:
    """Report progress at once, also into a pipe."""
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    main()
