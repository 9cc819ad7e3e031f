"""Two nights side by side: a night equals itself, and two differ as their rows do."""

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from cfjobs.cli import app
from cfjobs.errors import InputError
from cfjobs.report.compare import compare

BEFORE, NIGHT = date(2026, 2, 28), date(2026, 3, 1)


def test_a_night_equals_itself(two_nights: Path) -> None:
    out = str(two_nights / "out")
    found = compare(out, f"{out}@{NIGHT}")
    assert (found.a_date, found.b_date) == (NIGHT, NIGHT)
    assert (found.lists.same, found.lists.overlap, found.lists.first_changed) == (1, 10, 0)
    assert found.lists.users_by_new == [found.lists.users] + [0] * 10
    assert [found.settings, found.gained, found.lost] == [{}, [], []]
    assert {row.difference for row in found.metrics if row.a is not None} == {0}
    assert {row.verdict for row in found.metrics} == {""}


def test_two_nights_differ_as_their_rows_do(two_nights: Path) -> None:
    out = str(two_nights / "out")
    found = compare(f"{out}@{BEFORE}", out)
    assert found.settings["rank_by"] == ("rating", "blend")
    lists = pl.read_delta(f"{out}/top_n").filter(pl.col("rank") <= 10)
    a, b = (
        {
            user: mine.sort("rank")["movie_id"].to_list()
            for (user,), mine in lists.filter(run_date=day).group_by("user_id")
        }
        for day in (BEFORE, NIGHT)
    )
    assert a.keys() == b.keys()
    shared = [len(set(a[user]) & set(b[user])) for user in a]
    assert found.lists.overlap == pytest.approx(sum(shared) / len(shared))
    assert found.lists.same == sum(a[user] == b[user] for user in a) / len(a)
    assert found.lists.first_changed == sum(a[user][0] != b[user][0] for user in a) / len(a)
    assert found.lists.users_by_new == [shared.count(10 - new) for new in range(11)]
    best = found.gained[0]
    assert best.a == sum(best.movie_id in ten for ten in a.values())
    assert best.b == sum(best.movie_id in ten for ten in b.values()) > best.a
    assert found.lost[0].b < found.lost[0].a
    rmse = next(row for row in found.metrics if row.metric == "rmse")
    assert rmse.b_low < rmse.b < rmse.b_high  # type: ignore[operator]
    assert len({row.metric for row in found.metrics}) == len(found.metrics)


def test_it_is_printed_for_people_and_for_programs(two_nights: Path) -> None:
    out = str(two_nights / "out")
    asked = ["-q", "compare", "--a", f"{out}@{BEFORE}", "--b", out]
    printed = CliRunner().invoke(app, asked).stdout
    assert "users have a list in both" in printed
    assert "\x1b" not in printed
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert told["a"] == f"{out}@{BEFORE}"
    with pytest.raises(InputError, match="no night of 2020-01-01"):
        compare(out, f"{out}@2020-01-01")
