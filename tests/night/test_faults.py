"""Faults, each caused: no reader sees a partial table, the message names the cause, the rerun completes."""

from pathlib import Path

import polars as pl
import pytest

from tests import faults
from tests.faults import BEFORE, NIGHT, Outcome, disturbed, publish, rows


@pytest.fixture(scope="module")
def undisturbed(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    output = str(tmp_path_factory.mktemp("undisturbed"))
    for run_date in (BEFORE, NIGHT):  # a night goes on from the one before
        publish(data_set, output, run_date=run_date)
    return rows(output)


@pytest.fixture
def published(data_set: Path, bucket: str) -> str:
    """An output in the store with the night before."""
    publish(data_set, f"{bucket}/out", run_date=BEFORE)
    return f"{bucket}/out"


def held(outcome: Outcome) -> None:
    if not outcome.survived:
        pytest.fail(str(outcome))  # an assertion would cut the message
    assert (outcome.rows_lost, outcome.partial_reads) == (0, 0), outcome
    assert outcome.reads > 0


@pytest.mark.long
@pytest.mark.parametrize("where", ["training ", "shard 0:"])
def test_killed_at_work(where: str, data_set: Path, published: str, undisturbed: pl.DataFrame) -> None:
    fault = faults.killed_at(where, data_set, published)
    held(disturbed(where, fault, data=data_set, output=published, undisturbed=undisturbed))


@pytest.mark.parametrize("table", ["runs"])
def test_killed_in_the_commit(table: str, data_set: Path, published: str, undisturbed: pl.DataFrame) -> None:
    fault = faults.killed_in_commit(table, data_set, published)
    held(disturbed(table, fault, data=data_set, output=published, undisturbed=undisturbed))


@pytest.mark.long
@pytest.mark.parametrize(
    "failure", ["refuses", "dies in a write", "answers 503 twice"]
)  # bench/faults.py runs all
def test_the_store(failure: str, data_set: Path, published: str, undisturbed: pl.DataFrame) -> None:
    rule, from_words, message = faults.FAILURES[failure]
    fault = faults.store_fails(rule(), data_set, published, from_words=from_words)
    outcome = disturbed(failure, fault, data=data_set, output=published, undisturbed=undisturbed)
    held(outcome)
    assert message in outcome.message


@pytest.mark.long
def test_two_nights_for_one_date_at_once(data_set: Path, published: str, undisturbed: pl.DataFrame) -> None:
    fault = faults.two_at_once(data_set, published)
    outcome = disturbed("two", fault, data=data_set, output=published, undisturbed=undisturbed)
    held(outcome)
    assert "another run is at work (process" in outcome.message or outcome.message == "one after the other"


@pytest.mark.long
def test_a_full_disk(data_set: Path, tmp_path: Path, undisturbed: pl.DataFrame) -> None:
    output = str(tmp_path / "out")
    publish(data_set, output, run_date=BEFORE)
    fault = faults.disk_full(data_set, output)
    outcome = disturbed("disk", fault, data=data_set, output=output, undisturbed=undisturbed)
    held(outcome)
    assert "full" in outcome.message


@pytest.mark.long
def test_out_of_memory(data_set: Path, tmp_path: Path, undisturbed: pl.DataFrame) -> None:
    output = str(tmp_path / "out")
    publish(data_set, output, run_date=BEFORE)
    fault = faults.out_of_memory(data_set, output)
    outcome = disturbed("memory", fault, data=data_set, output=output, undisturbed=undisturbed)
    held(outcome)
    assert "memory" in outcome.message
