"""Sections of the page: what was rejected, and the record of the run."""

import json
from typing import Any

from cfjobs.report.facts import Facts
from cfjobs.report.html import NUMBER, TEXT, Table, from_json

_REJECTED = ("file", "row", "reason", "user_id", "movie_id", "rating")


def rejected(facts: Facts) -> dict[str, Any]:
    """The rows that were set aside, by reason."""
    some = facts.rejected_rows.select(_REJECTED).rename({"user_id": "user", "movie_id": "movie"})
    return {
        "counts": {"superseded": 0, "rejected": 0, "later": 0, "left_out": 0}
        | from_json(facts.run, "counts"),
        "reasons": Table(
            "Reasons",
            (("reason", TEXT), ("rows", NUMBER)),
            [(row["reason"], f"{row['rows']:,}") for row in facts.rejected.to_dicts()],
        ),
        "some": Table(
            "The first of them",
            [(name, NUMBER if name == "row" else TEXT) for name in some.columns],
            [tuple("" if value is None else str(value) for value in row) for row in some.iter_rows()],
        ),
    }


def run(facts: Facts) -> dict[str, Any]:
    """The record of the run: model, inputs, versions, time, configuration."""
    run = facts.run
    inputs = [file for file in from_json(run, "inputs") if file["what"] == "ratings"]
    return {
        "model_uri": run["model_uri"],
        "git_commit": run["git_commit"],
        "files": len(inputs),
        "bytes": sum(file["size"] for file in inputs),
        "versions": from_json(run, "versions"),
        "table_versions": from_json(run, "table_versions"),
        "seconds": from_json(run, "seconds"),
        "config": {
            name: json.dumps(value, ensure_ascii=False) for name, value in from_json(run, "config").items()
        },
    }
