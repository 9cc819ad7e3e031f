"""Rules of a shop over the lists: movies that are pushed, pinned to a place, held back where there are many
of a kind, and places that go to new movies.

    the movies table -> read: what its columns say, checked -> of: Rules, by the rows of the night's movies
    an order of movies, pins, new movies -> placed: the lists                            (rule_kernels.py)

A score gets its movie's boost before anything else. A list begins with a liked movie (`build.py`), then its
first places are filled under the caps, the last of them with new movies, and pinned ones take their places,
at which all others move down.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import tables
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.lists.rule_kernels import place
from cfjobs.ratings import catalogue
from cfjobs.tables.rules import ShopRules
from cfjobs.topn.problem import NO_MOVIE, Pairs

MOST_BOOST = 1e6
DRAWN_FROM = 4
"""New movies are drawn from so many times as many, the best for the user."""

_SETTINGS = ("boost_column", "pinned_column")
_OWN = ("movie_id", "user_id", "n_ratings")

NOT_A_SUM = (
    "movies: movies are boosted, but a network whose scores are no dot product cannot be; "
    "set rank_by=blend, or boost_column=null"
)

NAMES = (None, tables.PINNED, tables.NEW, tables.HELD_BACK)
"""What the column `rule` of `top_n` says of the codes of `rule_kernels.py`."""


# What the movies table says -------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """The columns of a movies table that rules go by, by its rows; None and empty where there are none.

    boost: float32, 0 without a value. pinned: int32, the place, 0 without one. values: of each column of
    `max_per`, the values of each movie.
    """

    boost: NDArray[np.float32] | None
    pinned: NDArray[np.int32] | None
    values: Mapping[str, Sequence[Sequence[str]]]

    @property
    def counts(self) -> dict[str, int]:
        """How many movies are boosted and pinned, where any is, for `runs.counts`."""
        found = {"boosted_movies": self.boost, "pinned_movies": self.pinned}
        return {
            name: int((column != 0).sum())
            for name, column in found.items()
            if column is not None and column.any()
        }


def named(config: Config) -> list[str]:
    """The columns of the movies table that a configuration looks for, for its rules."""
    names = [config.boost_column, config.pinned_column, *config.max_per]
    return list(dict.fromkeys(name for name in names if name is not None))


def read(movies: pl.DataFrame | None, config: Config) -> Columns:
    """What a movies table says of the rules.

    movies: movie_id and any further columns, a movie once; None where there is none. Raises InputError for a
    column of a wrong type or with a wrong value, and for one that a setting names and that is not there.
    """
    return Columns(
        _boost(movies, config),
        _pinned(movies, config),
        {name: _values(movies, name) for name in config.max_per},
    )


def _boost(movies: pl.DataFrame | None, config: Config) -> NDArray[np.float32] | None:
    column = _column(movies, "boost_column", config)
    if column is None or movies is None:
        return None
    if not column.dtype.is_numeric():
        raise InputError(
            f"movies: column {column.name!r} is {column.dtype}, expected numbers to add to the scores; cast it on export, or set boost_column=null"
        )
    number = column.cast(pl.Float64).fill_null(0.0).to_numpy()
    wrong = ~(np.abs(number) <= MOST_BOOST)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"movies: column {column.name!r} of movie {movies['movie_id'][row]} is {number[row]:g}, expected a number from -1e6 to 1e6; mend it on export, or set boost_column=null"
        )
    return number.astype(np.float32)


def _pinned(movies: pl.DataFrame | None, config: Config) -> NDArray[np.int32] | None:
    column = _column(movies, "pinned_column", config)
    if column is None or movies is None:
        return None
    if not column.dtype.is_numeric():
        raise InputError(
            f"movies: column {column.name!r} is {column.dtype}, expected places, whole numbers from 1; cast it on export, or set pinned_column=null"
        )
    number = column.cast(pl.Float64)
    wrong = (~(number.is_between(1, config.top_n) & (number == number.floor()))).fill_null(value=False)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise InputError(
            f"movies: column {column.name!r} of movie {movies['movie_id'][row]} is {column[row]}, expected a place of a list, from 1 to top_n = {config.top_n}; mend it on export, or set pinned_column=null"
        )
    return number.fill_null(0.0).to_numpy().astype(np.int32)


def _column(movies: pl.DataFrame | None, setting: str, config: Config) -> pl.Series | None:
    """The column that a setting names; None where it has no value, or is not there under the name of its
    default."""
    name = getattr(config, setting)
    if name is None:
        return None
    if movies is not None and name in movies.columns:
        column = movies[name]
        return None if column.null_count() == column.len() else column
    if name == Config.model_fields[setting].default:
        return None
    raise InputError(
        f"configuration key {setting}: got {name!r}, but the movies table {_lacks(movies)}; leave the key out, or name a column"
    )


def _values(movies: pl.DataFrame | None, name: str) -> Sequence[Sequence[str]]:
    """The values of each movie in a column, each once."""
    key = "configuration key max_per"
    if name in _OWN:
        raise InputError(f"{key}: {name!r} is a name of the job's own; name a column that describes movies")
    if movies is None:
        raise InputError(f"{key}: got {name!r}, but the movies table is not given; give it, or leave it out")
    return catalogue.values_by_row(movies, name, key=key)


def _lacks(movies: pl.DataFrame | None) -> str:
    return "is not given" if movies is None else f"has no such column (got {', '.join(movies.columns)})"


# Rules ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules by the rows of a model's movies.

    boost [M]: added to the scores; None for nothing. pinned, wanted [P]: movie rows, and the place of each,
    in order of place and row. values: of movie m `indices[indptr[m] : indptr[m + 1]]`, numbered over all
    columns; most [V]: how many of the first `places` may have a value. new_places: of these, for new movies,
    is_new [M]. draw: names the night whose draw it is, in the seed of each user's.
    """

    n_movies: int
    boost: NDArray[np.float32] | None
    pinned: NDArray[np.int32]
    wanted: NDArray[np.int32]
    values: Pairs
    most: NDArray[np.int64]
    places: int
    new_places: int
    is_new: NDArray[np.bool_]
    draw: str

    @property
    def unpinned(self) -> NDArray[np.bool_]:
        """False for a pinned movie [M]."""
        mask = np.ones(self.n_movies, np.bool_)
        mask[self.pinned] = False
        return mask

    @property
    def bytes_per_user(self) -> int:
        """What the pins and the new movies of a user take, about, beside the lists."""
        return 24 * self.pinned.size + (16 * self.n_pool if self.new_places else 0)

    @property
    def n_pool(self) -> int:
        """New movies that are asked for at first: those to draw from, more with caps that many may not fit
        under, and those that may stand in the first places."""
        return (8 if self.most.size else 1) * DRAWN_FROM * self.new_places + self.places

    def seeds(self, user_ids: Sequence[object]) -> NDArray[np.uint64]:
        """What each user's draw starts from [U]: by the night and the id alone."""
        digests = (
            hashlib.blake2b(f"{self.draw}\n{user}".encode(), digest_size=8).digest() for user in user_ids
        )
        return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)

    def as_published(self, movie_ids: pl.Series) -> ShopRules:
        """The rules as the published lists are held against them. movie_ids: by row."""
        movie = np.repeat(np.arange(self.n_movies), np.diff(self.values.indptr))
        value = self.values.indices
        return ShopRules(
            places=self.places,
            new_places=self.new_places,
            pinned=pl.DataFrame({"movie_id": movie_ids[self.pinned], "wanted": self.wanted}),
            values=pl.DataFrame({"movie_id": movie_ids[movie], "value": value, "most": self.most[value]}),
        )


