"""Scoring turned round: for every movie the users who fit it best, by the engine of the lists with roles
swapped.

A score is summed in the same order with the same numbers, so it is the same float32 number as in a user's
list:

    score(u, m) = <x_u, q_m> + b_m = <[q_m, b_m], [x_u, 1]>

and a network's first layer keeps its bias on the user's side, as the weight of a factor that is 1.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfjobs.models.network import DotScores, MlpScores
from cfjobs.topn.engine import top_n_batches
from cfjobs.topn.nets import net_of
from cfjobs.topn.problem import NO_MOVIE, Net, Pairs

NO_USER = NO_MOVIE


@dataclass
class Audiences:
    """The n best users of each movie so far. user_idx, score [M, n]: NO_USER and -inf where there are
    fewer."""

    n_movies: int
    n: int
    user_idx: NDArray[np.int64] = field(init=False)
    score: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        self.user_idx = np.full((self.n_movies, self.n), NO_USER, np.int64)
        self.score = np.full((self.n_movies, self.n), -np.inf, np.float32)

    def add(
        self,
        scores: DotScores | MlpScores,
        *,
        first_user: int,
        seen: Pairs,
        users: NDArray[np.bool_],
        **engine: Any,
    ) -> None:
        """Consecutive users [U] behind those so far. seen: pairs never listed; row 0 is the first of them.
        users [U]: False for one who must not be listed. engine: further options of `top_n_batches`."""
        owner = np.repeat(np.arange(len(seen.indptr) - 1, dtype=np.int32), np.diff(seen.indptr))
        turned = Pairs.of(seen.indices, owner, n_users=self.n_movies)
        ones = np.ones((scores.user.shape[0], 1), np.float32)
        user = np.hstack([scores.user.cpu().numpy(), ones])
        movie = scores.movie.cpu().numpy()
        if isinstance(scores, DotScores):
            movie = np.hstack([movie, scores.bias.cpu().numpy()[:, None]])
        else:
            engine = engine | {"net": _turned(net_of(scores))}
        found = top_n_batches(
            np.ascontiguousarray(movie),
            np.ascontiguousarray(user),
            n=self.n,
            seen=turned,
            candidates=users,
            device=str(scores.user.device),
            **engine,
        )
        for batch in found:
            movies = slice(batch.first_user, batch.first_user + len(batch.movie_idx))
            there = batch.movie_idx != NO_USER
            more = np.where(there, batch.movie_idx.astype(np.int64) + first_user, NO_USER)
            user_idx = np.hstack([self.user_idx[movies], more])
            score = np.hstack([self.score[movies], batch.score])
            best = np.argsort(-score, axis=1, kind="stable")[:, : self.n]
            self.user_idx[movies] = np.take_along_axis(user_idx, best, axis=1)
            self.score[movies] = np.take_along_axis(score, best, axis=1)


def _turned(net: Net) -> Net:
    """The same network over (movie embedding, user embedding and 1)."""
    return Net(
        user_weight=net.movie_weight,
        movie_weight=np.ascontiguousarray(np.hstack([net.user_weight, net.hidden_bias[:, None]])),
        hidden_bias=np.zeros_like(net.hidden_bias),
        middle=net.middle,
        output_weight=net.output_weight,
        output_bias=net.output_bias,
    )
