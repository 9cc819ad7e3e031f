"""What a list is like by itself: how different its movies are, and how its genres match those of its user's
ratings.

diversity        1 - mean cosine between the embeddings of two of its movies (Ziegler and others, 2005)
genre_distance   1/2 sum over genres of |share in the list - share in the user's ratings|: of the mix of
                 genres, what would have to change for the list to be calibrated (Steck, 2018, with total
                 variation in place of the divergence, so that it is a share)
gini             of the places over the movies that could be listed: 0 all equally often, 1 all to one movie
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import compiled
from cfjobs.topn.problem import NO_MOVIE

_CHUNK_LISTS = 8_192


@dataclass(frozen=True)
class Traits:
    """What is known of the movies. unit [M, D]: their embeddings at length 1, or 0. genres [M, G]: their
    shares in each genre, or None."""

    unit: NDArray[np.float32]
    genres: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, vectors: NDArray[np.float32], genres: NDArray[np.float64] | None) -> "Traits":
        """From embeddings [M, D] of any length."""
        length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        unit = np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0)
        return cls(unit.astype(np.float32), genres)


def diversity(listed: NDArray[np.int32], traits: Traits) -> NDArray[np.float64]:
    """Of each list [B], 0 to 2; NaN for fewer than two movies. listed [B, k]: NO_MOVIE past an end."""
    found = np.full(len(listed), np.nan)
    for start in range(0, len(listed), _CHUNK_LISTS):
        movies = listed[start : start + _CHUNK_LISTS]
        there = movies != NO_MOVIE
        vectors = traits.unit[movies] * there[:, :, None]
        together = vectors.sum(axis=1, dtype=np.float64)
        n = there.sum(axis=1)
        pairs = (n * (n - 1)).astype(np.float64)
        own = np.einsum("bkd,bkd->b", vectors, vectors, dtype=np.float64)
        cosines = np.einsum("bd,bd->b", together, together) - own
        np.divide(pairs - cosines, pairs, out=found[start : start + len(movies)], where=pairs > 0)
    return found


def genre_mix(
    user_idx: NDArray[np.integer], movie_idx: NDArray[np.integer], traits: Traits, *, n_users: int
) -> NDArray[np.float64]:
    """The genres of what users rated [U, G], summed. user_idx, movie_idx [R]: rows, sorted by user."""
    assert traits.genres is not None
    mix = np.zeros((n_users, traits.genres.shape[1]))
    movie, genre = np.nonzero(traits.genres)
    first = np.searchsorted(movie, np.arange(len(traits.genres) + 1))
    _add_genres(user_idx, movie_idx, first, genre, traits.genres[movie, genre], mix)
    return mix


@compiled()
def _add_genres(user_idx, movie_idx, first, genre, share, mix):  # type: ignore[no-untyped-def]
    """Add the shares of the genres that each movie has, from first [M + 1] on."""
    for t in range(len(user_idx)):
        for g in range(first[movie_idx[t]], first[movie_idx[t] + 1]):
            mix[user_idx[t], genre[g]] += share[g]


def genre_distance(
    listed: NDArray[np.int32], mix: NDArray[np.float64], traits: Traits
) -> NDArray[np.float64]:
    """Of each list [B], 0 to 1; NaN where either side has no genre. mix [B, G]: of `genre_mix`."""
    assert traits.genres is not None
    there = listed != NO_MOVIE
    of_list = np.zeros(mix.shape)
    for place in range(listed.shape[1]):
        of_list += traits.genres[listed[:, place]] * there[:, place, None]
    mass = [side.sum(axis=1) for side in (mix, of_list)]
    known = (mass[0] > 0) & (mass[1] > 0)
    shares = [
        side / np.where(known, total, 1.0)[:, None] for side, total in zip((mix, of_list), mass, strict=True)
    ]
    return np.where(known, np.abs(shares[0] - shares[1]).sum(axis=1) / 2, np.nan)


def gini(places: NDArray[np.int64]) -> float:
    """Of numbers of places [movies that could be listed]; 0 without a place."""
    total, n = int(places.sum()), places.size
    if not total:
        return 0.0
    rising = np.sort(places).astype(np.float64)
    return float(2 * (np.arange(1, n + 1) * rising).sum() / (n * total) - (n + 1) / n)
