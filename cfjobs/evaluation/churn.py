"""What changed since last night: ten places against ten, of the users who had a list on both nights.

One definition for the tables, the gate, the page and whoever compares two nights.
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
