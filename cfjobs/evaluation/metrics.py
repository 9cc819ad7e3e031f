"""How good a model is on the ratings that were held out, beside what a simple rule would have reached.

    stars    rmse, mae                                   baseline: global mean + damped user and movie means
    lists    ndcg, recall, map, mrr at k                 baseline: the popularity list
    liking   share of disliked places, predicted stars   baseline: the popularity list
    variety  coverage, novelty, share of popular movies, gini, diversity, genre_distance (`character.py`)
                                                         baseline: the popularity list
    rivals   ndcg of a sample of users                   baseline: each rule of `list_baselines.py`

Implicit feedback has no stars and nothing that is disliked: those metrics are left out.

Each is measured over all users and over three bands of their activity, with a bootstrap interval over users.
Every figure is a sum over users of what one user contributes, so no batch size and no device changes it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import counted, summed
from cfjobs.evaluation import character
from cfjobs.evaluation.baselines import Holdout, bias_only
from cfjobs.evaluation.bootstrap import ALL, BANDS, Metric, intervals, sums
from cfjobs.evaluation.character import Traits
from cfjobs.evaluation.list_baselines import NONE, Rivals
from cfjobs.topn.problem import NO_MOVIE, Lists

K = 10

POPULAR_SHARE = 0.1
"""A movie is popular when it is among this share of the candidates with most training ratings."""
_CHUNK_USERS = 65_536

NAMES = (
    "rmse",
    "mae",
    f"ndcg_at_{K}",
    f"recall_at_{K}",
    f"map_at_{K}",
    f"mrr_at_{K}",
    f"disliked_share_at_{K}",
    f"stars_at_{K}",
    "coverage",
    f"novelty_at_{K}",
    f"popular_share_at_{K}",
    "gini",
    f"diversity_at_{K}",
    f"genre_distance_at_{K}",
)
OF_STARS = ("rmse", "mae", f"disliked_share_at_{K}", f"stars_at_{K}")
"""What implicit feedback does not have."""
OF_LISTS = (f"stars_at_{K}", *NAMES[NAMES.index("coverage") :])
"""What needs no held-out ratings, and is measured on the published lists too."""
BASELINES = {name: f"{name}_bias_only" if name in {"rmse", "mae"} else f"{name}_popular" for name in NAMES}
"""The name under which a metric's baseline stands beside it."""

AGAINST = f"ndcg_at_{K}_against_"
"""The metric's name before that of a rival: the night's own nDCG on the rival's users."""


@dataclass(frozen=True)
class Judged:
    """Lists held against the holdout: their metrics, and the first k movies of each user [U, k]."""

    metrics: tuple[Metric, ...]
    listed: NDArray[np.int32]


@dataclass(frozen=True)
class Measure:
    """One row of the `metrics` table. low, high: None for coverage and gini, which are no means over
    users."""

    metric: str
    band: str
    value: float
    low: float | None
    high: float | None
    baseline: float
    users: int
    min_ratings: int
    max_ratings: int


