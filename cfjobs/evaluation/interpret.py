"""What a trained model knows about movies: a map of them, and which are alike.

The lesson's interpretation: movie biases, principal components of the embeddings, nearest movies.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from cfjobs.models.network import DotScores
from cfjobs.topn import top_n
from cfjobs.topn.problem import Lists, Pairs

N_SIMILAR = 50


def principal_components(
    vectors_MD: NDArray[np.float32], *, weight: NDArray[np.float64], n: int = 2
) -> NDArray[np.float32]:
    """The first n principal components [M, n] of the vectors, each movie weighing weight [M].

    Centred by weight. A component's sign is free; it is turned so that its mean weighted once more is not
    negative. Vectors of fewer than n dimensions, or all alike, get zeros for what is missing.
    """
    vectors = vectors_MD.astype(np.float64)
    share = weight / max(float(weight.sum()), 1e-12)
    centred = vectors - share @ vectors
    _, axes = np.linalg.eigh((centred * share[:, None]).T @ centred)
    found = centred @ axes[:, ::-1][:, :n]
    skew = (share[:, None] * found * np.abs(found)).sum(axis=0)
    found = found * np.where(skew < 0, -1.0, 1.0)
    return np.pad(found, ((0, 0), (0, n - found.shape[1]))).astype(np.float32)


def similar_movies(
    vectors_MD: NDArray[np.float32],
    *,
    candidates: NDArray[np.bool_],
    of: NDArray[np.int64] | None = None,
    n: int = N_SIMILAR,
) -> Iterator[Lists]:
    """For each movie the n others of the candidates with the greatest cosine, block after block; exact.

    A list's movies are rows of vectors_MD and its score the cosine; a vector of length 0 is like none,
    cosine 0. of: rows of the movies that get lists, in this order; all by default.
    """
    length = np.linalg.norm(vectors_MD.astype(np.float64), axis=1, keepdims=True)
    unit_MD = torch.from_numpy((vectors_MD / np.where(length > 0, length, 1)).astype(np.float32))
    of = np.arange(len(unit_MD)) if of is None else of
    alone = Pairs(np.arange(of.size + 1, dtype=np.int64), of.astype(np.int32))
    scores = DotScores(unit_MD[torch.from_numpy(of)], unit_MD, torch.zeros(len(unit_MD)))
    for lists in top_n(scores, n=n, seen=alone, candidates=candidates):
        yield Lists(lists.first_user, lists.movie_idx, np.clip(lists.score, -1, 1))
