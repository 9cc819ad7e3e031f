"""Who gets which movies: the lists of a trained model, and rows of `top_n` made of them.

A user with ratings gets the model's list, ordered by affinity, by predicted rating or by both; a user without
any, the popularity list. Seen movies and movies with too few ratings are never listed, and no list of the
model begins with a movie that its user is expected to dislike while one of the next ones would please. Rules
of a shop come on top, where there are any (`rules.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cfjobs import tables
from cfjobs.errors import InputError
from cfjobs.lists import blend
from cfjobs.lists import rules as shop
from cfjobs.lists.popularity import first_unseen, popularity_order
from cfjobs.lists.rules import New, Order, Pins, Rules
from cfjobs.model_store.files import Model
from cfjobs.models.network import UNKNOWN, DotScores, MlpScores
from cfjobs.models.predict import predict, spread
from cfjobs.models.ranker import History
from cfjobs.topn import top_n
from cfjobs.topn.packing import Kept
from cfjobs.topn.problem import NO_MOVIE, Lists, Pairs, empty_lists, pairs_among
from cfjobs.training import fold_in


def candidates(model: Model, *, min_ratings: int | None = None) -> NDArray[np.bool_]:
    """Movies that may be listed [M]: those with enough training ratings and, unless it takes several, those
    with none that features describe.

    min_ratings: the model's own configuration if not said.
    """
    least = model.config.min_ratings if min_ratings is None else min_ratings
    n_ratings = model.movies["n_ratings"].to_numpy()
    mask: NDArray[np.bool_] = n_ratings >= max(1, least)
    if least <= 1:
        mask |= model.knows_movies()
    return mask


_DISLIKED = 1 / 9
"""Of the rating range, half a star of 0.5..5: a movie with predicted stars so far below the user's own mean
does not stand first."""

_SPARE = 16
"""Places after the first that are looked at for one that may stand there."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be listed. listed [M]: False for a movie that must not be. excluded: pairs never listed beside
    the seen ones. min_score: the least score of a model's list. n_recent [M]: the ratings by which popularity
    lists go; without them, by all that the model was trained on. rules: of the shop."""

    listed: NDArray[np.bool_]
    excluded: Pairs | None = None
    min_score: float | None = None
    n_recent: NDArray[np.int64] | None = None
    rules: Rules | None = None


@dataclass(frozen=True)
class Batch(Lists):
    """Lists of consecutive users, with who made them. by_model [B]: False where it is the popularity list.
    rule [B, N]: codes of `rules.NAMES`, what put a movie in its place; None where scores alone did."""

    by_model: NDArray[np.bool_]
    rule: NDArray[np.int8] | None = None


@dataclass(frozen=True)
class Request:
    """Consecutive users, and all that their lists take."""

    model: Model
    users: range
    seen: Pairs  # never listed; row 0 is the first of the users
    by_model: NDArray[np.bool_]  # [B]
    scores: DotScores | MlpScores | None  # None where the model ranks for none of them
    limits: Limits
    mean_rating: NDArray[np.float64]  # [B], each user's own; 0 without ratings
    ratings: pl.DataFrame  # of these users; row 0 is the first of them


def request_of(model: Model, ratings: pl.DataFrame, *, users: range, limits: Limits | None = None) -> Request:
    """Make ready for the lists of consecutive users.

    ratings: user_idx, movie_idx, rating, sorted by user and time: what these users have seen, and their
    history. users: rows that the network either all knows or all does not know. limits: without them,
    whatever has enough ratings; row 0 of their pairs is the first of these users.
    """
    limits = limits or Limits(listed=candidates(model))
    mine = of_users(ratings, users)
    seen = Pairs.of(mine["user_idx"].to_numpy(), mine["movie_idx"].to_numpy(), n_users=len(users))
    if limits.excluded is not None:
        seen = seen.joined(limits.excluded)
    by_model = _ranked_by_model(model, mine, users=users)
    n_rated = np.bincount(mine["user_idx"].to_numpy(), minlength=len(users))
    given = np.bincount(mine["user_idx"].to_numpy(), weights=mine["rating"].to_numpy(), minlength=len(users))
    found = scores(model, mine, users=users) if by_model.any() else None
    if found is not None and limits.rules is not None:
        found = boosted(found, limits.rules)
    return Request(
        model,
        users,
        seen,
        by_model,
        found,
        limits,
        given / np.maximum(n_rated, 1),
        mine,
    )


def best(request: Request, *, n: int, **engine: Any) -> Iterator[Batch]:
    """The lists of these users, batch after batch, under the rules of the limits. engine: further options of
    `score.top_n`.

    A list whose first movies have predicted stars far below the user's own mean begins with the first of the
    next ones that has not; it is as long all the same.
    """
    if request.limits.rules is not None:
        yield from _by_rules(request, request.limits.rules, n=n, **engine)
        return
    spare, first_user = _spare(request), request.users.start
    for batch in _orders(request, request.limits, n=n + spare, **engine):
        if spare:
            skipped = _skipped(request, batch, np.full(len(batch.movie_idx), n))
            for row in np.flatnonzero(skipped).tolist():
                skip = int(skipped[row])
                for of in (batch.movie_idx, batch.score):
                    of[row, :n] = of[row, skip : skip + n].copy()
        yield Batch(
            batch.first_user + first_user,
            np.ascontiguousarray(batch.movie_idx[:, :n]),
            np.ascontiguousarray(batch.score[:, :n]),
            batch.by_model,
        )


def _orders(request: Request, limits: Limits, *, n: int, **engine: Any) -> Iterator[Batch]:
    """The first n movies of each user by score, or by popularity; users are counted from the first of
    these."""
    if request.scores is None:
        yield from popular(request.model, request.seen, n=n, limits=limits)
        return
    order, counted = _by_popularity(request.model, limits)
    found = top_n(
        request.scores, n=n, seen=request.seen, candidates=limits.listed, min_score=limits.min_score, **engine
    )
    for lists in found:
        own = request.by_model[lists.first_user : lists.first_user + len(lists.movie_idx)]
        for row in np.flatnonzero(~own).tolist():
            _fill(lists, row, order, request.seen.of_user(lists.first_user + row), counted)
        yield Batch(lists.first_user, lists.movie_idx, lists.score, own)


def _spare(request: Request) -> int:
    """Places behind a list, of which one may stand first."""
    by_stars = request.model.ranking is None or request.model.stars is None
    return 0 if by_stars or request.scores is None else _SPARE


def _skipped(request: Request, batch: Batch, n: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many movies at the beginning of the model's lists are left out [B], as they are expected to be
    disliked and one of the spare places may stand first. batch: lists with the spare places; n [B]: places
    that must be left."""
    low, high = request.model.network.settings.y_range
    mean = request.mean_rating[batch.first_user : batch.first_user + len(batch.movie_idx)]
    rows = np.flatnonzero(batch.by_model & (batch.movie_idx[:, 0] != NO_MOVIE))
    found = np.zeros(len(batch.movie_idx), np.int64)
    for width in (1, _SPARE + 1):  # the first places of all, then those of the few that are looked at
        movie_idx = batch.movie_idx[rows, :width]
        user_idx = np.repeat(rows + batch.first_user + request.users.start, movie_idx.shape[1])
        predicted = _predicted(request.model, user_idx, movie_idx.ravel()).reshape(movie_idx.shape)
        liked = predicted >= (mean[rows] - _DISLIKED * (high - low))[:, None]
        liked &= movie_idx != NO_MOVIE
        if width == 1:
            rows = rows[~liked[:, 0]]
        if not rows.size:
            return found
    skipped = liked.argmax(axis=1)
    enough = (batch.movie_idx != NO_MOVIE)[rows].sum(axis=1) >= n[rows] + skipped
    found[rows] = np.where(enough, skipped, 0)
    return found


