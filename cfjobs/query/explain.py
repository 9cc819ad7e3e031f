"""Why a movie has its score for a user: the score taken apart into parts that add up to it.

    affinity   score = b_m + sum over the user's ratings of w_i <e_i, q_m>     bias + history
    blend      the same + k (c_m + <p_u, q'_m>)                                bias + history + stars
    rating     score = c_m + <p_u, q_m>                                        bias + embedding

To each is added what the movies table adds to the movie's scores, the boost of a rule of the shop.

w_i, e_i, q_m and b_m as in `ranking`; c_m, p_u and q_m those of the rating network, and so is q'_m; k as in
`blend`. A network that is not a sum (`net`) has the embedding part alone.
"""

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import polars as pl
import torch

from cfjobs import lists, model_store, ratings, tables
from cfjobs.errors import InputError
from cfjobs.model_store.files import Model
from cfjobs.models.network import DotScores
from cfjobs.models.ranker import History, RankingModel
from cfjobs.query import listable
from cfjobs.query.lookup import id_like
from cfjobs.query.movies import one_movie
from cfjobs.query.predict import predicted
from cfjobs.ratings import history
from cfjobs.tables.runs import Source, night_of
from cfjobs.topn.problem import NO_MOVIE


@dataclass(frozen=True)
class Parts:
    """score = bias + embedding + stars + boost + the sum of history [H]: what each rating of the user
    contributes."""

    bias: float
    embedding: float
    history: tuple[float, ...] = ()
    stars: float = 0.0
    boost: float = 0.0

    @property
    def score(self) -> float:
        """The whole."""
        return self.bias + self.embedding + self.stars + self.boost + sum(self.history)


@dataclass(frozen=True)
class Explanation:
    """A movie's score for a user, and why.

    frame: movie_id, title, rating, rated_at, weight, part; the user's ratings, those that speak most for the
    movie first. rank, published_score: in the published list; None where the movie is not in it. place: among
    all n_candidates movies that could be listed; None for one that could not, because the user has rated it
    (seen), too few have, or another rule of the night withheld it from everybody (withheld). rule: what put
    it in its rank, as in `top_n`; None for its score. stars_weight: of the predicted stars in the score. Of
    implicit feedback predicted_rating and the ratings are None, and so is rated_at of ratings without times.
    """

    user_id: str | int
    movie_id: str | int
    title: str | None
    run_date: date
    parts: Parts
    predicted_rating: float | None
    stars_weight: float
    rank: int | None
    published_score: float | None
    rated: float | None
    seen: bool
    withheld: bool
    place: int | None
    n_candidates: int
    frame: pl.DataFrame
    rule: str | None = None


