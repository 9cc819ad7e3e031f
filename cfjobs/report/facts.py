"""What the page shows: read from the published tables of one night, and reduced to what a page can hold."""

import io
import logging
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from cfjobs import storage, tables
from cfjobs.errors import CfjobsError
from cfjobs.evaluation.churn import changes
from cfjobs.evaluation.genres import genres as genres_of
from cfjobs.ratings import history
from cfjobs.tables.runs import FIRST, Source, chosen_night, published_nights

log = logging.getLogger(__name__)

NIGHTS = 14
MAP_MOVIES = 4_000
_SAMPLE_USERS = 500_000
_CALIBRATION_STEPS = 4_096
_FEWEST_OF_DECADE = 20


@dataclass(frozen=True)
class UserExample:
    """One user, with what they rated last and their list. history, list: rows for a table. mean:
    of their ratings."""

    user_id: str
    band: str
    n_ratings: int
    mean: float | None
    history: list[dict[str, Any]]
    list: list[dict[str, Any]]


@dataclass(frozen=True)
class Facts:
    """One night. Frames are small; titles are as they came.

    newly_listed: the movies in somebody's first ten that were in nobody's last night, most listed first.
    movies: those on the map, most rated first. weighty: the tenth of all movies with most ratings. labels:
    label -> places in `movies`. places_by_rule: places of all lists that a rule of the shop decided, by rule.
    """

    run: dict[str, Any]
    nights: list[dict[str, Any]]
    metrics: pl.DataFrame
    by_rating: pl.DataFrame
    calibration: pl.DataFrame
    by_decade: pl.DataFrame
    movies: pl.DataFrame
    weighty: pl.DataFrame
    labels: dict[str, list[int]]
    genres: pl.DataFrame
    loved: pl.DataFrame
    unloved: pl.DataFrame
    most_listed: pl.DataFrame
    newly_listed: pl.DataFrame
    places: list[int]
    ratings_of_movies: list[int]
    variety: dict[str, float]
    changed: dict[str, Any] | None
    users: list[UserExample] = field(default_factory=list)
    places_by_rule: dict[str, int] = field(default_factory=dict)
    rejected: pl.DataFrame = field(default_factory=pl.DataFrame)
    rejected_rows: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def is_implicit(self) -> bool:
        """Whether the ratings are implicit feedback."""
        return Source("", self.run).is_implicit

    @property
    def is_timed(self) -> bool:
        """Whether the ratings have times."""
        return Source("", self.run).is_timed


