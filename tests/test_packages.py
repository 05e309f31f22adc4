"""A plugin's wheel beside the core's wheel and no other plugin; `make test-packages` tries all of them."""

from pathlib import Path

import check_packages


def test_weconvene_alone(tmp_path: Path) -> None:
    core, plugin = (
        check_packages.build(project, tmp_path)
        for project in (check_packages.ROOT, check_packages.ROOT / "plugins" / "weconvene")
    )
    environment = check_packages.LightEnvironment(tmp_path / "venv")
    environment.install(core)
    check_packages.check_core(environment, tmp_path)
    environment.install(plugin)
    check_packages.check_plugin(environment, "zoo-weconvene", tmp_path)
