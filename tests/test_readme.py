"""The README's tree shows every package, every module says what it is for,
and what is installed has all of them."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = [path.parent for folder in ("cfjobs", "flows") for path in (ROOT / folder).rglob("__init__.py")]


def tree() -> set[Path]:
    """The paths of the README's tree."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The tree")[2]
    found, folders = set(), {}
    for indent, name in re.findall(r"^    ( *)([a-z_.]+/?)(?=  +)", text, flags=re.MULTILINE):
        path = folders.get(len(indent) - 2, ROOT) / name
        folders[len(indent)] = path
        found.add(path)
    return found


def test_the_tree_shows_what_is_there() -> None:
    shown = tree()
    assert not [path for path in shown if not path.exists()]
    packages = {path for path in PACKAGES if len(path.relative_to(ROOT).parts) <= 2}
    assert packages <= shown


def test_the_library_has_few_plain_modules() -> None:
    plain = [path.name for path in (ROOT / "cfjobs").glob("[a-z]*.py")]
    assert len(plain) <= 10, plain


def test_every_module_says_what_it_is_for() -> None:
    modules = [
        path for folder in ("cfjobs", "flows", "deploy", "bench") for path in (ROOT / folder).rglob("*.py")
    ]
    assert not [
        path
        for path in modules
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]


def test_every_package_is_installed() -> None:
    packages = {str(path.relative_to(ROOT)).replace("/", ".") for path in PACKAGES}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == packages | {"deploy", "bench"}