Predict = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Predicted stars [X] of rows user_idx [X] and movie_idx [X]."""


def measures(
    *,
    holdout: Holdout,
    training: Holdout,
    predicted: NDArray[np.float32] | None,
    lists: Iterable[Lists],
    popular: Iterable[Lists],
    relevant_rating: float,
    candidates: NDArray[np.bool_],
    n_users: int,
    seed: int,
    predict: Predict | None,
    rivals: Rivals = NONE,
    traits: Traits | None = None,
    sample: NDArray[np.int64] | None = None,
) -> list[Measure]:
    """Every metric, over all users and in each band, beside its baseline; then nDCG beside each rival.

    training: the ratings that the model was trained on. predicted [R]: for the held-out ratings. lists,
    popular: the model's and the popularity lists without the training ratings. candidates [M]: what may be
    listed. predict: for the listed movies. Of implicit feedback predicted and predict are None. traits: of
    the movies, for the last two. sample [S]: the users, ascending, whose lists these are, by row, the rivals'
    users among them; all by default. What is no matter of lists is measured over all.
    """
    activity = counted(training.user_idx, n_users)
    n_ratings = counted(training.movie_idx, candidates.size)
    bands = activity_bands(activity, np.unique(holdout.user_idx))
    given = summed(training.user_idx, training.rating, n_users)
    sample = np.arange(n_users) if sample is None else sample
    row = np.full(n_users, -1, np.int32)
    row[sample] = np.arange(sample.size, dtype=np.int32)
    held, known = _of_users(holdout, row), _of_users(training, row)

    def judged(found: Iterable[Lists]) -> Judged:
        return judge(
            found,
            held,
            relevant_rating=relevant_rating,
            n_users=sample.size,
            n_ratings=n_ratings,
            n_raters=n_users,
            candidates=candidates,
            mean_rating=None if predicted is None else (given / np.maximum(activity, 1))[sample],
            predict=predict,
            traits=traits,
            mix=mix,
        )

    mix = None
    if traits is not None and traits.genres is not None:
        mix = character.genre_mix(known.user_idx, known.movie_idx, traits, n_users=sample.size)
    model, popularity = judged(lists), judged(popular)
    ours, theirs = (
        tuple(_among_all(metric, sample, n_users=n_users) for metric in of.metrics)
        for of in (model, popularity)
    )
    if predicted is not None:
        low, high = (float(end(training.rating)) for end in (np.min, np.max))
        baseline = bias_only(training, holdout, n_users=n_users, n_movies=candidates.size)
        ours = (*stars(predicted, holdout, n_users=n_users), *ours)
        theirs = (*stars(np.clip(baseline, low, high), holdout, n_users=n_users), *theirs)
    found = _compared(ours, theirs, bands, activity, seed=seed)
    found += _of_all_places(
        model.listed, popularity.listed, bands[sample], activity[sample], candidates=candidates
    )
    place = {name: number for number, name in enumerate(NAMES)}
    found.sort(key=lambda row: (place[row.metric], (ALL, *BANDS).index(row.band)))
    return found + _against(
        rivals,
        model.listed[row[rivals.users]],
        holdout,
        relevant_rating=relevant_rating,
        activity=activity,
        seed=seed,
    )


def _of_users(ratings: Holdout, row: NDArray[np.int32]) -> Holdout:
    """The ratings of the users with a row [U], -1 for none, counted by it."""
    if (row >= 0).all():
        return ratings
    user = row[ratings.user_idx]
    there = user >= 0
    return Holdout(user[there], ratings.movie_idx[there], ratings.rating[there])


def _among_all(metric: Metric, sample: NDArray[np.int64], *, n_users: int) -> Metric:
    """A metric of some users [S] as one of all [U], where the others have no weight."""
    if sample.size == n_users:
        return metric
    total, weight = np.zeros(n_users), np.zeros(n_users)
    total[sample], weight[sample] = metric.total, metric.weight
    return replace(metric, total=total, weight=weight)


def _against(
    rivals: Rivals,
    listed: NDArray[np.int32],
    holdout: Holdout,
    *,
    relevant_rating: float,
    activity: NDArray[np.int64],
    seed: int,
) -> list[Measure]:
    """nDCG of our lists [S, k] beside that of each rival's, on the rivals' users [S]."""
    users = rivals.users
    row = np.full(activity.size, -1, np.int32)
    row[users] = np.arange(users.size, dtype=np.int32)
    held = _of_users(holdout, row)

    def ndcg(of_users: NDArray[np.int32]) -> Metric:
        batch = Lists(0, of_users, np.zeros(of_users.shape, np.float32))
        return judge([batch], held, relevant_rating=relevant_rating, n_users=users.size).metrics[0]

    if not rivals.listed:
        return []
    ours = ndcg(listed)
    counted = ours.weight > 0
    if not counted.any():
        return []
    low, high = intervals([ours], np.zeros(users.size, np.int8), seed=seed)[ALL][0]
    extent = _extent(counted, activity[users], np.ones(users.size, np.bool_))
    every = slice(None)
    return [
        Measure(f"{AGAINST}{name}", ALL, _value(ours, every), low, high, _value(ndcg(found), every), *extent)
        for name, found in rivals.listed.items()
    ]


def overall(found: Sequence[Measure]) -> dict[str, float]:
    """The metrics over all users by name, their baselines, the upper end of nDCG's interval,
    and the users judged; nDCG of each rival, and the night's own on the rivals' users, `_sampled`."""
    rivals = [row for row in found if row.metric.startswith(AGAINST)]
    rows = [row for row in found if row.band == ALL and row not in rivals]
    judged = {f"ndcg_at_{K}": "users_measured"}
    against = {f"ndcg_at_{K}_{row.metric.removeprefix(AGAINST)}": row.baseline for row in rivals}
    if rivals:
        against |= {f"ndcg_at_{K}_sampled": rivals[0].value}
        against |= {f"ndcg_at_{K}_sampled_high": rivals[0].high or rivals[0].value}
    return against | (
        {row.metric: row.value for row in rows}
        | {BASELINES[row.metric]: row.baseline for row in rows}
        | {f"{row.metric}_high": row.high for row in rows if row.metric in judged and row.high is not None}
        | {judged[row.metric]: float(row.users) for row in rows if row.metric in judged}
    )


# Stars ----------------------------------------------------------------------------------------------


def stars(
    predicted: NDArray[np.float32] | NDArray[np.float64], holdout: Holdout, *, n_users: int
) -> tuple[Metric, ...]:
    """rmse and mae, in stars, of predictions [R] for the held-out ratings: means over ratings."""
    error = predicted.astype(np.float64) - holdout.rating
    weight = np.bincount(holdout.user_idx, minlength=n_users).astype(np.float64)
    squared = sums(holdout.user_idx, error**2, n_users)
    absolute = sums(holdout.user_idx, np.abs(error), n_users)
    return Metric("rmse", squared, weight, root=True), Metric("mae", absolute, weight)


# Lists ----------------------------------------------------------------------------------------------


def list_metrics(
    lists: Iterable[Lists],
    holdout: Holdout,
    *,
    relevant_rating: float,
    n_users: int,
    n_candidates: int,
    mean_rating: NDArray[np.float64] | None = None,
    k: int = K,
) -> dict[str, float]:
    """Accuracy and coverage of lists by name, without baselines, bands and intervals; see `judge`."""
    judged = judge(
        lists, holdout, relevant_rating=relevant_rating, n_users=n_users, mean_rating=mean_rating, k=k
    )
    found = {metric.name: _value(metric, slice(None)) for metric in judged.metrics}
    measured = float((judged.metrics[0].weight > 0).sum())
    covered = _n_listed(judged.listed) / max(n_candidates, 1)
    return found | {"coverage": covered, "users_measured": measured}


def judge(
    lists: Iterable[Lists],
    holdout: Holdout,
    *,
    relevant_rating: float,
    n_users: int,
    n_ratings: NDArray[np.int64] | None = None,
    n_raters: int | None = None,
    candidates: NDArray[np.bool_] | None = None,
    mean_rating: NDArray[np.float64] | None = None,
    predict: Predict | None = None,
    traits: Traits | None = None,
    mix: NDArray[np.float64] | None = None,
    k: int = K,
) -> Judged:
    """Metrics of the first k movies of lists that leave out the training ratings.

    A held-out movie is relevant from relevant_rating on, with binary gain; a user without one does
    not count in

        ndcg    sum over hits of 1 / log2(rank + 1), over its best value (Jarvelin and Kekalainen, 2002)
        recall  hits / relevant
        map     mean over min(k, relevant) of the precision at each hit
        mrr     1 / rank of the first hit

    with mean_rating [U], each user's own,

        disliked_share  of the listed movies that their user went on to rate,
        those rated below the user's own mean

    and with n_ratings [M] and candidates [M], over every user who has a list,

        novelty        mean self-information of the listed movies, -log2(share of users who rated it, of
                       n_raters), in bits (Zhou and others, 2010)
        popular_share  share of the listed movies that are popular (POPULAR_SHARE)
        stars          mean predicted rating of the listed movies, with predict
        diversity      with traits; and genre_distance with their genres and the users' mix of them:
                       `character.py`
    """
    listed = first_k(lists, n_users=n_users, k=k)
    liked = holdout.rating >= relevant_rating
    n_movies = 1 + int(max(holdout.movie_idx.max(initial=0), listed.max(initial=0)))
    pairs = np.sort(holdout.user_idx[liked].astype(np.int64) * n_movies + holdout.movie_idx[liked])
    relevant = np.bincount(holdout.user_idx[liked], minlength=n_users).astype(np.float64)
    hit = _hits(listed, pairs, n_movies=n_movies)
    rank = np.arange(1, k + 1)
    discount = 1 / np.log2(rank + 1)
    ideal = np.concatenate([[1.0], np.cumsum(discount)])[np.minimum(relevant, k).astype(np.int64)]
    at_most = np.clip(relevant, 1, k)
    precision_at_hit = hit * np.cumsum(hit, axis=1) / rank
    counted = (relevant > 0).astype(np.float64)
    found = [
        Metric(f"ndcg_at_{k}", (hit * discount).sum(axis=1) / ideal, counted),
        Metric(f"recall_at_{k}", hit.sum(axis=1) / np.maximum(relevant, 1), counted),
        Metric(f"map_at_{k}", precision_at_hit.sum(axis=1) / at_most, counted),
        Metric(f"mrr_at_{k}", (hit / rank).max(axis=1, initial=0.0), counted),
    ]
    if mean_rating is not None:
        found.append(_disliked(listed, holdout, mean_rating, k=k))
    if predict is not None:
        found.append(_stars_of_places(listed, predict, k=k))
    if n_ratings is not None and candidates is not None:
        found += _variety(listed, n_ratings, candidates, n_raters=n_raters or n_users, k=k)
    if traits is not None:
        found.append(_mean_of_known(f"diversity_at_{k}", character.diversity(listed, traits)))
        if mix is not None:
            distance = character.genre_distance(listed, mix, traits)
            found.append(_mean_of_known(f"genre_distance_at_{k}", distance))
    return Judged(tuple(found), listed)


def popular_movies(n_ratings: NDArray[np.int64], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The movies [M] that count as popular: POPULAR_SHARE of the candidates, those with most ratings,
    ties by row."""
    order = np.argsort(-np.where(candidates, n_ratings, -1), kind="stable")
    popular = np.zeros(candidates.size, dtype=np.bool_)
    popular[order[: int(np.ceil(candidates.sum() * POPULAR_SHARE))]] = True
    return popular


