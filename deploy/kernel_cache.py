"""Compiled loops for a clean clone: `python -m deploy.kernel_cache` copies them in,
or compiles them and keeps them. The set-up does it, so that no night waits for it.

Numba keeps what it compiled in the clone's own `__pycache__`, by the source's content, so a clone that is new
would compile for some 40 s in its first night, and every process that is started meanwhile would do so again.
A copy outside the clone spares the next clone that. It is kept by the constraints and by every source that is
compiled together, because numba looks at the file of a loop alone, and a loop holds the code of the loops of
other files that it calls.
"""

import hashlib
import os
import re
import shutil
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent


def kept(root: Path = ROOT) -> Path:
    """The folder outside the clone for what its sources compile to:
    another one for any other version of them."""
    modules = sorted((root / "cfjobs").rglob("*.py"))
    sources = [path for path in modules if re.search(rb"\b(compiled|numba)\b", path.read_bytes())]
    digest = hashlib.sha256()
    for path in (root / "constraints.txt", *sources):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "cfjobs" / f"numba-{digest.hexdigest()[:16]}"


def loops(folder: Path) -> list[Path]:
    """Numba's indices and machine code under a folder."""
    return sorted(path for path in folder.rglob("__pycache__/*.nb?") if path.suffix in {".nbi", ".nbc"})


def copy(source: Path, target: Path) -> None:
    """Copy compiled loops from folder to folder; an index goes after the code that it names."""
    for path in sorted(loops(source), key=lambda path: path.suffix):
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)


def compile_loops() -> None:
    """Run a tiny night, which calls nearly every compiled loop."""
    from cfjobs.config import Config
    from cfjobs.datasets import synthetic
    from cfjobs.night import story
    from cfjobs.night.records import Inputs

    tiny = {"epochs": 1, "top_n": 5, "n_factors": 8, "ranking_factors": 8, "ranking_steps": 5}
    config = Config.model_validate(tiny | {"rank_by": "blend", "gate_beat_popularity": False})
    data = synthetic.generate(n_users=120, n_movies=300, n_ratings=4_500, seed=7)
    with tempfile.TemporaryDirectory() as folder:
        data.ratings.write_parquet(f"{folder}/ratings.parquet")
        data.movies.write_parquet(f"{folder}/movies.parquet")
        inputs = Inputs(ratings=folder)
        story.nightly(story.start(inputs, output=f"{folder}/out", run_date=date(2026, 3, 1), config=config))


def prepare(root: Path = ROOT) -> str:
    """Compiled loops for the clone at `root`; says where they came from."""
    package, outside = root / "cfjobs", kept(root)
    if loops(package):
        return "there already"
    if outside.exists():
        copy(outside, package)
        return f"from {outside}"
    compile_loops()
    outside.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=outside.parent))
    copy(package, unfinished)
    try:
        unfinished.rename(outside)
    except OSError:  # another clone was first
        shutil.rmtree(unfinished)
    return f"compiled, and kept in {outside}"


if __name__ == "__main__":
    print("compiled loops:", prepare())
