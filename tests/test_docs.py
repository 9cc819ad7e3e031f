"""Links lead somewhere; the commands of docs/training.md run, on a small data set and with less work."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
QUICK = [
    "ranking_steps=10",
    "epochs=1",
    "n_factors=4",
    "ranking_factors=4",
    "top_n=5",
    "gate_beat_popularity=false",
]


def commands(page: str) -> list[str]:
    """The indented lines of a page that call cfjobs or torchrun, without their comments."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"^    ((?:cfjobs|torchrun) .*)$", text, flags=re.MULTILINE)
    return [command.split("    #")[0].strip() for command in found]


def runnable(command: str) -> list[str]:
    """The command for this interpreter, with quick settings where it takes any."""
    words = shlex.split(command.replace("--trials 50", "--trials 1"))
    if words[0] == "cfjobs":
        words = [sys.executable, "-m", "cfjobs", *words[1:]]
    else:
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return words + [word for setting in QUICK for word in ("--set", setting)]


@pytest.mark.long
def test_the_commands_of_the_page_on_training_run(data_set: Path, tmp_path: Path) -> None:
    found = commands("training.md")
    assert len(found) >= 6
    (tmp_path / "data").symlink_to(data_set)
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent), "OMP_NUM_THREADS": "1"}
    for command in found:
        done = subprocess.run(
            runnable(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.fail(f"{command}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")


ROOT = DOCS.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name / "README.md" for name in ("deploy", "bench", "cfjobs/models")),
    *DOCS.rglob("*.md"),
]


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\[[^\]]+\]\((?!https?:)([^)\s]+)\)", prose(page)):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(file), f"{page}: {target}"


PRINTED = ("tables.md", "command-line.md", "configuration.md")
"""Pages that the code prints, a sentence a line."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in PRINTED], ids=str)
def test_lines_of_prose_end_by_column_110(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if not line.startswith(("    ", "|", "#", "<"))]
    parts = {
        line: re.sub(r"`[^`]*`|\[[^\]]*\]\([^)]*\)", "x", line.strip().removeprefix("- ")) for line in lines
    }
    assert [line for line in lines if len(line) > 110 and " " in parts[line]] == []


def test_every_page_has_its_place_in_the_order_and_on_the_site() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    order = set(re.findall(r"\]\(([^)#]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    site = set(re.findall(r"\S+\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert pages - order == {"index.md"}
    assert not pages - site


SMALL = {
    "shard.py": ["--users", "1000", "--movies", "400"],
    "kill.py": ["--kills", "1"],
    "score.py": ["--quick", "--users", "64", "--kinds", "trained", "--repeat", "1", "--no-peers"],
}
"""A bench that the pages name, at a small size;
the others train for minutes and only say here what they take."""


def named_benches() -> list[str]:
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    return sorted({name for page in pages for name in re.findall(r"python bench/([a-z_]+\.py)", page)})


ALL_SAY = """
import runpy, sys
from pathlib import Path
for path in map(Path, sys.argv[1:]):
    sys.argv, sys.path[0] = [str(path), "--help"], str(path.parent)
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        if not end.code:
            continue
    sys.exit(f"{path.name} did not print its help")
"""


def test_the_benches_that_the_pages_name_say_what_they_take(tmp_path: Path) -> None:
    """All in one process, which imports what they share once; as scripts, found from any folder."""
    paths = [str(ROOT / "bench" / name) for name in named_benches()]
    command = [sys.executable, "-c", ALL_SAY, *paths]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1500:]
    assert done.stdout.count("usage: ") == len(paths)


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_the_benches_run_at_a_small_size(name: str) -> None:
    ran(name, *SMALL[name])


def ran(name: str, *arguments: str) -> None:
    command = [sys.executable, str(DOCS.parent / "bench" / name), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1500:]


def test_the_bench_of_ingest_agrees_with_pandas() -> None:
    """On what is kept and what is held out; at this size it is no match for speed."""
    command = [sys.executable, str(DOCS.parent / "bench" / "ingest.py"), "--rows", "20000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pandas" in done.stdout
    assert "disagree" not in done.stdout + done.stderr
