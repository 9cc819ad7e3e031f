"""What the judge of a soak calls kept and broken, on made-up facts; and what a soak plans."""

from typing import Any

import pytest

from bench import judge, soak

NIGHT = "2026-01-05"


def run(*states: str, message: str = "so it is", name: str = f"night of {NIGHT}") -> dict[str, Any]:
    """A run that went through these states."""
    through = [{"name": state, "message": message, "timestamp": str(n)} for n, state in enumerate(states)]
    kind = {"Late": "SCHEDULED", "Lost": "CRASHED", "Skipped": "COMPLETED"}.get(
        states[-1], states[-1].upper()
    )
    return {
        "id": "1",
        "name": name,
        "state_name": states[-1],
        "state_type": kind,
        "state": through[-1],
        "states": through,
        "expected_start_time": "2026-01-05T00:00:00+00:00",
    }


def broken_by(runs: dict[str, Any], *alerts: str) -> list[str]:
    _, broken, _ = judge.judged_alerts({"alerts": [{"text": text} for text in alerts]}, runs)
    return list(broken)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (("Running", "Crashed"), "ended as Crashed: x http://here"),
        (("Late", "Pending", "Running", "Completed"), "is late: no worker"),
        (("Pending", "Cancelled"), "was cancelled: by the limit"),
        (("Running", "Skipped"), "was skipped: too late"),
        (("Running", "Lost"), "was lost: stopped"),
    ],
)
def test_an_alert_that_is_due_is_wanted_exactly_once(states: tuple[str, ...], words: str) -> None:
    runs, alert = {NIGHT: run(*states)}, f"cfjobs: night of {NIGHT} {words}"
    assert broken_by(runs, alert) == []
    assert "missing" in broken_by(runs)[0]
    assert "more than once" in broken_by(runs, alert, alert)[0]


def test_an_alert_from_before_a_run_had_its_name_is_that_run_s() -> None:
    late = "cfjobs: groovy-newt is late: no worker http://here/runs/flow-run/1"
    assert broken_by({NIGHT: run("Late", "Running", "Completed")}, late) == []


def test_a_refusal_has_an_alert_of_its_own_and_a_good_night_none() -> None:
    refused = {NIGHT: run("Failed", message="the gate refused: rmse is 9")}
    assert broken_by(refused, f"cfjobs: the gate refused the night of {NIGHT}: rmse is 9") == []
    assert broken_by(refused, f"cfjobs: night of {NIGHT} ended as Failed: the gate refused") != []
    assert broken_by({NIGHT: run("Running", "Completed")}) == []
    assert broken_by({NIGHT: run("Running", "Completed")}, "cfjobs: no night was published for 26 h") != []


def test_a_night_that_no_fault_came_near_is_published() -> None:
    dates = [f"2026-01-{day:02d}" for day in range(1, 11)]
    runs = {of: run("Completed") for of in dates} | {dates[4]: run("Failed"), dates[9]: run("Cancelled")}

    def broken(*hit: str) -> list[str]:
        facts = {"dates": dates, "caused": [{"night": night} for night in hit]}
        return list(judge.judged_untouched(facts, runs)[1])

    assert broken() == [f"{dates[4]}: failed"]
    assert broken(dates[4]) == broken(dates[1]) == []
    assert broken(dates[0]) == broken(dates[5]) == [f"{dates[4]}: failed"]


@pytest.mark.parametrize("state", ["Running", "Pending", "Late", "Cancelling"])
def test_a_run_that_is_left_is_found(state: str) -> None:
    assert judge.judged_runs({NIGHT: run(state)})[1]
    assert not judge.judged_runs({NIGHT: run("Completed")})[1]


def test_a_part_that_grows_is_not_level() -> None:
    def samples(grows: float) -> dict[str, Any]:
        return {
            "dates": [NIGHT] * 60,
            "samples": [
                {"night": n, "memory": {"server": 300 + grows * n}, "disk": {"store": n, "postgres": 2 * n}}
                for n in range(60)
            ],
        }

    assert not any(broken for _, broken, _ in judge.judged_levels(samples(0)))
    assert any(broken for _, broken, _ in judge.judged_levels(samples(10)))


def test_a_seed_draws_the_same_faults_and_every_kind() -> None:
    plan = soak.drawn(3600, 28, seed=3)
    assert plan == soak.drawn(3600, 28, seed=3)
    assert plan != soak.drawn(3600, 28, seed=4)
    assert {hit.kind for hit in plan} == set(soak.FAULTS)
    assert [hit.at for hit in plan] == sorted(hit.at for hit in plan)


def test_ratings_grow_by_each_night_s_day_and_none_is_lost() -> None:
    base, days = soak.ratings(5)
    assert base.height + sum(day.height for day in days) == 12_000
    assert all(day["timestamp"].n_unique() == 1 for day in days)
