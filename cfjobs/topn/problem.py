"""What a scoring call is given, checked once: vectors, candidates, pairs that must not be listed,
a network."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import compiled

NO_MOVIE = -1
F32_MAX = float(np.finfo(np.float32).max)


class Rows(Protocol):
    """A matrix read by contiguous ranges of rows: an array, a memmap, a Zarr or HDF5 data set."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


class Pairs(NamedTuple):
    """(user, movie) pairs in compressed rows: user u has `indices[indptr[u]:indptr[u + 1]]`."""

    indptr: NDArray[np.int64]  # [U + 1]
    indices: NDArray[np.int32]  # [pairs], movie rows, ascending within a user

    @classmethod
    def of(cls, user_idx: NDArray[np.integer], movie_idx: NDArray[np.integer], *, n_users: int) -> "Pairs":
        """From pairs in any order."""
        return cls(*_compressed(user_idx, movie_idx, n_users, int(movie_idx.max(initial=-1)) + 1))

    def joined(self, other: "Pairs") -> "Pairs":
        """The pairs of both, each once."""
        n_users = len(self.indptr) - 1
        users = np.concatenate([self._users(), other._users()])
        movies = np.concatenate([self.indices, other.indices])
        span = int(movies.max(initial=0)) + 1
        users, movies = np.divmod(np.unique(users * span + movies), span)
        return Pairs.of(users, movies, n_users=n_users)

    def _users(self) -> NDArray[np.int64]:
        """The user of each pair."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def of_user(self, user: int) -> NDArray[np.int32]:
        """The movie rows of one user."""
        return self.indices[self.indptr[user] : self.indptr[user + 1]]


@compiled()
def _compressed(user_idx, movie_idx, n_users, n_movies):  # type: ignore[no-untyped-def]
    """The pairs by movie, then by user: each time in the order of the other, and no sort is needed."""
    place = np.zeros(n_movies + 1, np.int64)
    indptr = np.zeros(n_users + 1, np.int64)
    for t in range(len(user_idx)):
        place[movie_idx[t] + 1] += 1
        indptr[user_idx[t] + 1] += 1
    place, indptr = np.cumsum(place), np.cumsum(indptr)
    users = np.empty(len(user_idx), np.int32)
    for t in range(len(user_idx)):
        users[place[movie_idx[t]]] = user_idx[t]
        place[movie_idx[t]] += 1
    indices, at = np.empty(len(user_idx), np.int32), indptr[:-1].copy()
    first = 0
    for movie in range(n_movies):
        for t in range(first, place[movie]):
            indices[at[users[t]]] = movie
            at[users[t]] += 1
        first = place[movie]
    return indptr, indices


@dataclass(frozen=True)
class Lists:
    """The lists of users `first_user`, `first_user + 1`, ..."""

    first_user: int
    movie_idx: NDArray[np.int32]  # [B, N], NO_MOVIE where the list is shorter
    score: NDArray[np.float32]  # [B, N], -inf where the list is shorter


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network over (user embedding, movie embedding): score = w . relu(... relu(Wu p + Wm q + c)) + w0.

    The exact score: Wu p + c and Wm q are summed in order in float64 and rounded to float32 each;
    their float32 sum goes through relu; every later layer is summed in order in float64, its bias
    last, and rounded to float32.
    """

    user_weight: np.ndarray  # [H, Du] float32
    movie_weight: np.ndarray  # [H, Dm] float32
    hidden_bias: np.ndarray  # [H] float32
    middle: tuple[tuple[np.ndarray, np.ndarray], ...] = ()  # further hidden layers: [H', H], [H']
    output_weight: np.ndarray  # [H] of the last hidden layer, float32
    output_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call's checked input. `n` is the list length worked with, `width` the one asked for."""

    x: Rows
    q: np.ndarray  # [M, D]
    bias: np.ndarray  # [M]
    seen: Pairs | None
    listed: np.ndarray  # [candidates] movie rows that may be listed, rising
    net: Net | None
    users: range
    n: int
    width: int
    floor: float


def checked_matrix(a: np.ndarray, name: str, *, first_row: int = 0) -> np.ndarray:
    a = np.asarray(a)
    if a.ndim != 2 or a.dtype != np.float32 or a.shape[1] < 1:
        raise ValueError(f"{name}: {a.dtype} of shape {a.shape}, expected float32 [rows, factors]")
    if not np.isfinite(a).all():
        row = int(np.flatnonzero(~np.isfinite(a).all(axis=1))[0]) + first_row
        raise ValueError(f"{name}: row {row} holds NaN or infinity; did training diverge?")
    return np.ascontiguousarray(a)


def checked_vector(b: np.ndarray, n_movies: int) -> np.ndarray:
    b = np.asarray(b)
    if b.shape != (n_movies,) or b.dtype != np.float32:
        raise ValueError(f"movie_bias: {b.dtype} of shape {b.shape}, expected float32 [{n_movies}]")
    if not np.isfinite(b).all():
        row = int(np.flatnonzero(~np.isfinite(b))[0])
        raise ValueError(f"movie_bias: row {row} holds NaN or infinity; did training diverge?")
    return b


