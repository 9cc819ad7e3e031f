"""The popularity lists and their order, against plain loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cfjobs.lists.popularity import first_unseen, popularity_order, recent_ratings
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


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 20)), min_size=1, max_size=40), st.integers(1, 25)
)
def test_a_window_orders_by_its_ratings_and_is_filled_by_those_of_all_time(
    rated: list[tuple[int, int]], days: int
) -> None:
    """rated: movie, day."""
    movie, day = (np.array([pair[side] for pair in rated]) for side in (0, 1))
    at = 1_772_366_400_000_000 + day * 86_400_000_000
    n_recent = recent_ratings(movie.astype(np.int32), at, newest=at.max(), days=days, n_movies=8)
    late = day > day.max() - days
    assert n_recent.tolist() == [int((late & (movie == m)).sum()) for m in range(8)]
    n_ratings = np.bincount(movie, minlength=8)
    wanted = sorted(
        range(8),
        key=lambda m: (-int(n_recent[m]), 0 if n_recent[m] else -int(n_ratings[m]), m),
    )
    assert popularity_order(n_ratings, n_recent).tolist() == wanted
    if days > 20:
        assert np.array_equal(popularity_order(n_ratings, n_recent), np.argsort(-n_ratings, kind="stable"))
