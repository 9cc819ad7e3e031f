"""What is said of the published lists is what anybody finds in the tables."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cfjobs.evaluation.metrics import OF_LISTS, POPULAR_SHARE
from cfjobs.evaluation.places import Places
from cfjobs.tables.schema import OF_PUBLISHED


def read(output: Path, name: str) -> pl.DataFrame:
    return pl.read_delta(str(output / name)).filter(pl.col("run_date") == pl.col("run_date").max())


def test_the_published_figures_are_those_of_a_recomputation_from_the_tables(two_nights: Path) -> None:
    """A movie's ratings are those that the measured model was trained on: all but the held-out ones."""
    output = two_nights / "out"
    held_out = read(output, "holdout_predictions").group_by("movie_id").len()
    ratings = (
        read(output, "movie_embeddings")
        .join(held_out, on="movie_id", how="left")
        .select("movie_id", pl.col("n_ratings") - pl.col("len").fill_null(0))
        .filter(pl.col("n_ratings") > 0)
    )
    has_ratings = read(output, "top_n").filter(source="model")["user_id"].unique()
    first = read(output, "top_n").filter(pl.col("rank") <= 10, pl.col("user_id").is_in(has_ratings.implode()))
    n_popular = int(np.ceil(ratings.height * POPULAR_SHARE))
    order = ratings.sort("n_ratings", "movie_id", descending=[True, False])
    popular = order["movie_id"].head(n_popular)
    n_raters = max(int(order["n_ratings"][0]), has_ratings.len())
    of_users = (
        first.join(ratings, on="movie_id", how="left")
        .with_columns(pl.col("n_ratings").fill_null(1))
        .group_by("user_id")
        .agg(
            (n_raters / pl.col("n_ratings")).log(2).mean().alias("novelty"),
            pl.col("movie_id").is_in(popular.implode()).mean().alias("popular"),
            pl.col("predicted_rating").mean().alias("stars"),
        )
    )
    wanted = {
        "stars_at_10": of_users["stars"].mean(),
        "coverage": first.join(ratings, on="movie_id", how="semi")["movie_id"].n_unique() / ratings.height,
        "novelty_at_10": of_users["novelty"].mean(),
        "popular_share_at_10": of_users["popular"].mean(),
    }
    listed = first.join(ratings, on="movie_id", how="semi")["movie_id"].value_counts()["count"].to_list()
    places = np.sort([*listed, *[0] * (ratings.height - len(listed))])
    gaps = np.abs(places[:, None] - places[None, :]).sum()
    own = read(output, "users").filter(pl.col("n_ratings") > 0)
    wanted |= {
        "gini": gaps / (2 * len(places) * places.sum()),
        "diversity_at_10": own["diversity"].mean(),
        "genre_distance_at_10": own["genre_distance"].mean(),
    }
    assert own["novelty"].mean() == pytest.approx(wanted["novelty_at_10"])
    told = json.loads(read(output, "runs")["metrics"][0])
    metrics = read(output, "metrics").filter(band="all")
    value, baseline = (dict(metrics.select("metric", column).rows()) for column in ("value", "baseline"))
    assert set(wanted) == set(OF_LISTS)
    for name, figure in wanted.items():
        assert told[name + OF_PUBLISHED] == pytest.approx(figure, rel=1e-5)
        assert value[name + OF_PUBLISHED] == told[name + OF_PUBLISHED]
        assert baseline[name + OF_PUBLISHED] == value[name] == told[name]


@pytest.mark.parametrize("n_blocks", [1, 3, 40])
def test_no_cut_into_blocks_changes_the_figures(n_blocks: int, two_nights: Path) -> None:
    rows = read(two_nights / "out", "top_n").sort("user_id", "rank")
    ids = read(two_nights / "out", "movie_embeddings").sort("movie_id")["movie_id"]

    def figures(blocks: list[pl.DataFrame]) -> dict[str, float]:
        n_ratings = np.arange(ids.len())
        places = Places(ids, n_ratings, n_ratings > 0, n_users=rows["user_id"].n_unique())
        for block in blocks:
            places.add(block)
        return places.figures()

    users = rows["user_id"].unique(maintain_order=True)
    cuts = [part for part in np.array_split(np.arange(users.len()), n_blocks) if part.size]
    blocks = [rows.filter(pl.col("user_id").is_in(users[part].implode())) for part in cuts]
    assert figures(blocks) == pytest.approx(figures([rows]))
    assert figures([]) == {}
