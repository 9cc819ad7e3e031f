"""docs/a-rating.md is the way that a rating takes: at most 20 files, and a night calls them in that order."""

import re
import sys
import threading
from datetime import date
from pathlib import Path
from types import FrameType

from cfjobs.config import Config
from cfjobs.night import story
from cfjobs.night.records import Inputs

ROOT = Path(__file__).parent.parent
NIGHT = date(2026, 3, 1)
QUICK = Config(
    epochs=1, top_n=5, n_factors=4, ranking_factors=4, ranking_steps=2, gate_beat_popularity=False,
    refit=False, rank_by="affinity", question="next", holdout="temporal",
)  # fmt: skip


def the_way() -> list[tuple[str, str]]:
    """The files of the page, each with the function to read it from."""
    page = (ROOT / "docs" / "a-rating.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\S+\.py)` \| `(\w+)` \|", page, flags=re.MULTILINE)


def test_a_night_calls_the_files_of_the_page_in_their_order(data_set: Path, tmp_path: Path) -> None:
    way = the_way()
    assert 10 <= len(way) <= 20
    wanted = {(str(ROOT / file), function): (file, function) for file, function in way}
    called: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and (step := wanted.get((frame.f_code.co_filename, frame.f_code.co_name))):
            called.append(step)

    night = story.start(Inputs(ratings=str(data_set)), output=str(tmp_path), run_date=NIGHT, config=QUICK)
    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        story.nightly(night)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]  # typeshed forgets that None ends it
    calls = iter(called)
    assert [step for step in way if step not in calls] == []  # each is found after the one before it