def _disliked(
    listed: NDArray[np.int32], holdout: Holdout, mean_rating: NDArray[np.float64], *, k: int
) -> Metric:
    n_movies = 1 + int(max(holdout.movie_idx.max(initial=0), listed.max(initial=0)))
    pairs = holdout.user_idx.astype(np.int64) * n_movies + holdout.movie_idx
    below = holdout.rating < mean_rating[holdout.user_idx]
    rated, disliked = (
        _hits(listed, np.sort(some), n_movies=n_movies).sum(axis=1).astype(np.float64)
        for some in (pairs, pairs[below])
    )
    return Metric(f"disliked_share_at_{k}", disliked, rated)


def _stars_of_places(listed: NDArray[np.int32], predict: Predict, *, k: int) -> Metric:
    user, column = np.nonzero(listed != NO_MOVIE)
    stars = predict(user, listed[user, column].astype(np.int64)).astype(np.float64)
    length = np.bincount(user, minlength=len(listed)).astype(np.float64)
    return Metric(
        f"stars_at_{k}", sums(user, stars, len(listed)) / np.maximum(length, 1), (length > 0).astype(float)
    )


def self_information(n_ratings: NDArray[np.int64], *, n_users: int) -> NDArray[np.float64]:
    """-log2 of the share of users who rated each movie [M], in bits."""
    n_raters = max(int(n_ratings.max(initial=1)), n_users)
    found: NDArray[np.float64] = np.log2(n_raters / np.maximum(n_ratings, 1))
    return found