# Rules ----------------------------------------------------------------------------------------------

_PIECE = 1 << 22
"""Places of orders that are looked at together, where the first ones were not deep enough."""


def _by_rules(request: Request, rules: Rules, *, n: int, **engine: Any) -> Iterator[Batch]:
    """The lists under rules, batch after batch.

    An order of n places, and the spare ones, is enough for nearly all users; those whose first places it
    cannot fill get one twice as deep until it can, or until it has all movies.
    """
    spare, limits = _spare(request), replace(request.limits, listed=request.limits.listed & rules.unpinned)
    once = {name: value for name, value in engine.items() if name != "kept"}
    pins = _pins(request, rules, **once)
    new = New(*_new(request, limits, rules, n=rules.n_pool, **once), rules.seeds(_ids(request)))
    kept: dict[int, Kept] = {}
    for batch in _orders(request, limits, n=n + spare, **engine):
        here = slice(batch.first_user, batch.first_user + len(batch.movie_idx))
        n_pins = (shop.slots(pins.may[here], rules.wanted, n=n) > 0).sum(axis=1)
        skipped = _skipped(request, batch, n - n_pins) if spare else np.zeros(len(n_pins), np.int64)
        lists = shop.placed(_order(batch, skipped, rules), pins.of(here), new.of(here), rules, n=n)
        depth, n_new = n + spare, rules.n_pool
        while lists.short.any():
            depth, n_new = (min(2 * deep, rules.n_movies) for deep in (depth, n_new))
            short, room = np.flatnonzero(lists.short), max(1, _PIECE // (depth + n_new))
            options = once | {"kept": kept.setdefault(depth, Kept())}
            for part in np.split(short, range(room, short.size, room)):
                users = part + batch.first_user
                some = _some(request, users)
                more = New(*_new(some, limits, rules, n=n_new, **once), new.seed[users])
                for deeper in _orders(some, limits, n=depth, **options):
                    of = slice(deeper.first_user, deeper.first_user + len(deeper.movie_idx))
                    order = _order(deeper, skipped[part[of]], rules)
                    lists.put(part[of], shop.placed(order, pins.of(users[of]), more.of(of), rules, n=n))
        yield Batch(
            batch.first_user + request.users.start, lists.movie_idx, lists.score, batch.by_model, lists.rule
        )


def _order(batch: Batch, skipped: NDArray[np.int64], rules: Rules) -> Order:
    """Lists as an order, without the movies at their beginning that are left out."""
    movie_idx, score = batch.movie_idx, batch.score
    depth = movie_idx.shape[1]
    whole = (movie_idx[:, -1] == NO_MOVIE) | (depth >= rules.n_movies)
    if skipped.any():
        at = np.arange(depth) + skipped[:, None]
        past, at = at >= depth, np.minimum(at, depth - 1)
        movie_idx = np.where(past, np.int32(NO_MOVIE), np.take_along_axis(movie_idx, at, axis=1))
        score = np.where(past, np.float32(-np.inf), np.take_along_axis(score, at, axis=1))
    return Order(movie_idx, score, whole, batch.by_model)


def _some(request: Request, users: NDArray[np.int64]) -> Request:
    """Some of the users, for their orders alone."""
    rows = torch.from_numpy(users)
    found = request.scores
    if found is not None:
        found = replace(found, user=found.user[rows.to(found.user.device)])
    seen = Pairs(*pairs_among(request.seen, users))
    by_model = request.by_model[users]
    return replace(request, users=range(len(users)), seen=seen, by_model=by_model, scores=found)


def _pins(request: Request, rules: Rules, **engine: Any) -> Pins:
    """Which pinned movies each user may get, and their scores."""
    n_users, listed = len(request.users), request.limits.listed
    may = np.repeat(listed[None, rules.pinned], n_users, axis=0)
    column = np.full(rules.n_movies, NO_MOVIE, np.int64)
    column[rules.pinned] = np.arange(rules.pinned.size)
    at = column[request.seen.indices]
    user = np.repeat(np.arange(n_users), np.diff(request.seen.indptr))[at != NO_MOVIE]
    may[user, at[at != NO_MOVIE]] = False
    _, counted = _by_popularity(request.model, request.limits)
    score = np.repeat(counted[None, rules.pinned].astype(np.float32), n_users, axis=0)
    pinned = listed & ~rules.unpinned
    if request.scores is not None and pinned.any():
        n = rules.pinned.size
        for lists in top_n(request.scores, n=n, seen=request.seen, candidates=pinned, **engine):
            own = request.by_model[lists.first_user : lists.first_user + len(lists.movie_idx)]
            row, place = np.nonzero((lists.movie_idx != NO_MOVIE) & own[:, None])
            score[row + lists.first_user, column[lists.movie_idx[row, place]]] = lists.score[row, place]
    return Pins(may, score)


def _new(
    request: Request, limits: Limits, rules: Rules, *, n: int, **engine: Any
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.bool_]]:
    """The n best new movies of each user, their scores, and whether these are all."""
    n_users, candidates = len(request.users), limits.listed & rules.is_new
    if request.scores is None or not rules.new_places or not candidates.any():
        return *empty_lists(n_users, 0), np.ones(n_users, np.bool_)
    movie_idx, score = empty_lists(n_users, n)
    options = {"candidates": candidates, "min_score": limits.min_score} | engine
    for lists in top_n(request.scores, n=n, seen=request.seen, **options):
        here = slice(lists.first_user, lists.first_user + len(lists.movie_idx))
        movie_idx[here], score[here] = lists.movie_idx, lists.score
    return movie_idx, score, (movie_idx[:, -1] == NO_MOVIE) | (n >= rules.n_movies)


