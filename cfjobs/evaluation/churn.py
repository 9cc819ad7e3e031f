"""What changed since last night: ten places against ten, of the users who had a list on both nights.

One definition for the tables, the gate, the page and `cfjobs compare`: a movie is new in a list where it is
among tonight's first ten and was not among last night's. The view `changes` of `cfjobs views` and the recipes
say the same in SQL.
"""

import polars as pl

FIRST = 10
"""The places of a list that people look at."""


def changes(tonight: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """user_id, n_places, n_new of every user with a list in both frames, by user.

    tonight, before: user_id, rank, movie_id of whole lists. n_places: tonight's among the first ten; n_new:
    those whose movie was not among the user's first ten before.
    """
    first = (lists.lazy().filter(pl.col("rank") <= FIRST) for lists in (tonight, before))
    counted = moved(*first).filter(in_tonight()).group_by("user_id")
    new = is_new().sum().cast(pl.Int64).alias("n_new")
    return counted.agg(pl.len().cast(pl.Int64).alias("n_places"), new).sort("user_id").collect()


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