def explain(
    output: str, user: str, movie: str, *, run_date: date | None = None, ratings_uri: str | None = None
) -> Explanation:
    """Why a user has, or has not, this movie in the list of a published night.

    ratings_uri: where the ratings are now, if not where the night read them. InputError for a user without
    ratings and for a movie that the model does not know.
    """
    night = night_of(output, run_date)
    model = model_store.load_model(night.run["model_uri"])
    movie_row = movie_row_of(model, movie)
    user_id = id_like(night.table(tables.TOP_N), "user_id", user)
    rated = _known(history.of_night(night.run, [user], ratings_uri=ratings_uri), model)
    if user_id is None or rated.is_empty():
        raise InputError(
            f"user {user}: has rated no movie that the model knows, and so gets the popularity list; there is nothing to explain"
        )
    request = rated.with_columns(pl.lit(1.0, pl.Float32).alias("rating")) if model.stars is None else rated
    weights, parts = take_apart(model, request, user=user, movie_row=movie_row)
    movie_id = model.movies["movie_id"][movie_row]
    listed = _published(night, user_id, movie_id)
    may = listable.of_night(night, model)
    rules = listable.rules_of_night(night, model)
    if rules is not None and rules.boost is not None:
        parts = replace(parts, boost=float(rules.boost[movie_row]))
    order = _order(model, request, user=user, limits=lists.Limits(listed=may, rules=rules))
    place = order.index(movie_row) + 1 if movie_row in order else None
    titles = _titles(model)
    frame = (
        rated.with_columns(
            pl.Series("weight", weights), pl.Series("part", parts.history or [0.0] * rated.height)
        )
        .join(titles, on="movie_idx", how="left", maintain_order="left")
        .sort("part", descending=True, maintain_order=True)
        .select("movie_id", "title", "rating", pl.col("timestamp").alias("rated_at"), "weight", "part")
    )
    mine = rated.filter(movie_idx=movie_row)
    stars = None
    if model.stars is not None:
        pair = {"users": pl.Series([user_id]), "movies": pl.Series([movie_id])}
        stars = float(predicted(model, **pair, device="cpu")[0])
    return Explanation(
        user_id=user_id,
        movie_id=movie_id,
        title=titles.filter(movie_idx=movie_row)["title"][0],
        run_date=night.run["run_date"],
        parts=parts,
        predicted_rating=stars,
        stars_weight=model.stars_weight,
        rank=listed.get("rank"),
        published_score=listed.get("score"),
        rated=mine["rating"][0] if mine.height else None,
        seen=mine.height > 0,
        withheld=bool(lists.candidates(model)[movie_row] and not may[movie_row]),
        place=place,
        n_candidates=len(order),
        frame=frame,
        rule=listed.get("rule"),
    )


def take_apart(model: Model, rated: pl.DataFrame, *, user: str, movie_row: int) -> tuple[list[float], Parts]:
    """The weight of each rating [H], and the parts of the score.

    rated: movie_idx, rating [H] of the user, as in training sorted by time and movie.
    """
    if model.ranking is not None:
        weights = history_weights(model.ranking, rated)
        e_HD = model.ranking.history_vectors[rated["movie_idx"].to_list()].double()
        q_D = model.ranking.movie_vectors[movie_row].double()
        of_history = (weights.double() * (e_HD @ q_D)).tolist()
        bias = float(model.ranking.movie_bias[movie_row])
        return weights.tolist(), Parts(bias, 0.0, tuple(of_history), _stars_part(model, user, movie_row))
    scores, nothing = model.network.scores(), [0.0] * rated.height
    row = _row(model.users["user_id"], user, "user")
    if isinstance(scores, DotScores):
        dot = float(scores.user[row].double() @ scores.movie[movie_row].double())
        return nothing, Parts(float(scores.bias[movie_row]), dot)
    x = torch.cat([scores.user[row], scores.movie[movie_row]]).double()
    for number, (weight, shift) in enumerate(scores.layers):
        x = weight.double() @ (x.relu() if number else x) + shift.double()
    return nothing, Parts(0.0, float(x))


def _stars_part(model: Model, user: str, movie_row: int) -> float:
    """What the predicted stars add to the score."""
    row = _user_row(model, user)
    scores = lists.stars(model, range(row, row + 1)) if model.stars_weight else None
    if not isinstance(scores, DotScores):
        return 0.0
    dot = float(scores.user[0].double() @ scores.movie[movie_row].double())
    return lists.stars_factor(model) * (dot + float(scores.bias[movie_row]))


def history_weights(ranking: RankingModel, rated: pl.DataFrame) -> torch.Tensor:
    """How much each of a user's ratings counts in the user's vector [H].

    The vector is linear in the embeddings of what was rated; with unit vectors in their place it is the
    weights.
    """
    n = rated.height
    alone = replace(ranking, history_vectors=torch.eye(n))
    of_user = History.of(
        rated.select(pl.lit(0).alias("user_idx"), pl.int_range(n).alias("movie_idx"), "rating"), n_users=1
    )
    return alone.user_vectors(of_user)[0]


