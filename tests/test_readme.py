"""The README's tree names every module, so that a newcomer finds it there; and what is installed has all of them."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_tree_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = [path for folder in ("cfjobs", "flows", "deploy") for path in (ROOT / folder).rglob("*.py")]
    assert not [path.name for path in modules if path.stem[0] != "_" and path.name not in readme]


def test_every_package_is_installed() -> None:
    packages = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for folder in ("cfjobs", "flows")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == packages