def checked_candidates(candidates: np.ndarray | None, n_movies: int) -> np.ndarray:
    if candidates is None:
        return np.arange(n_movies, dtype=np.int32)
    if candidates.shape != (n_movies,) or candidates.dtype != np.bool_:
        got = f"{candidates.dtype} of shape {candidates.shape}"
        raise ValueError(f"candidates: {got}, expected bool [{n_movies}]")
    return np.flatnonzero(candidates).astype(np.int32)


def check_pairs(seen: Pairs, *, n_users: int) -> None:
    indptr = seen.indptr
    if indptr.shape != (n_users + 1,) or indptr[0] != 0 or indptr[-1] != len(seen.indices):
        raise ValueError(f"seen: indptr does not run from 0 to {len(seen.indices)} over {n_users} users")
    if (np.diff(indptr) < 0).any():
        raise ValueError("seen: indptr falls; expected it to rise")


def check_net(net: Net, *, user_factors: int, movie_factors: int) -> None:
    hidden = len(net.hidden_bias)
    expected: list[tuple[str, np.ndarray, tuple[int, ...]]] = []
    expected += [("user_weight", net.user_weight, (hidden, user_factors))]
    expected += [("movie_weight", net.movie_weight, (hidden, movie_factors))]
    expected += [("hidden_bias", net.hidden_bias, (hidden,))]
    for layer, (weight, layer_bias) in enumerate(net.middle):
        expected += [(f"middle[{layer}] weight", weight, (len(layer_bias), hidden))]
        hidden = len(layer_bias)
        expected += [(f"middle[{layer}] bias", layer_bias, (hidden,))]
    expected += [("output_weight", net.output_weight, (hidden,))]
    for name, array, shape in expected:
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"net.{name}: {array.dtype} of shape {array.shape}, expected float32 {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"net.{name} holds NaN or infinity; did training diverge?")
    if not math.isfinite(net.output_bias):
        raise ValueError("net.output_bias is NaN or infinite; did training diverge?")


def user_rows(job: Job, first: int, last: int) -> np.ndarray:
    """The rows that meet the movies' rows: embeddings, or the network's first layer of them."""
    rows = checked_matrix(job.x[first:last], "user vectors x", first_row=first)
    if job.net is not None:
        rows = affine(rows, job.net.user_weight, job.net.hidden_bias)
        if not np.isfinite(rows).all():
            raise ValueError("the net's first layer passes the largest float32 for some user")
    return rows


def movie_rows(job: Job) -> np.ndarray:
    if job.net is None:
        return job.q
    rows = affine(job.q, job.net.movie_weight, np.zeros(len(job.net.hidden_bias), np.float32))
    if not np.isfinite(rows).all():
        raise ValueError("the net's first layer passes the largest float32 for some movie")
    return rows


def affine(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """rows @ weight.T + bias, [R, H]: summed in order in float64, bias last, rounded to float32."""
    total = np.zeros((len(rows), len(weight)))
    for d in range(rows.shape[1]):
        total += rows[:, d, None].astype(np.float64) * weight[None, :, d].astype(np.float64)
    with np.errstate(over="ignore"):
        return (total + bias.astype(np.float64)).astype(np.float32)


def empty_lists(users: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """movie_idx and score of lists without a movie."""
    return np.full((users, n), NO_MOVIE, np.int32), np.full((users, n), -np.inf, np.float32)


Slice = tuple[np.ndarray, np.ndarray]
NO_PAIRS = np.empty(0, np.int32)


def pairs_among(pairs: Slice, users: np.ndarray) -> Slice:
    """indptr and indices of these users alone."""
    indptr, indices = pairs
    taken = [indices[indptr[u] : indptr[u + 1]] for u in users]
    return np.cumsum([0] + [len(t) for t in taken]), np.concatenate(taken)


def pairs_of(pairs: Pairs | None, first: int, last: int, n_movies: int) -> Slice:
    """indptr and indices of users first..last-1 alone."""
    if pairs is None:
        return np.zeros(last - first + 1, np.int64), NO_PAIRS
    indptr = np.asarray(pairs.indptr[first : last + 1], np.int64)
    indices = np.ascontiguousarray(pairs.indices[indptr[0] : indptr[-1]], np.int32)
    if len(indices) and (indices.min() < 0 or indices.max() >= n_movies):
        raise ValueError(f"seen pairs name movie {indices.max()}, expected 0..{n_movies - 1}")
    return indptr - indptr[0], indices


def check_range(largest: float) -> None:
    """ValueError where a score may pass the largest float32."""
    if largest > F32_MAX:
        raise ValueError(f"scores may reach {largest:.1e}, above the largest float32; did training diverge?")