def _variety(
    listed: NDArray[np.int32],
    n_ratings: NDArray[np.int64],
    candidates: NDArray[np.bool_],
    *,
    n_raters: int,
    k: int,
) -> list[Metric]:
    there = listed != NO_MOVIE
    length = there.sum(axis=1)
    information = self_information(n_ratings, n_users=n_raters)
    popular = popular_movies(n_ratings, candidates)
    has_list = (length > 0).astype(np.float64)
    of_length = np.maximum(length, 1)
    return [
        Metric(f"novelty_at_{k}", (information[listed] * there).sum(axis=1) / of_length, has_list),
        Metric(f"popular_share_at_{k}", (popular[listed] & there).sum(axis=1) / of_length, has_list),
    ]


def _mean_of_known(name: str, values: NDArray[np.float64]) -> Metric:
    """Over the users whose value is not NaN."""
    return Metric(name, np.nan_to_num(values), np.isfinite(values).astype(np.float64))


def first_k(lists: Iterable[Lists], *, n_users: int, k: int) -> NDArray[np.int32]:
    """The first k movies of each user [U, k], NO_MOVIE past an end."""
    listed = np.full((n_users, k), NO_MOVIE, dtype=np.int32)
    for batch in lists:
        first = batch.movie_idx[:, :k]
        listed[batch.first_user : batch.first_user + len(first), : first.shape[1]] = first
    return listed


