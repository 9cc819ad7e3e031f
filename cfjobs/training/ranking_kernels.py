"""The compiled loops of a step of the ranking network on a processor: what a batch touches, and how the
embeddings of the users' histories move. `ranking_batch.py` has the products between them."""

import numpy as np

from cfjobs.compiled import compiled
from cfjobs.models.prefetch import fetch

_AHEAD = 4  # rows: what is brought near


@compiled()
def targets(cut, stop, movie_idx, value, drawn, n_movies, next_n):  # type: ignore[no-untyped-def]
    """The `next_n` ratings from cut [B] on, at most up to stop [B], among the candidates: those ratings'
    movies and the drawn ones [N].

    Returns the candidates [C], ascending; of each user's targets the place among them [B, T] and what they
    are worth [B, T], which sums to 1; and the number of targets.
    """
    shape = (len(cut), next_n)
    column, worth = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    place = np.full(n_movies, -1, np.int64)
    n = 0
    for i in range(len(drawn)):
        place[drawn[i]] = 0
    for b in range(len(cut)):
        total = np.float32(0)
        there = min(next_n, stop[b] - cut[b])
        for t in range(there):
            place[movie_idx[cut[b] + t]] = 0
            worth[b, t] = value[cut[b] + t]
            total += worth[b, t]
        worth[b] /= max(total, np.float32(1e-6))
        n += there
    candidates, n_candidates = np.empty(len(drawn) + n, np.int64), 0
    for m in range(n_movies):
        if place[m] == 0:
            candidates[n_candidates], place[m] = m, n_candidates
            n_candidates += 1
    for b in range(len(cut)):
        for t in range(min(next_n, stop[b] - cut[b])):
            column[b, t] = place[movie_idx[cut[b] + t]]
    return candidates[:n_candidates].copy(), column, worth, n


@compiled()
def by_movie(movie, weight, offsets, n_movies):  # type: ignore[no-untyped-def]
    """The histories of a batch by movie instead of by user: the movies [T] in them, ascending; where the
    users of each begin [T + 1]; and those users [H], with their weights [H]."""
    count = np.zeros(n_movies, np.int64)
    n_touched = 0
    for h in range(len(movie)):
        n_touched += count[movie[h]] == 0
        count[movie[h]] += 1
    touched, first = np.empty(n_touched, np.int64), np.zeros(n_touched + 1, np.int64)
    t = 0
    for m in range(n_movies):
        if count[m]:
            touched[t], first[t + 1] = m, first[t] + count[m]
            count[m] = first[t]
            t += 1
    user, weights = np.empty(len(movie), np.int64), np.empty(len(movie), np.float32)
    for b in range(len(offsets)):
        for h in range(offsets[b], offsets[b + 1] if b + 1 < len(offsets) else len(movie)):
            at = count[movie[h]]
            user[at], weights[at] = b, weight[h]
            count[movie[h]] += 1
    return touched, first, user, weights


@compiled(error_model="numpy", fastmath={"contract", "nsz"})
def move_histories(  # type: ignore[no-untyped-def]
    table, mean, square, touched, first, user, weight, grad_BD,
    keep_mean, keep_square, rate, scale, eps, begin, end,
):  # fmt: skip
    """Adam for the embeddings of movies touched[begin:end], whose gradient is the weighted sum of those of
    the users' vectors, grad [B, D]: see `sparse_adam.py`."""
    width = table.shape[1]
    g = np.empty(width, np.float32)
    for t in range(begin, end):
        soon = touched[min(t + _AHEAD, end - 1)] * width
        fetch(table, soon, soon + width)
        fetch(mean, soon, soon + width)
        fetch(square, soon, soon + width)
        row = touched[t]
        g[:] = 0
        for h in range(first[t], first[t + 1]):
            x, w = grad_BD[user[h]], weight[h]
            for d in range(width):
                g[d] += w * x[d]
        for d in range(width):
            m = mean[row, d] + keep_mean * (g[d] - mean[row, d])
            v = square[row, d] + keep_square * (g[d] * g[d] - square[row, d])
            mean[row, d] = m
            square[row, d] = v
            table[row, d] -= rate * m / (np.sqrt(v) * scale + eps)