def of(movies: pl.DataFrame, config: Config, *, n_ratings: NDArray[np.int64], run_date: date) -> Rules | None:
    """The rules of a night; None where there are none.

    movies: by row, with the columns of the movies table. n_ratings [M]: those that the model was trained on.
    Raises InputError as `read`.
    """
    found = read(movies, config)
    boost = found.boost if found.boost is not None and found.boost.any() else None
    place_of = np.zeros(movies.height, np.int32) if found.pinned is None else found.pinned
    some = np.flatnonzero(place_of)
    pinned = some[np.argsort(place_of[some], kind="stable")].astype(np.int32)
    if boost is None and not pinned.size and not config.max_per and not config.new_places:
        return None
    names = sorted({(name, value) for name, rows in found.values.items() for row in rows for value in row})
    number = {name: at for at, name in enumerate(names)}
    pairs = [
        (row, number[name, value])
        for name, rows in found.values.items()
        for row, values in enumerate(rows)
        for value in values
    ]
    movie, value = np.ascontiguousarray(np.array(pairs, np.int32).reshape(-1, 2).T)
    return Rules(
        n_movies=movies.height,
        boost=boost,
        pinned=pinned,
        wanted=place_of[pinned],
        values=Pairs.of(movie, value, n_users=movies.height),
        most=np.array([config.max_per[name] for name, _ in names], np.int64),
        places=config.rule_places,
        new_places=config.new_places,
        is_new=n_ratings <= config.new_max_ratings,
        draw=f"{config.seed} {run_date.isoformat()}",
    )