def gather(output: str, *, run_date: date | None = None) -> Facts:
    """The facts of a published night, the latest by default. InputError when there is none."""
    nights = published_nights(output)
    run = chosen_night(nights, output, run_date)
    earlier = [night for night in nights if night["run_date"] < run["run_date"]]
    night = Source(output, run)
    movies = night.scan(tables.MOVIE_EMBEDDINGS).select(
        "movie_id", "title", "n_ratings", "bias", "pc1", "pc2"
    )
    movies_frame = movies.collect().sort("n_ratings", "movie_id", descending=[True, False])
    titles = movies_frame.select("movie_id", "title")
    listed = night.first_lists()
    places = listed.group_by("movie_id").agg(pl.len().alias("lists")).collect()
    by_movie = movies_frame.join(places, on="movie_id", how="left").with_columns(pl.col("lists").fill_null(0))
    before = Source(output, earlier[-1]) if earlier else None
    on_map = movies_frame.head(MAP_MOVIES)
    weighty = movies_frame.head(max(40, movies_frame.height // 10))
    genres = _genres(run, movies_frame)
    return Facts(
        run=run,
        nights=[*earlier[-NIGHTS + 1 :], run],
        metrics=night.scan(tables.METRICS).collect(),
        by_rating=by_rating(night.scan(tables.HOLDOUT_PREDICTIONS)),
        calibration=_calibration(night),
        by_decade=_by_decade(night, titles),
        movies=on_map,
        weighty=weighty,
        labels=_labels(genres, on_map),
        genres=genre_fractions(genres, by_movie),
        loved=weighty.drop_nulls("bias").sort("bias", "movie_id", descending=[True, False]).head(12),
        unloved=weighty.drop_nulls("bias").sort("bias", "movie_id").head(12),
        most_listed=by_movie.sort("lists", "movie_id", descending=[True, False]).head(12),
        newly_listed=_newly_listed(by_movie, before),
        places=by_movie["lists"].sort(descending=True).to_list(),
        ratings_of_movies=by_movie["n_ratings"].sort(descending=True).to_list(),
        variety=_variety(listed, by_movie),
        changed=_changed(night, before) if before else None,
        users=_users(night, titles),
        places_by_rule=_places_by_rule(night),
        rejected=_rejected_reasons(night),
        rejected_rows=night.scan(tables.REJECTED).sort("file", "row").head(10).collect(),
    )


# Stars ----------------------------------------------------------------------------------------------


def by_rating(predictions: pl.LazyFrame) -> pl.DataFrame:
    """Predictions for each rating given: rating, n, rmse and the quantiles of what was predicted; empty for
    implicit feedback. predictions: a night's rows of `holdout_predictions`."""
    predicted = pl.col("predicted_rating")
    residual = pl.col("residual").cast(pl.Float64)
    rounded = (pl.col("rating").cast(pl.Float64) * 2).round() / 2
    return (
        predictions.filter(residual.is_not_null())
        .group_by(rounded.alias("rating"))
        .agg(
            pl.len().alias("n"),
            (residual**2).mean().sqrt().alias("rmse"),
            *(predicted.quantile(q).alias(f"q{round(q * 100)}") for q in (0.1, 0.25, 0.5, 0.75, 0.9)),
        )
        .sort("rating")
        .collect()
    )


def _calibration(night: Source) -> pl.DataFrame:
    """Twenty bins of the predictions of about equal size, in order: predicted, rating (both means), n."""
    predicted, rating = pl.col("predicted_rating").cast(pl.Float64), pl.col("rating").cast(pl.Float64)
    scan = night.scan(tables.HOLDOUT_PREDICTIONS)
    low, high = scan.select(predicted.min().alias("low"), predicted.max().alias("high")).collect().row(0)
    if low is None:
        return pl.DataFrame({"predicted": [], "rating": [], "n": []}, schema_overrides={"n": pl.Int64})
    step = (high - low) / _CALIBRATION_STEPS or 1.0
    steps = (
        scan.group_by(((predicted - low) / step).cast(pl.Int32).alias("step"))
        .agg(
            predicted.sum().alias("predicted"),
            rating.sum().alias("rating"),
            pl.len().cast(pl.Int64).alias("n"),
        )
        .sort("step")
        .collect()
    )
    middle = pl.col("n").cum_sum() - pl.col("n") / 2
    bins = steps.group_by((20 * middle / pl.col("n").sum()).floor().alias("bin"), maintain_order=True)
    return bins.agg(pl.col("predicted", "rating", "n").sum()).select(
        pl.col("predicted") / pl.col("n"), pl.col("rating") / pl.col("n"), "n"
    )


def _by_decade(night: Source, titles: pl.DataFrame) -> pl.DataFrame:
    """Error by the decade that stands in the title, as in 'Casablanca (1942)': decade, n, rmse."""
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32, strict=False)
    dated = titles.select("movie_id", (year // 10 * 10).alias("decade")).drop_nulls()
    return (
        night.scan(tables.HOLDOUT_PREDICTIONS)
        .filter(pl.col("residual").is_not_null())
        .join(dated.lazy(), on="movie_id")
        .group_by("decade")
        .agg(pl.len().alias("n"), (pl.col("residual").cast(pl.Float64) ** 2).mean().sqrt().alias("rmse"))
        .filter(pl.col("n") >= _FEWEST_OF_DECADE)
        .sort("decade")
        .collect()
    )


# Lists ----------------------------------------------------------------------------------------------


def _variety(listed: pl.LazyFrame, by_movie: pl.DataFrame) -> dict[str, float]:
    """Figures of the first ten places of all lists, or of a sample of them."""
    lists = (
        _sampled(listed)
        .sort("user_id", "rank")
        .group_by("user_id")
        .agg(
            pl.col("movie_id").cast(pl.String).implode().list.join("\x1f").alias("list"),
            pl.col("source").first(),
        )
        .collect()
    )
    copies = lists["list"].value_counts().sort("count", descending=True)
    repeated = copies.filter(pl.col("count") > 1)["count"].sum()
    return {
        "lists": float(lists.height),
        "distinct": float(copies.height),
        "repeated_fraction": float(repeated) / max(lists.height, 1),
        "most_copies": float(copies["count"][0]) if copies.height else 0.0,
        "popular_fraction": float((lists["source"] == tables.SOURCE_POPULAR).sum()) / max(lists.height, 1),
        "listed_movies": float((by_movie["lists"] > 0).sum()),
        "movies": float(by_movie.height),
    }


def _places_by_rule(night: Source) -> dict[str, int]:
    """Places of all lists by the rule of the shop that decided them; empty for nights that do not say."""
    lists = night.scan(tables.TOP_N)
    if "rule" not in lists.collect_schema().names():
        return {}
    counted = lists.drop_nulls("rule").group_by("rule").agg(pl.len().alias("places")).collect()
    return dict(counted.iter_rows())


def _changed(night: Source, before: Source) -> dict[str, Any]:
    """New movies among the first ten against last night's first ten, over users who had a list then: as
    `users` has them, or, for a night without that table, of a sample.

    quiet: (users, those with a new movie), of the users whose ratings did not change.
    """
    if night.version(tables.USERS) is None:
        per_user = changes(*(_sampled(of.first_lists()).collect() for of in (night, before)))
        alike = _n_ratings(night).join(_n_ratings(before), on=["user_id", "n"]).collect()
        per_user = per_user.join(
            alike.select("user_id", pl.lit(value=True).alias("quiet")), on="user_id", how="left"
        )
        counted = per_user.lazy()
    else:
        quiet = ~pl.col("ratings_changed")
        users = night.scan(tables.USERS).filter(pl.col("n_new_in_ten").is_not_null())
        counted = users.select(pl.col("n_new_in_ten").alias("n_new"), quiet.alias("quiet"))
    by_number = (
        counted.group_by("n_new").agg(pl.len().alias("n"), pl.col("quiet").sum().alias("quiet")).collect()
    )
    users_with, quiet_with = (
        {row["n_new"]: int(row[name] or 0) for row in by_number.to_dicts()} for name in ("n", "quiet")
    )
    n_users, n_quiet = sum(users_with.values()), sum(quiet_with.values())
    return {
        "since": before.run["run_date"],
        "users": n_users,
        "changed": n_users - users_with.get(0, 0),
        "quiet": (n_quiet, n_quiet - quiet_with.get(0, 0)),
        "mean_new": sum(number * n for number, n in users_with.items()) / max(n_users, 1),
        "histogram": [users_with.get(number, 0) for number in range(FIRST + 1)],
    }


def _n_ratings(night: Source) -> pl.LazyFrame:
    """user_id, n: the ratings of every user who has held-out ones: these and the training ratings."""
    held_out = night.scan(tables.HOLDOUT_PREDICTIONS).group_by("user_id")
    return held_out.agg((pl.len() + pl.col("user_ratings").first()).alias("n"))


def _newly_listed(by_movie: pl.DataFrame, before: Source | None) -> pl.DataFrame:
    listed = by_movie.filter(pl.col("lists") > 0).sort("lists", "movie_id", descending=[True, False])
    if before is None:
        return listed.clear()
    return listed.join(before.first_lists().select("movie_id").unique().collect(), on="movie_id", how="anti")


def _sampled(first: pl.LazyFrame) -> pl.LazyFrame:
    """At most about _SAMPLE_USERS users, always the same ones; all of them where there are no more."""
    n_users = first.filter(pl.col("rank") == 1).select(pl.len()).collect().item()
    step = -(-n_users // _SAMPLE_USERS)
    return first if step <= 1 else first.filter(pl.col("user_id").cast(pl.String).hash(seed=0) % step == 0)


# People, movies, rejects ----------------------------------------------------------------------------


def _users(night: Source, titles: pl.DataFrame) -> list[UserExample]:
    """One typical user of each band and, where there are any, one who gets the popularity list."""
    chosen = _typical_users(night)
    ids = [user for user, _, _ in chosen]
    try:
        rated = history.of_night(night.run, ids)
    except CfjobsError as error:
        log.warning("the page shows no histories: %s", error)
        rated = pl.DataFrame(
            schema={
                "user_id": pl.String,
                "movie_id": pl.String,
                "rating": pl.Float64,
                "timestamp": pl.Datetime("us"),
            }
        )
    named = titles.select(pl.col("movie_id").cast(pl.String), "title")
    lists = (
        night.scan(tables.TOP_N)
        .filter(pl.col("user_id").is_in(ids), pl.col("rank") <= FIRST)
        .with_columns(pl.col("user_id", "movie_id").cast(pl.String))
        .sort("user_id", "rank")
        .collect()
        .join(named, on="movie_id", how="left", maintain_order="left")
    )
    rated = rated.join(named, on="movie_id", how="left", maintain_order="left")
    found = []
    for user, band, n_ratings in chosen:
        mine = rated.filter(user_id=str(user))
        found.append(
            UserExample(
                user_id=str(user),
                band=band,
                n_ratings=max(mine.height, n_ratings),
                mean=mine["rating"].mean(),  # type: ignore[arg-type]
                history=mine.reverse().head(FIRST).to_dicts(),
                list=lists.filter(user_id=str(user)).to_dicts(),
            )
        )
    return found


def _typical_users(night: Source) -> list[tuple[str | int, str, int]]:
    """(user_id, band, training ratings): in each band the user with the median number of ratings."""
    activity = (
        night.scan(tables.HOLDOUT_PREDICTIONS)
        .group_by("user_id")
        .agg(pl.col("user_ratings").first())
        .sort("user_ratings", "user_id")
        .collect()
    )
    found: list[tuple[str | int, str, int]] = []
    metric = "ndcg_at_10" if night.is_implicit else "rmse"
    bands = night.scan(tables.METRICS).filter(metric=metric).collect()
    for row in bands.filter(pl.col("band") != "all").iter_rows(named=True):
        mine = activity.filter(pl.col("user_ratings").is_between(row["min_ratings"], row["max_ratings"]))
        if mine.height:
            user, n_ratings = mine.row(mine.height // 2)
            found.append((user, row["band"], n_ratings))
    of_source = night.first_lists().filter(pl.col("rank") == 1)
    if not found:
        some = (
            of_source.filter(pl.col("source") == tables.SOURCE_MODEL)
            .select(pl.col("user_id").min())
            .collect()
        )
        found += [(user, "first", 0) for user in some["user_id"].drop_nulls()]
    cold = (
        of_source.filter(pl.col("source") == tables.SOURCE_POPULAR).select(pl.col("user_id").min()).collect()
    )
    return found + [(user, "nothing rated", 0) for user in cold["user_id"].drop_nulls()]


def _genres(run: dict[str, Any], movies: pl.DataFrame) -> pl.DataFrame:
    """movie_id, genre: of the first column of the movies table that reads like a list of genres;
    empty for none."""
    none = movies.select("movie_id", pl.lit("").alias("genre")).clear()
    uri = storage.join(run["model_uri"], "movies.parquet")
    if not storage.exists(uri):
        return none
    known = pl.read_parquet(io.BytesIO(storage.read_bytes(uri)))
    return movies.select("movie_id").join(genres_of(known), on="movie_id")


def _labels(genres: pl.DataFrame, movies: pl.DataFrame) -> dict[str, list[int]]:
    """Places on the map by genre."""
    placed = movies.select("movie_id").with_row_index("place").join(genres, on="movie_id")
    by_genre = placed.sort("place").group_by("genre").agg("place").sort("genre")
    return dict(by_genre.iter_rows())


def genre_fractions(genres: pl.DataFrame, by_movie: pl.DataFrame) -> pl.DataFrame:
    """genre, of_places, of_ratings: fractions that its movies take, most rated first. A movie counts in
    each genre. genres: movie_id, genre. by_movie: movie_id, lists (how many have it among their first ten),
    n_ratings."""
    places, ratings = max(by_movie["lists"].sum(), 1), max(by_movie["n_ratings"].sum(), 1)
    return (
        genres.join(by_movie, on="movie_id")
        .group_by("genre")
        .agg(
            (pl.col("lists").sum() / places).alias("of_places"),
            (pl.col("n_ratings").sum() / ratings).alias("of_ratings"),
        )
        .sort("of_ratings", "genre", descending=[True, False])
    )


def _rejected_reasons(night: Source) -> pl.DataFrame:
    counted = night.scan(tables.REJECTED).group_by("reason").agg(pl.len().alias("rows"))
    return counted.sort("rows", "reason", descending=[True, False]).collect()