def _hits(listed: NDArray[np.int32], pairs: NDArray[np.int64], *, n_movies: int) -> NDArray[np.bool_]:
    """Whether each listed movie is among the user's relevant ones [U, k]. pairs: sorted,
    user x n_movies + movie."""
    hit = np.zeros(listed.shape, dtype=np.bool_)
    if pairs.size == 0:
        return hit
    for start in range(0, len(listed), _CHUNK_USERS):
        movies = listed[start : start + _CHUNK_USERS].astype(np.int64)
        wanted = (np.arange(start, start + len(movies)) * n_movies)[:, None] + movies
        place = np.minimum(np.searchsorted(pairs, wanted), pairs.size - 1)
        hit[start : start + len(movies)] = (pairs[place] == wanted) & (movies != NO_MOVIE)
    return hit


# Bands and intervals --------------------------------------------------------------------------------


def activity_bands(activity: NDArray[np.int64], measured: NDArray[np.int32]) -> NDArray[np.int8]:
    """The band of each user [U], a place in BANDS. activity [U]: training ratings; measured:
    users of the holdout."""
    if measured.size == 0:
        return np.zeros(activity.size, dtype=np.int8)
    edges = np.quantile(activity[measured], [1 / 3, 2 / 3], method="lower")
    return np.searchsorted(edges, activity, side="left").astype(np.int8)


def _compared(
    ours: Sequence[Metric],
    theirs: Sequence[Metric],
    bands: NDArray[np.int8],
    activity: NDArray[np.int64],
    *,
    seed: int,
) -> list[Measure]:
    ends = intervals(ours, bands, seed=seed)
    baselines = {metric.name: metric for metric in theirs}
    found = []
    for number, metric in enumerate(ours):
        for band, mask in _masks(bands):
            counted = mask & (metric.weight > 0)
            if not counted.any():
                continue
            low, high = ends[band][number]
            baseline = _value(baselines[metric.name], mask)
            value = _value(metric, mask)
            found.append(
                Measure(metric.name, band, value, low, high, baseline, *_extent(counted, activity, mask))
            )
    return found


def _of_all_places(
    ours: NDArray[np.int32],
    theirs: NDArray[np.int32],
    bands: NDArray[np.int8],
    activity: NDArray[np.int64],
    *,
    candidates: NDArray[np.bool_],
) -> list[Measure]:
    """Coverage and Gini, which are no means over users."""
    n_candidates = int(candidates.sum())

    def places(listed: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.bincount(listed[listed != NO_MOVIE], minlength=candidates.size)[candidates]

    found = []
    for band, mask in _masks(bands):
        counted = mask & (ours != NO_MOVIE).any(axis=1)
        if counted.any():
            value, baseline = (_n_listed(listed[mask]) / max(n_candidates, 1) for listed in (ours, theirs))
            extent = _extent(counted, activity, mask)
            found.append(Measure("coverage", band, value, None, None, baseline, *extent))
            value, baseline = (character.gini(places(listed[mask])) for listed in (ours, theirs))
            found.append(Measure("gini", band, value, None, None, baseline, *extent))
    return found


def _value(metric: Metric, users: NDArray[np.bool_] | slice) -> float:
    weight = metric.weight[users]
    mean = float((metric.total[users] * (weight > 0)).sum() / max(weight.sum(), 1))
    return float(np.sqrt(mean)) if metric.root else mean


def _masks(bands: NDArray[np.int8]) -> list[tuple[str, NDArray[np.bool_]]]:
    return [(ALL, np.ones(bands.size, np.bool_)), *((b, bands == place) for place, b in enumerate(BANDS))]


def _extent(
    counted: NDArray[np.bool_], activity: NDArray[np.int64], mask: NDArray[np.bool_]
) -> tuple[int, int, int]:
    return int(counted.sum()), int(activity[mask].min()), int(activity[mask].max())


def _n_listed(listed: NDArray[np.int32]) -> int:
    return int(np.unique(listed[listed != NO_MOVIE]).size)