# Lists ----------------------------------------------------------------------------------------------


class Order(NamedTuple):
    """Movies of some users in order, without the pinned ones [B, W], NO_MOVIE past the end; whole [B]:
    whether nothing is behind them; own [B]: of the model."""

    movie_idx: NDArray[np.int32]
    score: NDArray[np.float32]
    whole: NDArray[np.bool_]
    own: NDArray[np.bool_]


class Pins(NamedTuple):
    """Pinned movies that users may get [B, P], in the order of the rules, and their scores."""

    may: NDArray[np.bool_]
    score: NDArray[np.float32]

    def of(self, users: slice | NDArray[np.int64]) -> "Pins":
        return Pins(self.may[users], self.score[users])


class New(NamedTuple):
    """The best new movies of users [B, Q], their scores; whole [B]: whether there are no more of them; and
    what each user's draw starts from [B]."""

    movie_idx: NDArray[np.int32]
    score: NDArray[np.float32]
    whole: NDArray[np.bool_]
    seed: NDArray[np.uint64]

    def of(self, users: slice | NDArray[np.int64]) -> "New":
        return New(self.movie_idx[users], self.score[users], self.whole[users], self.seed[users])


class Placed(NamedTuple):
    """Lists [B, N]: movies, scores, and codes of `NAMES`; short [B]: True where the order, or the new
    movies, are not deep enough, and the row means nothing."""

    movie_idx: NDArray[np.int32]
    score: NDArray[np.float32]
    rule: NDArray[np.int8]
    short: NDArray[np.bool_]

    def put(self, rows: NDArray[np.int64], found: "Placed") -> None:
        """Replace the lists of some rows."""
        self.movie_idx[rows], self.score[rows] = found.movie_idx, found.score
        self.rule[rows], self.short[rows] = found.rule, found.short


def slots(may: NDArray[np.bool_], wanted: NDArray[np.int32], *, n: int) -> NDArray[np.int64]:
    """The place of each pinned movie of users [B, P], in lists of n movies; 0 where it has none.

    may [B, P]; wanted [P], rising. A place that is taken makes the next free one of it.
    """
    before = np.cumsum(may, axis=1) - 1
    room = np.where(may, wanted - before, np.iinfo(np.int64).min // 2)
    found = np.maximum.accumulate(room, axis=1) + before if may.shape[1] else before
    return np.where(may & (found <= n), found, 0)


def placed(order: Order, pins: Pins, new: New, rules: Rules, *, n: int) -> Placed:
    """The lists of n movies that the rules make of an order."""
    shape = (len(order.movie_idx), n)
    found = Placed(
        np.full(shape, NO_MOVIE, np.int32),
        np.full(shape, -np.inf, np.float32),
        np.zeros(shape, np.int8),
        np.zeros(shape[0], np.bool_),
    )
    place(
        tuple(map(np.ascontiguousarray, order)),
        (rules.pinned, slots(pins.may, rules.wanted, n=n), np.ascontiguousarray(pins.score)),
        tuple(map(np.ascontiguousarray, new)),
        (rules.values.indptr, rules.values.indices, rules.most),
        (rules.places, rules.new_places, DRAWN_FROM * rules.new_places),
        tuple(found),
    )
    return found
