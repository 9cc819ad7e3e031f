"""The pages of a run, as Markdown: the gate's reasoning, and the night against the nights before."""

import base64
from collections.abc import Sequence

from cfjobs.evaluation.gate import Comparison
from cfjobs.tables.runs import PublishedNight

_WIDTH, _HEIGHT, _MARGIN = 640, 260, 44
_METRICS = ("rmse", "ndcg_at_10", "recall_at_10", "coverage")
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
    """The newest nights beside each other, newest first."""
    header = ("night", "gate", *_METRICS, *_COUNTS)
    rows = [
        (
            night.run_date.isoformat(),
            night.gate.partition(":")[0],
            *(_number(night.metrics.get(name)) for name in _METRICS),
            *(f"{night.counts.get(name, 0):,}" for name in _COUNTS),
        )
        for night in sorted(nights, key=lambda night: night.run_date, reverse=True)
    ]
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def loss_picture(losses: Losses) -> str:
    """A Markdown image of the losses by epoch, drawn here as SVG; nothing for fewer than two epochs."""
    if len(losses) < 2:
        return ""
    svg = base64.b64encode(_svg(losses).encode()).decode()
    return f"![Loss by epoch](data:image/svg+xml;base64,{svg})"


def _svg(losses: Losses) -> str:
    train = [(epoch, loss) for epoch, loss, _ in losses]
    valid = [(epoch, loss) for epoch, _, loss in losses if loss is not None]
    values = [loss for _, loss in (*train, *valid)]
    low, high = min(values), max(values)
    first, last = train[0][0], train[-1][0]
    span = high - low or 1.0

    def points(line: Sequence[tuple[int, float]]) -> str:
        return " ".join(
            f"{_MARGIN + (epoch - first) / (last - first) * (_WIDTH - 2 * _MARGIN):.1f},"
            f"{_HEIGHT - _MARGIN - (loss - low) / span * (_HEIGHT - 2 * _MARGIN):.1f}"
            for epoch, loss in line
        )

    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<path d="M{_MARGIN},{_MARGIN} V{bottom} H{right}" fill="none" stroke="#888"/>
<text x="4" y="{_MARGIN + 4}">{high:.3f}</text><text x="4" y="{bottom + 4}">{low:.3f}</text>
<text x="{_MARGIN}" y="{bottom + 18}">epoch {first}</text><text x="{right}" y="{bottom + 18}" text-anchor="end">{last}</text>
<polyline points="{points(train)}" fill="none" stroke="#1f6feb" stroke-width="2"/>
<polyline points="{points(valid)}" fill="none" stroke="#d9480f" stroke-width="2"/>
<text x="{right}" y="20" text-anchor="end" fill="#1f6feb">training loss</text>
<text x="{right}" y="36" text-anchor="end" fill="#d9480f">holdout loss</text>
</svg>"""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
