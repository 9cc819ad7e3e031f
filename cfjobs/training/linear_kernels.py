"""The compiled loop of `linear.py`: products of sparse matrices, a row at a time in the nearest cache."""

import numpy as np

from cfjobs.compiled import compiled


@compiled()
def add_products(rows, first, users, offsets, column, value, gram, target, begin, end):  # type: ignore[no-untyped-def]
    """X'X and X'Y [m, m], rows[begin:end] of them. column, value: of the ratings, by user from offsets
    [U + 1]; users: those with the movie rows[t], from first[t] to first[t + 1]."""
    row = np.empty((gram.shape[1], 2), np.float32)
    for t in range(begin, end):
        row[:] = 0
        for u in users[first[t] : first[t + 1]]:
            for i in range(offsets[u], offsets[u + 1]):
                row[column[i], 0] += np.float32(1)
                row[column[i], 1] += value[i]
        for c in range(len(row)):
            gram[rows[t], c], target[rows[t], c] = row[c, 0], row[c, 1]
