"""What changed: ten places against ten, of users with a list on both nights."""

import polars as pl

from cfjobs.evaluation import churn


def lists(**of_users: list[int]) -> pl.DataFrame:
    rows = [(user, rank, movie) for user, movies in of_users.items() for rank, movie in enumerate(movies, 1)]
    return pl.DataFrame(rows, schema=["user_id", "rank", "movie_id"], orient="row")


def test_what_counts_as_new_is_told_by_the_first_ten_of_both_nights() -> None:
    eleven = list(range(11))
    before = lists(ann=eleven, bob=[1, 2, 3], gone=[1, 2])
    tonight = lists(ann=[10, *range(9)], bob=[3, 2, 9, 8], new=[5])
    found = churn.changes(tonight, before)
    assert found.rows() == [("ann", 10, 1), ("bob", 4, 2)]


def test_nobody_with_a_list_on_both_nights_is_no_churn() -> None:
    assert churn.changes(lists(ann=[1]), lists(bob=[1])).is_empty()
    assert churn.changes(lists(ann=[1, 2]), lists(ann=[2, 1])).rows() == [("ann", 2, 0)]
