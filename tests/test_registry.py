"""Discovery of plugins: real packages on disk, sound and broken ones, and the names that users type."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from zoo_core import registry
from zoo_core.constants import INTERFACE_VERSION
from zoo_core.errors import DuplicateNameError, PluginError, UnknownModelError, UsageError

Install = Callable[..., None]

SOUND = """
    from zoo_core.hooks import Entry, hookimpl

    @hookimpl
    def zoo_register():
        return [Entry(name={name!r}, kind={kind!r}, factory={factory!r}, presets={{"base": {{"width": 8}}}})]
"""


def sound(name: str, kind: str = "codec", factory: str = "absent_module:build") -> str:
    """Source of a plugin that registers one entry."""
    return SOUND.format(name=name, kind=kind, factory=factory)


def write_distribution(
    site: Path, distribution: str, source: str, version: str = "1.0", model: str = ""
) -> None:
    """An installed package: a module, one with its model, and the metadata that pip would leave beside them."""
    module = distribution.replace("-", "_")
    (site / f"{module}_model.py").write_text(model)
    (site / f"{module}.py").write_text(textwrap.dedent(source))
    metadata = site / f"{module}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(f"[zoo_core]\n{module}_point = {module}\n")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages into a folder that discovery then sees alone, whatever else is installed."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
        packages = importlib.metadata.distributions(path=[str(site)])
        return [point for package in packages for point in package.entry_points if point.group == group]

    def install_one(distribution: str, source: str, **options: str) -> None:
        write_distribution(site, distribution, source, **options)
        registry.refresh()

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry.refresh()
    yield install_one
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(site)):
            del sys.modules[name]
    registry.refresh()


def reasons() -> dict[str, str]:
    """Why plugins were skipped, by distribution."""
    return {plugin.distribution: plugin.reason for plugin in registry.broken()}


def test_entries_are_sorted_and_name_their_package(install: Install) -> None:
    install("zoo-zebra", sound("zebra"))
    install("zoo-ant", sound("ant", kind="transform"), version="2.5")
    assert [entry.name for entry in registry.entries()] == ["ant", "zebra"]
    assert registry.distribution(registry.find("ant")) == "zoo-ant 2.5"
    assert registry.broken() == []


def test_models_are_the_six_levels_of_codecs_only(install: Install) -> None:
    install("zoo-ant", sound("ant"))
    install("zoo-bee", sound("bee", kind="entropy_model"))
    assert registry.models() == [f"ant-q{level}" for level in range(1, 7)]


def test_an_unregistered_entry_has_no_package(install: Install) -> None:
    install("zoo-ant", sound("ant"))
    entry = registry.find("ant")
    registry.refresh()
    with pytest.raises(PluginError, match="not registered"):
        registry.distribution(entry)


BROKEN = {
    "ImportError": ("import a_package_that_nobody_has", "ModuleNotFoundError: No module named 'a_package"),
    "SyntaxError": ("def broken(:", "SyntaxError: invalid syntax"),
    "exit": ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    "no hook": ("x = 1", "implements no hook"),
    "hook raises": (sound("ant").replace("return", "1 / 0 #"), "ZeroDivisionError: division by zero"),
    "unknown hook": (
        sound("ant") + "\n    @hookimpl\n    def zoo_regsiter():\n        return []\n",
        "unknown hook 'zoo_regsiter'",
    ),
    "unknown argument": (sound("ant").replace("zoo_register()", "zoo_register(model)"), "model"),
    "not a list": (sound("ant").replace("return [", "return tuple, ["), "list with type, not Entry"),
    "None": (sound("ant").replace("return", "_ ="), "returned NoneType, not a list of Entry"),
    "kind": (sound("ant", kind="filter"), "'ant' has unknown kind 'filter'"),
    "name": (sound("Ant"), "'Ant' is no valid name"),
    "level in name": (sound("ant-q3"), "'ant-q3' is no valid name"),
    "factory": (sound("ant", factory="ant.model"), "not 'package.module:callable'"),
    "twice": (sound("ant").replace("return [", "return 2 * ["), "registers 'ant' twice"),
    "newer": (
        sound("ant").replace("Entry(", f"Entry(interface={INTERFACE_VERSION + 1}, "),
        f"interface {INTERFACE_VERSION + 1}, this zoo-core has {INTERFACE_VERSION}: upgrade zoo-core",
    ),
    "older": (
        sound("ant").replace("Entry(", f"Entry(interface={INTERFACE_VERSION - 1}, "),
        "upgrade the plugin",
    ),
    "field of a later version": (
        sound("ant").replace("Entry(", "Entry(colour=1, "),
        "TypeError: Entry.__init__() got an unexpected keyword argument 'colour'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_skipped_with_its_reason_and_reported_once(
    case: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    source, reason = BROKEN[case]
    install("zoo-bad", source)
    install("zoo-good", sound("good"))
    assert [entry.name for entry in registry.entries()] == ["good"]
    registry.models()
    assert reasons().keys() == {"zoo-bad 1.0"}
    assert reason in reasons()["zoo-bad 1.0"]
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("skipped plugin zoo-bad 1.0 (entry point zoo_bad_point): ")
    assert "\n" not in message


def test_an_unknown_hook_does_not_condemn_the_next_plugin(install: Install) -> None:
    source = BROKEN["unknown hook"][0]
    install("zoo-a", source.replace("ant", "first"))
    install("zoo-b", sound("second"))
    install("zoo-c", source.replace("ant", "third"))
    assert [entry.name for entry in registry.entries()] == ["second"]
    assert reasons().keys() == {"zoo-a 1.0", "zoo-c 1.0"}


def test_asking_for_a_broken_plugin_tells_the_reason(install: Install) -> None:
    install("zoo-wasp", "import a_package_that_nobody_has")
    with pytest.raises(PluginError, match=r"'wasp' comes from zoo-wasp 1\.0, which is broken: Module"):
        registry.parse("wasp-q2")


def test_duplicate_names_name_both_packages_and_leave_others_usable(install: Install) -> None:
    install("zoo-one", sound("ant"))
    install("zoo-two", sound("ant"), version="2.0")
    install("zoo-three", sound("bee"))
    find, parse = partial(registry.find, "ant"), partial(registry.parse, "ant-q1")
    for ask in (registry.entries, registry.models, find, parse):
        with pytest.raises(DuplicateNameError) as caught:
            ask()
        assert "zoo-one 1.0" in str(caught.value) and "zoo-two 2.0" in str(caught.value)
    assert registry.find("bee").name == "bee"


def test_one_name_may_be_a_codec_and_a_transform(install: Install) -> None:
    install("zoo-one", sound("ant", kind="transform"))
    install("zoo-two", sound("ant", kind="codec"))
    assert [entry.kind for entry in registry.entries()] == ["codec", "transform"]
    assert registry.find("ant").kind == "codec"
    assert registry.find("ant", kind="transform").kind == "transform"
    with pytest.raises(UnknownModelError, match="no entropy model named 'ant'"):
        registry.find("ant", kind="entropy_model")


@pytest.mark.parametrize(
    "name, level", [("ant", None), ("ant-q1", 1.0), ("ant-q6", 6.0), ("ant-q3.4", 3.4), ("ant-q2.", 2.0)]
)
def test_names_with_levels(name: str, level: float | None, install: Install) -> None:
    install("zoo-ant", sound("ant"))
    entry, parsed = registry.parse(name)
    assert (entry.name, parsed) == ("ant", level)


@pytest.mark.parametrize("level", ["0", "7", "0.99", "6.01", "-1", "", "3.4.5", "."])
def test_levels_out_of_range_name_the_range(level: str, install: Install) -> None:
    install("zoo-ant", sound("ant"))
    with pytest.raises(UsageError, match="q1 to q6"):
        registry.parse(f"ant-q{level}")


@pytest.mark.parametrize("name", ["ant-hil", "anthil", "Ant-Hill", "ant_hill", "ant-hill-qx"])
def test_near_misses_are_suggested(name: str, install: Install) -> None:
    install("zoo-ant", sound("ant-hill"))
    with pytest.raises(UnknownModelError, match="did you mean 'ant-hill'"):
        registry.parse(name)


@pytest.mark.parametrize("name", registry.PUBLISHED)
def test_published_methods_tell_which_package_to_install(name: str, install: Install) -> None:
    with pytest.raises(
        UnknownModelError, match=rf"'{name}' is not installed: install its package zoo-{name}$"
    ):
        registry.parse(f"{name}-q3")


def test_a_near_miss_of_a_published_method_tells_its_package(install: Install) -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean 's2lic' \(package zoo-s2lic\)"):
        registry.find("s2lc")


def test_a_name_like_no_other_lists_what_there_is(install: Install) -> None:
    install("zoo-ant", sound("ant"))
    with pytest.raises(UnknownModelError, match="installed are ant "):
        registry.find("xyzzy")


def test_build_calls_the_factory_with_the_preset(install: Install) -> None:
    factory = "\n    def build(width):\n        return 'a model of width', width\n"
    install("zoo-ant", sound("ant", factory="zoo_ant:build") + factory)
    assert registry.build(registry.find("ant"), "base") == ("a model of width", 8)
    with pytest.raises(UsageError, match="no preset 'huge': choose from base"):
        registry.build(registry.find("ant"), "huge")


@pytest.mark.parametrize("factory", ["absent_module:build", "zoo_ant:absent"])
def test_build_wraps_a_factory_that_cannot_be_imported(factory: str, install: Install) -> None:
    install("zoo-ant", sound("ant", factory=factory))
    with pytest.raises(PluginError, match=f"'ant': {factory} of zoo-ant 1.0 fails: "):
        registry.build(registry.find("ant"), "base")


def test_discovery_is_cached_until_refreshed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("zoo-ant", sound("ant"))
    first = registry.find("ant")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    assert registry.find("ant") is first
    registry.refresh()
    assert registry.entries() == []


def run_python(code: str, site: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh process that sees the packages in `site` as installed."""
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_listing_in_a_fresh_process_imports_neither_models_nor_torch(tmp_path: Path) -> None:
    write_distribution(tmp_path, "zoo-outsider", sound("outsider", factory="zoo_outsider_model:build"))
    write_distribution(tmp_path, "zoo-faulty", "import a_package_that_nobody_has")
    (tmp_path / "zoo_outsider_model.py").write_text("raise SystemExit('a model was imported')\n")
    result = run_python(
        "import sys, zoo_core as zoo; print(*zoo.models(), sep='\\n');"
        "print('loaded', [m for m in ('torch', 'numpy', 'PIL', 'zoo_outsider_model') if m in sys.modules])",
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith("outsider")] == [f"outsider-q{n}" for n in range(1, 7)]
    assert lines[-1] == "loaded []"
    assert result.stderr.count("\n") == result.stderr.count("zoo-faulty 1.0") == 1


FACTORIES = {
    "syntax": ("def build(:", "SyntaxError"),
    "raises": ("def build():\n    raise ValueError('two\\nlines')", "ValueError: two lines"),
    "arguments": ("import math\nbuild = math.sqrt", "TypeError"),
    "missing": ("x = 1", "AttributeError"),
}


@pytest.mark.parametrize("fault", FACTORIES)
def test_a_factory_that_fails_is_the_plugins_fault(fault: str, install: Install) -> None:
    source, reason = FACTORIES[fault]
    plugin = (
        sound("ant", factory="zoo_ant_model:build")
        .replace("{'width': 8}", "{}")
        .replace('{"width": 8}', "{}")
    )
    install("zoo-ant", plugin, model=source)
    with pytest.raises(PluginError, match=reason) as caught:
        registry.build(registry.find("ant"))
    assert "zoo-ant" in str(caught.value) and "\n" not in str(caught.value)