def as_json(found: Explanation) -> dict[str, Any]:
    """The explanation as one JSON object."""
    rows = found.frame.with_columns(pl.col("rated_at").dt.to_string("iso:strict")).to_dicts()
    return {
        "user_id": found.user_id,
        "movie_id": found.movie_id,
        "title": found.title,
        "run_date": found.run_date.isoformat(),
        "score": found.parts.score,
        "bias": found.parts.bias,
        "embedding": found.parts.embedding,
        "history": sum(found.parts.history),
        "stars": found.parts.stars,
        "boost": found.parts.boost,
        "stars_weight": found.stars_weight,
        "predicted_rating": found.predicted_rating,
        "rank": found.rank,
        "rule": found.rule,
        "published_score": found.published_score,
        "place": found.place,
        "n_candidates": found.n_candidates,
        "rated": found.rated,
        "seen": found.seen,
        "withheld": found.withheld,
        "ratings": rows,
    }


def _order(model: Model, rated: pl.DataFrame, *, user: str, limits: lists.Limits) -> list[int]:
    """Every movie that could be in the user's list, first to last."""
    row = _user_row(model, user)
    mine = rated.select(pl.lit(row, pl.Int32).alias("user_idx"), "movie_idx", "rating")
    request = lists.request_of(model, mine, users=range(row, row + 1), limits=limits)
    (batch,) = lists.best(request, n=model.movies.height)
    return [movie for movie in batch.movie_idx[0].tolist() if movie != NO_MOVIE]


def _user_row(model: Model, user: str) -> int:
    """The user's row; beyond the last for one whom only the ranking network can rank for."""
    if model.ranking is None:
        return _row(model.users["user_id"], user, "user")
    row = int(ratings.rows_of(_id(user, model.users["user_id"].dtype), model.users["user_id"])[0])
    return row if row >= 0 else model.users.height


def _known(rated: pl.DataFrame, model: Model) -> pl.DataFrame:
    """The ratings of movies that the model knows, with movie_idx, in the order of training."""
    rows = ratings.rows_of(rated["movie_id"], model.movies["movie_id"].cast(pl.String))
    return (
        rated.with_columns(pl.Series("movie_idx", rows))
        .filter(pl.col("movie_idx") >= 0)
        .sort("timestamp", "movie_idx")
    )


def _published(night: Source, user_id: str | int, movie_id: str | int) -> dict[str, Any]:
    row = (
        night.scan(tables.TOP_N)
        .filter(pl.col("user_id") == user_id, pl.col("movie_id") == movie_id)
        .collect()
    )
    found: dict[str, Any] = row.row(0, named=True) if row.height else {}
    return found


def _titles(model: Model) -> pl.DataFrame:
    title = (
        model.movies["title"].cast(pl.String) if "title" in model.movies.columns else pl.lit(None, pl.String)
    )
    return model.movies.select(
        pl.int_range(pl.len(), dtype=pl.Int32).alias("movie_idx"), title.alias("title")
    )


def movie_row_of(model: Model, movie: str) -> int:
    """The row of the movie that an id, a title, or words of one title name.
    InputError for none or several."""
    row = int(ratings.rows_of(_id(movie, model.movies["movie_id"].dtype), model.movies["movie_id"])[0])
    if row >= 0:
        return row
    titles = _titles(model).select("title", movie_id=model.movies["movie_id"])
    chosen = one_movie(titles.to_dicts(), movie)
    return int(ratings.rows_of(pl.Series([chosen["movie_id"]]), model.movies["movie_id"])[0])


def _row(known: pl.Series, wanted: str, what: str) -> int:
    row = int(ratings.rows_of(_id(wanted, known.dtype), known)[0])
    if row < 0:
        raise InputError(
            f"{what} {wanted}: is unknown to the model of that night; `cfjobs movies` searches titles"
        )
    return row


def _id(text: str, dtype: pl.DataType) -> pl.Series:
    return pl.Series([text]).cast(dtype, strict=False)
