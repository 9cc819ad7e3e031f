"""The popularity lists, against a plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cfjobs.lists.popularity import first_unseen
from cfjobs.topn.problem import NO_MOVIE, Pairs


@given(
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 11)), max_size=60),
    st.permutations(range(12)),
    st.integers(0, 12),
    st.integers(1, 15),
    st.integers(0, 6),
)
def test_lists_are_those_of_a_loop(
    pairs: set[tuple[int, int]], movies: list[int], n_candidates: int, n: int, start: int
) -> None:
    order = np.array(movies[:n_candidates], np.int32)
    user, movie = (np.array([pair[side] for pair in sorted(pairs)], np.int32) for side in (0, 1))
    seen = Pairs.of(user, movie, n_users=6)
    found = first_unseen(order, seen, users=range(start, 6), n=n)
    for row, user_idx in enumerate(range(start, 6)):
        unseen = [m for m in order.tolist() if (user_idx, m) not in pairs][:n]
        assert found[row].tolist() == unseen + [NO_MOVIE] * (n - len(unseen))
