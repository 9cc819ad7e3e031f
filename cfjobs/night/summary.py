"""What people read about a night: the summary that the run shows in Prefect and the demo prints."""

from collections.abc import Sequence

from cfjobs.night.records import Published, Trained


def markdown(published: Published, trained: Trained) -> str:
    """The night as a page of Markdown: metrics, counts, tables, losses."""
    metrics = [(name, "" if value is None else f"{value:.4f}") for name, value in published.metrics.items()]
    counts = [(name, f"{value:,}") for name, value in published.counts.items()]
    versions = [
        (name, f"{published.table_versions[name]}", f"`{uri}`") for name, uri in published.tables.items()
    ]
    losses = [
        (str(epoch), f"{train:.4f}", "" if valid is None else f"{valid:.4f}")
        for epoch, train, valid in trained.losses
    ]
    seconds = [(stage, f"{value:.1f}") for stage, value in published.seconds.items()]
    sections = [
        f"# {published.run_date}: {published.counts['lists']:,} lists published\n\nRun `{published.run_id}`, gate: {published.gate}, model `{published.model_uri}`",
        "## Holdout\n\n" + _table(("metric", "value"), metrics),
        "## Counts\n\n" + _table(("what", "number"), counts),
        "## Tables\n\n" + _table(("table", "version", "URI"), versions),
        "## Training\n\n" + _table(("epoch", "training loss", "holdout loss"), losses),
        "## Seconds\n\n" + _table(("stage", "seconds"), seconds),
    ]
    return "\n\n".join(sections) + "\n"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
