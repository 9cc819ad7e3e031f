"""What a training holds in memory, in bytes: derived from the code, held to by
tests/training/test_footprint.py.

A training says so before it starts, and is refused where it cannot fit (`check_fits`).

A parameter trained by batches costs 20 bytes: float32 for itself, its gradient, Adam's two moments,
and the best weights so far.
"""

from dataclasses import dataclass

from cfjobs.config import Config
from cfjobs.errors import InputError

_PARAMETER = 5 * 4
_EXAMPLE = 8 + 8 + 4 + 4 + 8  # user, movie, rating, how much it counts; its place in the epoch's order
_ROW = 4 + 4 + 4 + 4  # the first four of these, a rating at a time
_VALUE = 4  # of a rating, beside what is usual
_PAIR = 2 * 2 * (16 + 4) + 8 + 2 * 4
# Of a sum: row, column (torch keeps both) and value, two in the matrix and in its transpose; the pair and
# its values.
_EVENT = 4 + 4 + 4  # of the ranking network: movie, rating, worth as a target


@dataclass(frozen=True)
class Footprint:
    """Bytes for each rating, user and movie, and for each pair that is in the sums of users and movies."""

    rating: int
    user: int
    movie: int
    pair: int = 0

    def bytes(self, *, ratings: int, users: int, movies: int, pairs: int = 0) -> int:
        return self.rating * ratings + self.user * users + self.movie * movies + self.pair * pairs


def of_rating_network(config: Config) -> Footprint:
    """Of the rating network: dot_raters, dot_bias, dot or net."""
    width = config.n_factors
    if config.model == "dot_raters":
        member_rows = config.ensemble * (width + 1)
        # The table, and that of twice the width which is summed; a row of its own matrix of sums, two of the
        # other side's transpose.
        each = 3 * member_rows * _PARAMETER + 8 + 16
        return Footprint(_EXAMPLE + _VALUE, each, each, _PAIR)
    row = width + (1 if config.model == "dot_bias" else 0)
    return Footprint(_EXAMPLE, row * _PARAMETER, row * _PARAMETER)


def of_dot_raters_by_blocked_sgd(config: Config) -> Footprint:
    """Of `dot_raters` trained a rating at a time: no gradients of whole tables, moments for the rows that are
    summed alone."""
    row = 4 * config.ensemble * (config.n_factors + 1)
    squares = 2 * 4 * config.ensemble
    # The table, its best, the sum, its gradient; of twice the width the table that is summed, its best, what
    # the own part takes off, two moments; and lot, ratings, first of those whose sums it is in; last lot,
    # weight, first of its own sum.
    each = (4 + 2 * 5) * row + squares + (4 + 4 + 8) + (4 + 4 + 8)
    return Footprint(_ROW + _VALUE + 20, each, each, 2 * (4 + 4))


def of_ranking_network(config: Config) -> Footprint:
    """Of the ranking network: no parameters for users, no gradients of whole tables, no best weights."""
    row = 4 * (2 * config.ranking_factors + 1)
    user = 8 + 4 + 8 + 8  # where the history begins, the mean, a place among the users and in the queue
    return Footprint(_EVENT, user, 3 * row + 4)  # itself, two moments; the popularity


def least(config: Config, *, ratings: int, users: int, movies: int) -> int:
    """Bytes that the training of both networks, one after the other, takes at least."""
    sizes = {"ratings": ratings, "users": users, "movies": movies}
    pairs = min(ratings, movies * config.max_raters, _MAX_PAIRS)
    rating = of_rating_network(config).bytes(**sizes, pairs=pairs)
    if config.feedback == "implicit":
        rating = 0
    elif config.model == "dot_raters":
        rating = min(rating, of_dot_raters_by_blocked_sgd(config).bytes(**sizes, pairs=pairs))
    ranking = 0 if config.rank_by == "rating" else of_ranking_network(config).bytes(**sizes)
    return max(rating, ranking)


_MAX_PAIRS = 4_000_000  # of raters and movies, as `max_raters` says


def check_fits(needed: int, *, there: float, where: str) -> None:
    """InputError when a training takes more memory than there is; `where` says of what."""
    if needed > there:
        raise InputError(
            f"training takes {needed / 1e9:.1f} GB at least, and {there / 1e9:.1f} GB are left {where}; lower n_factors, "
            "ranking_factors or ensemble, leave out users and movies with few ratings, or train on a larger machine"
        )
