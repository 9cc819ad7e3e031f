"""Of the page: what was rejected, and the record of the run."""

import json

from cfjobs.report.facts import Facts
from cfjobs.report.html import from_json, grid, section, table, text


def rejected(facts: Facts) -> str:
    """The rows that were set aside, by reason."""
    counts = from_json(facts.run, "counts")
    parts = [counts.get(name, 0) for name in ("read", "kept", "superseded", "rejected")]
    total = "{:,} read = {:,} kept + {:,} superseded + {:,} rejected".format(*parts)
    if counts.get("later"):
        total += f"; {counts['later']:,} more belong to later nights"
    if facts.rejected.is_empty():
        return section("Set aside", total + ".", '<div class="card"><p>Nothing was rejected.</p></div>')
    reasons = table(
        (("reason", "text"), ("rows", "number")),
        [(row["reason"], f"{row['rows']:,}") for row in facts.rejected.to_dicts()],
    )
    some = table(
        (
            ("file", "text"),
            ("row", "number"),
            ("reason", "text"),
            ("user", "text"),
            ("movie", "text"),
            ("rating", "text"),
        ),
        [
            tuple("" if value is None else str(value) for value in row)
            for row in facts.rejected_rows.select(
                "file", "row", "reason", "user_id", "movie_id", "rating"
            ).iter_rows()
        ],
    )
    return section(
        "Set aside",
        total + ". <code>rejected_ratings</code> has every row.",
        grid([f"<h3>Reasons</h3>{reasons}"])
        + f'<div class="card" style="margin-top:16px"><h3>The first of them</h3><div class="wide">{some}</div></div>',
    )


def run(facts: Facts) -> str:
    """What a run is known by: dates, model, versions, configuration."""
    run = facts.run
    seconds = ", ".join(f"{text(name)} {value:,.1f} s" for name, value in from_json(run, "seconds").items())
    versions = ", ".join(f"{text(name)} {text(value)}" for name, value in from_json(run, "versions").items())
    table_versions = ", ".join(
        f"{text(name)} {value}" for name, value in from_json(run, "table_versions").items()
    )
    inputs = [file for file in from_json(run, "inputs") if file["what"] == "ratings"]
    read = f"{len(inputs):,} files, {sum(file['size'] for file in inputs):,} bytes"
    rows = [
        ("model", f"<code>{text(run['model_uri'])}</code>"),
        ("ratings", read),
        ("code", f"<code>{text(run['git_commit'] or 'no commit known')}</code>"),
        ("packages", versions),
        ("tables, by Delta version", table_versions),
        ("time", seconds),
    ]
    body = "".join(f'<tr><th>{name}</th><td class="text">{value}</td></tr>' for name, value in rows)
    config = "\n".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in from_json(run, "config").items()
    )
    return section(
        "How it was made",
        "Everything needed to make these lists again; <code>runs</code> has it in full.",
        f'<div class="card"><table>{body}</table><details><summary>Configuration</summary><pre>{text(config)}</pre></details></div>',
    )
