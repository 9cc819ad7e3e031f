"""What one clone compiled serves the next one, as long as nothing that is compiled with it differs."""

from pathlib import Path

import pytest

from deploy import kernel_cache


def clone(folder: Path, *, loop: str = "compiled: x + 1") -> Path:
    (folder / "cfjobs" / "topn").mkdir(parents=True)
    (folder / "constraints.txt").write_text("numba==1")
    (folder / "cfjobs" / "topn" / "scan.py").write_text(loop)
    (folder / "cfjobs" / "errors.py").write_text("plain")
    return folder


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The clones that compiled; what they keep goes to a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return []


def prepare(root: Path, compilations: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_loops() -> None:
        compilations.append(root)
        caches = root / "cfjobs" / "topn" / "__pycache__"
        caches.mkdir()
        (caches / "scan.f-1.nbi").write_text("index")
        (caches / "scan.f-1.1.nbc").write_text(root.name)

    monkeypatch.setattr(kernel_cache, "compile_loops", compile_loops)
    kernel_cache.prepare(root)


def test_a_clone_is_compiled_once_for_all(
    tmp_path: Path, compilations: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = clone(tmp_path / "first"), clone(tmp_path / "second")
    for root in (first, second, second):
        prepare(root, compilations, monkeypatch)
    assert compilations == [first]
    assert (second / "cfjobs" / "topn" / "__pycache__" / "scan.f-1.1.nbc").read_text() == "first"


@pytest.mark.parametrize(
    ("changed", "compiles"), [("constraints.txt", 2), ("cfjobs/topn/scan.py", 2), ("cfjobs/errors.py", 1)]
)
def test_what_is_compiled_together_is_kept_together(
    tmp_path: Path, compilations: list[Path], monkeypatch: pytest.MonkeyPatch, changed: str, compiles: int
) -> None:
    first, second = clone(tmp_path / "first"), clone(tmp_path / "second")
    with (second / changed).open("a") as file:
        file.write(" and more")
    for root in (first, second):
        prepare(root, compilations, monkeypatch)
    assert len(compilations) == compiles