def _ids(request: Request) -> list[object]:
    """The ids of the users; None for one whom the model does not know."""
    found: list[object] = (
        request.model.users["user_id"].slice(request.users.start, len(request.users)).to_list()
    )
    return found + [None] * (len(request.users) - len(found))


# Stars ----------------------------------------------------------------------------------------------


def _predicted(
    model: Model, user_idx: NDArray[np.int64], movie_idx: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Predicted stars [X]; a user that the network does not know is a typical one, NO_MOVIE any movie."""
    return predict(model.network, *_pairs(model, user_idx, movie_idx)).cpu().numpy()


def _pairs(
    model: Model, user_idx: NDArray[np.int64], movie_idx: NDArray[np.int32]
) -> tuple[torch.Tensor, torch.Tensor]:
    known = np.where(user_idx < model.network.n_users, user_idx, UNKNOWN)
    user, movie = (
        torch.from_numpy(idx.astype(np.int64)).to(model.device) for idx in (known, movie_idx.clip(0))
    )
    return user, movie


def scores(model: Model, ratings: pl.DataFrame, *, users: range) -> DotScores | MlpScores:
    """What orders the lists of these users: the ranking network's affinity,
    with the predicted rating or without, or that alone.

    ratings: of these users alone, user_idx counted from the first of them, sorted by user and time.
    """
    if model.ranking is not None:
        device = model.ranking.movie_vectors.device
        history = History.of(ratings, n_users=len(users)).to(device)
        affinity = DotScores(
            model.ranking.user_vectors(history), model.ranking.movie_vectors, model.ranking.movie_bias
        )
        liking = stars(model, users) if model.stars_weight else None
        if not isinstance(liking, DotScores):
            return affinity
        return blend.joined(affinity, liking, factor=stars_factor(model))
    return stars(model, users)


def boosted(scores: DotScores | MlpScores, rules: Rules) -> DotScores | MlpScores:
    """The scores with what the shop adds to some movies. InputError for those that are no dot product."""
    if rules.boost is None:
        return scores
    if not isinstance(scores, DotScores):
        raise InputError(shop.NOT_A_SUM)
    return replace(scores, bias=scores.bias + torch.from_numpy(rules.boost).to(scores.bias.device))


def stars_factor(model: Model) -> float:
    """What a unit of the rating network's sum adds to the score beside affinity."""
    return model.stars_weight * model.network.stars_per_unit()


def stars(model: Model, users: range) -> DotScores | MlpScores:
    """What increases with these users' predicted ratings;
    users that the network does not know are typical ones."""
    if users.start < model.network.n_users:
        of_all = model.network.scores()
        return replace(of_all, user=of_all.user[users.start : users.stop])
    typical = fold_in.only_user(model.network, model.config.model, UNKNOWN).scores()
    return replace(typical, user=typical.user[:1].expand(len(users), -1))


def popular(
    model: Model,
    seen: Pairs,
    *,
    n: int,
    first_user: int = 0,
    batch_users: int = 1024,
    limits: Limits | None = None,
) -> Iterator[Batch]:
    """For each user of `seen`, pairs that must not be listed, the movies with most training ratings, or most
    recent ones where the limits have these, ties by row. Score: the number of those ratings."""
    limits = limits or Limits(listed=candidates(model))
    order, counted = _by_popularity(model, limits)
    n_users = len(seen.indptr) - 1
    for start in range(0, n_users, batch_users):
        users = range(start, min(start + batch_users, n_users))
        movie_idx = first_unseen(order, seen, users=users, n=n)
        score = np.where(movie_idx == NO_MOVIE, -np.inf, counted[movie_idx]).astype(np.float32)
        yield Batch(start + first_user, movie_idx, score, np.zeros(len(users), np.bool_))


def rows(
    batch: Batch, model: Model, user_ids: pl.Series, *, because: NDArray[np.int32] | None = None
) -> pl.DataFrame:
    """Rows of `top_n`, without the date. user_ids: by row. because [B, k]: the movie that speaks most for
    each of the first places, NO_MOVIE where none does; without it, none."""
    place, column = np.nonzero(batch.movie_idx != NO_MOVIE)
    user_idx, movie_idx = place + batch.first_user, batch.movie_idx[place, column]
    by_model = pl.Series(batch.by_model[place])
    reason = np.full(place.size, NO_MOVIE, np.int32)
    if because is not None:
        first = column < because.shape[1]
        reason[first] = because[place[first], column[first]]
    apart = None if model.stars is None else spread(model.stars, *_pairs(model, user_idx, movie_idx))
    spoken = pl.Series(batch.by_model[place] & (reason != NO_MOVIE))
    return pl.DataFrame(
        {
            "user_id": user_ids[user_idx],
            "rank": (column + 1).astype(np.int16),
            "movie_id": model.movies["movie_id"][movie_idx],
            "score": batch.score[place, column],
            "predicted_rating": pl.Series(
                [None] * place.size if model.stars is None else _predicted(model, user_idx, movie_idx),
                dtype=pl.Float32,
            ),
        }
    ).with_columns(
        pl.when(by_model)
        .then(pl.lit(tables.SOURCE_MODEL))
        .otherwise(pl.lit(tables.SOURCE_POPULAR))
        .alias("source"),
        pl.lit(None if apart is None else pl.Series(apart.cpu().numpy()), pl.Float32).alias(
            "predicted_rating_spread"
        ),
        pl.when(spoken).then(model.movies["movie_id"].gather(reason.clip(0))).alias("because"),
        pl.lit(None if batch.rule is None else _RULES.gather(batch.rule[place, column]), pl.String).alias(
            "rule"
        ),
    )


_RULES = pl.Series("rule", shop.NAMES, pl.String)


def of_users(ratings: pl.DataFrame, users: range) -> pl.DataFrame:
    """The ratings of a contiguous range of users, user_idx counted from the first. ratings:
    sorted by user_idx."""
    idx = ratings["user_idx"]
    first, last = (int(idx.search_sorted(row)) for row in (users.start, users.stop))
    return ratings.slice(first, last - first).with_columns(pl.col("user_idx") - users.start)


def _ranked_by_model(model: Model, mine: pl.DataFrame, *, users: range) -> NDArray[np.bool_]:
    """Whether the model itself can rank for a user [U]: by a history, or by a row that training gave."""
    if model.ranking is not None:
        return np.bincount(mine["user_idx"].to_numpy(), minlength=len(users)) > 0
    if users.start >= model.network.n_users:
        return np.zeros(len(users), dtype=np.bool_)
    rated: NDArray[np.bool_] = model.users["n_ratings"].to_numpy()[users.start : users.stop] > 0
    return rated


def _by_popularity(model: Model, limits: Limits) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The movies of popularity lists, first to last, and each movie's score in them [M]."""
    n_ratings = model.movies["n_ratings"].to_numpy()
    counted = n_ratings if limits.n_recent is None else limits.n_recent
    order = popularity_order(n_ratings, counted)
    return order[(limits.listed & (n_ratings > 0))[order]].astype(np.int32), counted


def _fill(
    lists: Lists,
    row: int,
    order: NDArray[np.int32],
    seen: NDArray[np.int32],
    counted: NDArray[np.int64],
) -> None:
    """Put the first unseen movies of an order into one row of the lists. counted [M]: their scores."""
    n = lists.movie_idx.shape[1]
    unseen = order[: n + seen.size]
    unseen = unseen[~np.isin(unseen, seen)][:n]
    lists.movie_idx[row] = NO_MOVIE
    lists.movie_idx[row, : unseen.size] = unseen
    lists.score[row] = -np.inf
    lists.score[row, : unseen.size] = counted[unseen]
