"""The image's short form: what can be said without an engine. `make image-test` builds it and lives in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import image, slim
from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
_WORDS = "ARG|CMD|COPY|ENV|FROM|LABEL|RUN|USER|WORKDIR"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, comments left out and lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = [re.fullmatch(rf"({_WORDS}) +(.+)", line) for line in lines]
    assert all(found), "a line that is no instruction"
    return [(one[1], one[2]) for one in found if one]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for word, arguments in instructions():
        if word == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source not in ignored


def test_a_change_of_the_source_leaves_the_packages_alone() -> None:
    """The packages' stage and layer come before any of the source, and before what each build changes."""
    packages, final = DOCKERFILE.split("\nFROM ")[1:]
    for name in ("cfjobs", "flows", "deploy"):
        assert f"COPY {name} {name}" not in packages
        assert final.index("COPY --from=packages") < final.index(f"COPY {name} {name}")
    assert "GIT_COMMIT" not in packages
    assert final.index("COPY cfjobs") < final.index("ARG GIT_COMMIT") < final.index("LABEL")


def test_it_runs_as_a_user_who_is_not_root_and_carries_its_commit() -> None:
    found = instructions()
    assert ("USER", "1000") in found
    assert [word for word, _ in found].index("USER") > [word for word, _ in found].index("FROM")
    assert ("ENV", "CFJOBS_GIT_COMMIT=$GIT_COMMIT") in found
    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?|", image.commit())


def test_make_image_plans_the_engine_s_build(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        planned.append(command)
        return subprocess.CompletedProcess(command, 0, "0" * 40, "")

    monkeypatch.setattr(image.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["image", "--engine", "buildah", "--", "--network", "host"])
    assert image.main() == 0
    (build,) = [command for command in planned if "build" in command]
    assert build[:4] == ["buildah", "build", "--tag", "cfjobs"]
    assert {"GIT_COMMIT=" + "0" * 40, "TORCH_INDEX_URL=", "--layers"} <= set(build)
    assert build[-3:] == ["--network", "host", str(ROOT)]


def test_slimming_takes_out_what_nobody_imports_and_leaves_the_rest(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    gone = [packages / "torch" / "test" / "x", packages / "sympy" / "core" / "tests" / "x.py"]
    stays = [
        packages / "numpy" / "_core" / "tests" / "x.py",
        packages / "torch" / "bin" / "torch_shm_manager",
    ]
    for path in (*gone, *stays):
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/true")
    assert slim.slim(tmp_path) == []
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stays)
    assert "cfjobs.cli" in (tmp_path / "bin" / "cfjobs").read_text()
