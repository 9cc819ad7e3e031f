"""How good a model is on the ratings that were held out: stars (RMSE, MAE) and lists (nDCG, recall, coverage)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfjobs.score import NO_MOVIE, Lists, Pairs

K = 10


@dataclass(frozen=True)
class Holdout:
    """Held-out ratings. user_idx, movie_idx [R] int32; rating [R] float32."""

    user_idx: NDArray[np.int32]
    movie_idx: NDArray[np.int32]
    rating: NDArray[np.float32]


def star_metrics(predicted: NDArray[np.float32], rating: NDArray[np.float32]) -> dict[str, float]:
    """rmse and mae, in stars, of predictions [R] for ratings [R]."""
    error = predicted.astype(np.float64) - rating
    return {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}


def list_metrics(
    lists: Iterable[Lists],
    holdout: Holdout,
    *,
    relevant_rating: float,
    n_users: int,
    n_candidates: int,
    k: int = K,
) -> dict[str, float]:
    """nDCG@k, recall@k and coverage@k of lists that leave out the training ratings.

    A held-out movie is relevant from relevant_rating on; a user without one does not count. Gain is binary:
    DCG@k = sum over hits of 1 / log2(rank + 1), over its best value for that user (Jarvelin and Kekalainen,
    2002). recall@k = hits / relevant. coverage = share of the candidates that are in anybody's list of k.
    """
    liked = holdout.rating >= relevant_rating
    relevant = Pairs.of(holdout.user_idx[liked], holdout.movie_idx[liked], n_users=n_users)
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[0.0], np.cumsum(discount)])
    n_measured, ndcg, recall = 0, 0.0, 0.0
    listed: set[int] = set()
    for batch in lists:
        top = batch.movie_idx[:, :k]
        listed.update(np.unique(top[top != NO_MOVIE]).tolist())
        for row, movies in enumerate(top):
            wanted = relevant.of_user(batch.first_user + row)
            if wanted.size == 0:
                continue
            hit = np.isin(movies, wanted)
            n_measured += 1
            ndcg += float(discount[: hit.size][hit].sum() / best[min(k, wanted.size)])
            recall += float(hit.sum() / wanted.size)
    share = 1 / max(n_measured, 1)
    return {
        f"ndcg_at_{k}": ndcg * share,
        f"recall_at_{k}": recall * share,
        "coverage": len(listed) / max(n_candidates, 1),
        "users_measured": float(n_measured),
    }


def relevant_from(y_range: tuple[float, float]) -> float:
    """The rating from which a movie counts as liked: 7/9 of the way up the range, 4 of 0.5..5."""
    low, high = y_range
    return low + (high - low) * 7 / 9
