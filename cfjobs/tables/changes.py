"""What changed since last night, defined once: for the gate, the page, `cfjobs compare` and the recipes.

Ten against ten, for the users who have a list on both nights: a movie is new in a list where it is among
tonight's first ten and was not among last night's first ten. The view `changes` of `views` and the recipes
say the same in SQL.
"""

import polars as pl


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
