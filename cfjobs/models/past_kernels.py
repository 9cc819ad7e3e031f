"""What users rated before some moment, and what it counts for: the compiled loop of `Past.before`."""

import numpy as np

from cfjobs.compiled import compiled


@compiled(error_model="numpy", fastmath={"contract", "nsz"})
def past(users, start, end, movie_idx, rating, mean, drawn, least, taste, half):  # type: ignore[no-untyped-def]
    """Movies [H], weights [H] and where each user's part begins [B], of the rows start [B] to end [B].

    drawn: a number for each of these rows, which is left out below `least`; empty where all are kept.
    """
    one, n = np.float32(1), 0
    for b in range(len(users)):
        n += end[b] - start[b]
    movie, weight = np.empty(n, np.int64), np.empty(n, np.float32)
    offsets = np.empty(len(users), np.int64)
    at = kept = 0
    for b in range(len(users)):
        offsets[b] = first = kept
        of_user, total = mean[users[b]], np.float32(0)
        for row in range(start[b], end[b]):
            w = one + taste * (rating[row] - of_user)
            w /= one + np.float32(end[b] - 1 - row) / half
            movie[kept], weight[kept] = movie_idx[row], w
            stays = len(drawn) == 0 or drawn[at] >= least
            total += abs(w) if stays else np.float32(0)
            kept += stays
            at += 1
        total = max(total, np.float32(1e-6))
        for i in range(first, kept):
            weight[i] /= total
    return movie[:kept].copy(), weight[:kept].copy(), offsets
