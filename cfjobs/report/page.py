"""The page of a night as HTML: its head, its five numbers and its sections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cfjobs.report import charts, html, lists, metric_names, movies, rating_errors, run
from cfjobs.report.facts import Facts
from cfjobs.report.html import from_json
from cfjobs.report.metric_names import METRICS, MetricName

View = dict[str, Any] | None


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, heading and template, and what the template is given;
    None leaves it out."""

    id: str
    title: str
    template: str
    view: Callable[[Facts], View]


SECTIONS = (
    Section("training", "Training and metrics", "training.html.j2", rating_errors.training),
    Section("served", "Who is served how well", "served.html.j2", rating_errors.served),
    Section("errors", "Predicted against true", "errors.html.j2", rating_errors.errors),
    Section("lists", "Who gets what", "lists.html.j2", lists.lists),
    Section("users", "A few users", "users.html.j2", lists.users),
    Section("movie-map", "Map of the movies", "map.html.j2", movies.movie_map),
    Section("loved", "Most and least loved", "loved.html.j2", movies.loved),
    Section("set-aside", "Set aside", "rejected.html.j2", run.rejected),
    Section("run", "How it was made", "run.html.j2", run.run),
)


def document(facts: Facts) -> str:
    """The whole page, self-contained: no style, script, font or picture comes from anywhere else."""
    views = [(section, section.view(facts)) for section in SECTIONS]
    return html.render(
        "page.html.j2",
        run=facts.run,
        counts=from_json(facts.run, "counts"),
        tiles=_tiles(facts),
        sections=[(section, view) for section, view in views if view is not None],
        map_data=html.script_json(movies.map_data(facts)),
        script=html.resource("page.js"),
    )


@dataclass(frozen=True)
class Tile:
    """One number, its baseline, its change since last night with the kind of the change,
    and the last nights."""

    name: str
    value: str
    baseline: str
    change: str
    kind: str
    sparkline: str


def _tiles(facts: Facts) -> list[Tile]:
    metrics = [from_json(night, "metrics") for night in facts.nights]
    counts = [from_json(night, "counts") for night in facts.nights]
    intervals = {
        row["metric"]: (row["low"], row["high"]) for row in facts.metrics.filter(band="all").to_dicts()
    }
    plain = MetricName("", "{:,.0f}", better=0)

    def measured(metric: str, name: str, baseline_metric: str) -> Tile:
        about = METRICS[metric]
        baseline = metrics[-1].get(baseline_metric)
        return _tile(
            name,
            about,
            [night.get(metric) for night in metrics],
            baseline=f"{about.baseline} {about.written(baseline)}" if baseline is not None else "",
            interval=intervals.get(metric, (None, None)),
        )

    return [
        measured("recall_at_10", "Chosen movies found (recall@10)", "recall_at_10_popular")
        if facts.is_implicit
        else measured("rmse", "Rating error (RMSE)", "rmse_bias_only"),
        measured("ndcg_at_10", "Ranking quality (nDCG@10)", "ndcg_at_10_popular"),
        _tile(
            "Movies in some first ten",
            metric_names.of("coverage"),
            [*(night.get(lists.COVERAGE) for night in metrics[:-1]), lists.coverage(facts)],
            baseline=f"{facts.variety['listed_movies']:,.0f} movies",
        ),
        _tile("Lists", plain, [night.get("lists") for night in counts]),
        _tile("Ratings kept", plain, [night.get("kept") for night in counts]),
    ]


def _tile(
    name: str,
    about: MetricName,
    values: Sequence[float | None],
    *,
    baseline: str = "",
    interval: tuple[float | None, float | None] = (None, None),
) -> Tile:
    """values: of the last nights, tonight's last."""
    value, before = values[-1], values[-2] if len(values) > 1 else None
    change, kind = "", "muted"
    if value is not None and before is not None:
        change, kind = about.change(value, before) or "the same", about.verdict(value, before, interval)
    shown = "none" if value is None else about.written(value)
    return Tile(name, shown, baseline, change, kind, charts.sparkline(values))
