"""A night as Markdown, for the artifacts of a run: the gate's comparisons, previous nights,
and the loss curves."""

import base64
from collections.abc import Sequence

from cfjobs.evaluation.gate import Comparison
from cfjobs.report import metric_names, rating_errors
from cfjobs.tables.runs import PublishedNight
from cfjobs.tables.schema import OF_PUBLISHED

_WIDTH = 640
_METRICS = ("rmse", "ndcg_at_10", "recall_at_10", "coverage" + OF_PUBLISHED)
_COUNTS = ("read", "rejected", "kept", "users", "movies", "lists")

Losses = Sequence[tuple[int, float, float | None]]


def gate_table(lines: Sequence[Comparison]) -> list[dict[str, str]]:
    """Rows for a table artifact: what was compared, with what, and whether it passed."""
    return [
        {
            "compared": line.what,
            "got": f"{line.got:,.4g}",
            "limit": f"{line.limit:,.4g}",
            "passed": "yes" if line.passed else f"NO: {line.reason}",
        }
        for line in lines
    ]


def nights_table(nights: Sequence[PublishedNight]) -> str:
    """The newest nights as a table, newest first."""
    names = [metric_names.of(name) for name in _METRICS]
    header = ("night", "gate", *(about.name for about in names), *_COUNTS)
    rows = [
        (
            night.run_date.isoformat(),
            night.gate.partition(":")[0],
            *(
                about.written(night.metrics.get(metric))
                for metric, about in zip(_METRICS, names, strict=True)
            ),
            *(f"{night.counts.get(name, 0):,}" for name in _COUNTS),
        )
        for night in sorted(nights, key=lambda night: night.run_date, reverse=True)
    ]
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def loss_picture(losses: Losses) -> str:
    """A Markdown image of the losses by epoch; nothing for fewer than two epochs."""
    figure = rating_errors.loss_curves(losses, width=_WIDTH)
    if figure is None:
        return ""
    svg = base64.b64encode(figure.chart.file().encode()).decode()
    return f"![Loss by epoch](data:image/svg+xml;base64,{svg})"
