"""What a run reports once it has published: the summary artifact and the event."""

from cfjobs import report
from cfjobs.night import summary
from cfjobs.night.records import Night, Published, Trained
from cfjobs.report import markdown
from cfjobs.tables import runs
from flows.observe import PUBLISHED, event, summary_artifact

_NIGHTS_BEFORE = 7


def announce(night: Night, published: Published, trained: Trained) -> None:
    """Write the night's summary, with the nights before it for comparison, and emit `cfjobs.published`."""
    before = [row for row in runs.published(night.output) if row.run_date <= night.run_date]
    head, _, rest = summary.markdown(published, trained).partition("\n## ")
    sections = [
        head.strip(),
        f"The night's page, with charts: `{report.uri(night.output, night.run_date)}`",
        "## Previous nights\n\n" + markdown.nights_table(before[-_NIGHTS_BEFORE - 1 :]),
        "## Loss\n\n" + picture if (picture := markdown.loss_picture(trained.losses)) else "",
        "## " + rest.strip(),
    ]
    summary_artifact("\n\n".join(section for section in sections if section) + "\n")
    event(
        PUBLISHED,
        output=night.output,
        run_date=night.run_date.isoformat(),
        payload={
            "run_id": published.run_id,
            "gate": published.gate,
            "table_versions": published.table_versions,
            "counts": published.counts,
            "metrics": published.metrics,
        },
    )


def headline(published: Published) -> str:
    """The night in one line, for the run's state, such as `200 lists, gate passed, nDCG@10 0.13`."""
    parts = [f"{published.counts.get('lists', 0):,} lists", f"gate {published.gate.partition(':')[0]}"]
    if (ndcg := published.metrics.get("ndcg_at_10")) is not None:
        parts.append(f"nDCG@10 {ndcg:.2f}")
    return ", ".join(parts)
