"""The charts of the page for a notebook: each takes rows of the published tables, as Polars reads them, and
returns a picture that Jupyter shows, in light and in dark. docs/a-look-around.ipynb uses every one.

    from cfjobs.report import pictures

    pictures.metrics(pl.read_delta("out/metrics").filter(run_date=date(2026, 3, 1)))

What has nothing to show is None, which a notebook leaves empty.
"""

import polars as pl

from cfjobs.evaluation.genres import genres as genres_of
from cfjobs.report import facts, lists, nights, rating_errors
from cfjobs.report.charts import WIDE
from cfjobs.report.html import Figure
from cfjobs.report.movies import drawn_map
from cfjobs.tables.runs import FIRST

_WIDER, _TALL = 720, 340
_BASELINES = {"rmse": "rmse_bias_only", "mae": "mae_bias_only"}


def metrics(metrics: pl.DataFrame) -> Figure | None:
    """How many times as good as its baseline each metric is, with its interval. metrics: a night's rows of
    `metrics`."""
    return rating_errors.against_baselines(metrics, width=_WIDER)


def over_nights(runs: pl.DataFrame, metric: str) -> Figure | None:
    """A metric night by night, beside its baseline; None for fewer than three nights that have it. runs:
    rows of `runs`. metric: a key of its JSON column `metrics`, such as `rmse` or `ndcg_at_10`."""
    baseline = _BASELINES.get(metric, f"{metric}_popular")
    return nights.over_time(runs.sort("run_date").to_dicts(), metric, baseline=baseline, width=WIDE)


def by_activity(metrics: pl.DataFrame, metric: str) -> Figure | None:
    """A metric for all users and for each third of them by activity, with intervals, beside its baseline;
    None where it was not measured. metrics: a night's rows of `metrics`."""
    if metrics.filter(metric=metric).is_empty():
        return None
    return rating_errors.by_activity(metrics, metric, width=WIDE)


def predicted(predictions: pl.DataFrame) -> Figure | None:
    """The spread of predicted ratings for each rating given; None for implicit feedback. predictions: a
    night's rows of `holdout_predictions`."""
    found = facts.by_rating(predictions.lazy())
    return None if found.is_empty() else rating_errors.predicted(found, width=WIDE, height=_TALL)


def popularity(movies: pl.DataFrame) -> Figure:
    """How much of the places in first tens, and of the ratings, the most popular movies take. movies: a
    night's rows of `movies`."""
    places, ratings = (movies[name].sort(descending=True).to_list() for name in ("n_top_10", "n_ratings"))
    return lists.popularity_curve(places, ratings, width=WIDE)


def genres(movies: pl.DataFrame) -> Figure | None:
    """Each genre's share of the places in first tens and of the ratings; None where the input movies table
    has no genres. movies: a night's rows of `movies`."""
    found = facts.genre_fractions(genres_of(movies), movies.rename({"n_top_10": "lists"}))
    return None if found.is_empty() else lists.genres(found, width=WIDE)


def movie_map(embeddings: pl.DataFrame, movies: pl.DataFrame) -> Figure:
    """The first two principal components of the embeddings, with titles where there is room and the two
    genres that lie farthest apart in colour. embeddings: rows of `movie_embeddings`. movies: the same
    night's rows of `movies`."""
    return drawn_map(embeddings, genres_of(movies), width=_WIDER)


def changes(users: pl.DataFrame) -> Figure:
    """How many users have 0, 1, ... 10 new movies among their first ten since the night before. users: a
    night's rows of `users`."""
    counted = dict(users["n_new_in_ten"].drop_nulls().value_counts().iter_rows())
    return lists.changes([counted.get(number, 0) for number in range(FIRST + 1)], width=WIDE)
