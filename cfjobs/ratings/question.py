"""Which question ratings can be asked: what comes next, or what else belongs in a profile.

next   the times of a user's ratings put them in order: the later ones are held out,
       and the lists go on from the latest
any    they do not, because there are no times or they are those of a bulk load: random ones are held out
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import compiled

Question = Literal["next", "any"]

LEAST_ORDERED = 0.05
"""Of the neighbours in users' histories, those at different times; with fewer,
the order is that of the tables."""


def question_of(user_idx: NDArray[Any], timestamp: NDArray[Any]) -> Question:
    """The question that the times allow. Both [R], sorted by user and, within a user, by time."""
    return question_by(ordered_share(user_idx, timestamp))


def question_by(share: float) -> Question:
    """The question that the times allow. share: as `ordered_share`."""
    return "next" if share >= LEAST_ORDERED else "any"


def ordered_share(user_idx: NDArray[Any], timestamp: NDArray[Any]) -> float:
    """Of the pairs of a user's neighbouring ratings, those at different times; 0 without a pair."""
    pairs, different = neighbours(user_idx, timestamp)
    return different / pairs if pairs else 0.0


def neighbours(user_idx: NDArray[Any], timestamp: NDArray[Any]) -> tuple[int, int]:
    """The pairs of a user's neighbouring ratings, and how many are at different times; as above."""
    pairs, different = _count(user_idx, timestamp.astype(np.int64, copy=False))
    return int(pairs), int(different)


@compiled()
def _count(user, timestamp):  # type: ignore[no-untyped-def]
    pairs = different = 0
    for i in range(1, user.size):
        if user[i] == user[i - 1]:
            pairs += 1
            different += timestamp[i] != timestamp[i - 1]
    return pairs, different
