"""What changed since last night: ten places against ten, of the users who had a list on both nights.

One definition for the tables, the gate, the page and `cfjobs compare`: a movie is new in a list where it is
among tonight's first ten and was not among last night's. The view `changes` of `cfjobs views` and the recipes
say the same in SQL.
"""

import polars as pl

FIRST = 10
"""The places of a list that people look at."""


def changes(tonight: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """user_id, n_places, n_new of every user with a list in both frames, in the order of tonight's lists.

    tonight, before: user_id, rank, movie_id of whole lists. n_places: tonight's among the first ten; n_new:
    those whose movie was not among the user's first ten before.
    """
    now, then = (lists.filter(pl.col("rank") <= FIRST) for lists in (tonight, before))
    kept = then.select("user_id", "movie_id", pl.lit(value=False).alias("new"))
    return (
        now.join(then.select("user_id").unique(), on="user_id", how="semi", maintain_order="left")
        .join(kept, on=["user_id", "movie_id"], how="left", maintain_order="left")
        .group_by("user_id", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("n_places"),
            pl.col("new").fill_null(value=True).sum().cast(pl.Int64).alias("n_new"),
        )
    )


def churn(changed: pl.DataFrame) -> float | None:
    """The share of the places of these users that are new; None without a place. changed: of `changes`."""
    places = int(changed["n_places"].sum())
    return int(changed["n_new"].sum()) / places if places else None


def moved(tonight: pl.LazyFrame, before: pl.LazyFrame) -> pl.LazyFrame:
    """user_id, movie_id, rank, rank_before of every first place of users who have a list on both nights.

    tonight, before: user_id, movie_id, rank of the first places of lists, such as `Source.first_lists`.
    rank_before is null for a new movie, rank for one that is gone.
    """
    places = pl.col("user_id", "movie_id", "rank")
    of_tonight = tonight.select(places).join(before, on="user_id", how="semi")
    of_before = before.select(places).join(tonight, on="user_id", how="semi")
    return of_tonight.join(
        of_before.rename({"rank": "rank_before"}), on=["user_id", "movie_id"], how="full", coalesce=True
    )


def is_new() -> pl.Expr:
    """Whether a row of `moved` is a new movie."""
    return pl.col("rank_before").is_null()


def in_tonight() -> pl.Expr:
    """Whether a row of `moved` is a place of tonight."""
    return pl.col("rank").is_not_null()
