"""Lists of one value of a column: for each user the best of the movies that have it, such as the comedies.

A list of a value is ordered by the score of `top_n`, of a user whom the model cannot rank for by popularity,
and made under the same limits: the candidates are the listable movies that have the value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cfjobs.lists import build
from cfjobs.lists.build import Batch, Request
from cfjobs.models.network import DotScores, MlpScores
from cfjobs.topn import top_n
from cfjobs.topn.problem import NO_MOVIE, Pairs, empty_lists


@dataclass(frozen=True)
class Value:
    """A value of a column, the rows of the movies that have it and may be listed [K], and the places of its
    lists: K of them at most."""

    column: str
    value: str
    movie_idx: NDArray[np.int32]
    n: int


def values(having: pl.DataFrame, *, lists_per: Mapping[str, int], listed: NDArray[np.bool_]) -> list[Value]:
    """The values that some listable movie has, sorted by column and value.

    having: column, value, movie_idx, each once. lists_per: the longest list of each column. listed [M].
    """
    may = having.filter(pl.lit(pl.Series(listed)).gather(pl.col("movie_idx")))
    found = may.sort("column", "value", "movie_idx").group_by("column", "value", maintain_order=True)
    return [
        Value(
            str(column),
            str(value),
            rows := of["movie_idx"].to_numpy(),
            min(lists_per[str(column)], rows.size),
        )
        for (column, value), of in found
    ]


def places(of: Sequence[Value]) -> int:
    """Places of all lists of a user together."""
    return sum(value.n for value in of)


def best(request: Request, of: Sequence[Value], **engine: Any) -> Batch:
    """The lists of all values of these users, side by side in the order of the values [B, places].

    engine: further options of `topn.top_n`.
    """
    found = [_of_movies(request, value.movie_idx, n=value.n, **engine) for value in of]
    movie_idx, score = (np.hstack(part) for part in zip(*found, strict=True))
    return Batch(request.users.start, movie_idx, score, request.by_model)


def _of_movies(
    request: Request, movie_idx: NDArray[np.int32], *, n: int, **engine: Any
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The n best of some movies [K], ascending rows, for each user, and their scores [B, n]."""
    found = empty_lists(len(request.users), n)
    if request.scores is not None:
        numbered = np.append(movie_idx, np.int32(NO_MOVIE))  # NO_MOVIE is -1, so that its own is the last
        seen = _among(request.seen, movie_idx, n_movies=request.limits.listed.size)
        for lists in top_n(_scores_of(request.scores, movie_idx), n=n, seen=seen, **engine):
            _put(found, numbered[lists.movie_idx], lists.score, first=lists.first_user)
    if not request.by_model.all():
        listed = np.zeros_like(request.limits.listed)
        listed[movie_idx] = True
        limits = replace(request.limits, listed=listed)
        for batch in build.popular(request.model, request.seen, n=n, limits=limits):
            own = request.by_model[batch.first_user : batch.first_user + len(batch.movie_idx)]
            _put(found, batch.movie_idx, batch.score, first=batch.first_user, which=~own)
    return found


def _scores_of(scores: DotScores | MlpScores, movie_idx: NDArray[np.int32]) -> DotScores | MlpScores:
    """The scores of some movies alone, in their order: what is made of all would cost more than the lists of
    a rare value."""
    rows = torch.from_numpy(movie_idx.astype(np.int64)).to(scores.movie.device)
    if isinstance(scores, DotScores):
        return replace(scores, movie=scores.movie[rows], bias=scores.bias[rows])
    return replace(scores, movie=scores.movie[rows])


def _among(pairs: Pairs, movie_idx: NDArray[np.int32], *, n_movies: int) -> Pairs:
    """The pairs of some movies, by their place among them."""
    place = np.full(n_movies, NO_MOVIE, np.int32)
    place[movie_idx] = np.arange(movie_idx.size, dtype=np.int32)
    found = place[pairs.indices]
    kept = found != NO_MOVIE
    return Pairs(np.append(0, np.cumsum(kept))[pairs.indptr], found[kept])


def _put(
    found: tuple[NDArray[np.int32], NDArray[np.float32]],
    movie_idx: NDArray[np.int32],
    score: NDArray[np.float32],
    *,
    first: int,
    which: NDArray[np.bool_] | None = None,
) -> None:
    """Put lists of consecutive users in their place, all or those of some."""
    rows = np.arange(len(movie_idx)) if which is None else np.flatnonzero(which)
    found[0][first + rows], found[1][first + rows] = movie_idx[rows], score[rows]


def rows(found: Batch, of: Sequence[Value], request: Request, user_ids: pl.Series) -> pl.DataFrame:
    """Rows of `top_n_by_value`, without the date, by user, value and rank. found: some of the users of
    `best`; user_ids: by row."""
    _, at = np.nonzero(found.movie_idx != NO_MOVIE)
    n = np.array([value.n for value in of])
    which = np.repeat(np.arange(n.size), n)[at]
    rank = at - (np.cumsum(n) - n)[which] + 1
    frame = build.rows(found, request.model, user_ids)
    return frame.select(
        "user_id",
        pl.Series("column", [value.column for value in of], pl.String).gather(which),
        pl.Series("value", [value.value for value in of], pl.String).gather(which),
        pl.Series("rank", rank.astype(np.int16)),
        "movie_id",
        "score",
        "predicted_rating",
        "source",
    )
