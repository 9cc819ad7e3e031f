"""Choosing and liking in one score: how likely the user is to choose a movie, and how they would rate it.

    score(u, m) = affinity(u, m) + weight x stars(u, m)

Affinity is a log-probability of choosing, up to a constant of the user. stars is the rating network's sum in
stars, straightened: its slope in the middle of the rating range times <p_u, v_m> + c_m, without the terms of
the user alone. Both are dot products, so the score is one, over vectors that stand end to end:

    <x_u, q_m> + b_m + k (<p_u, v_m> + c_m)  =  <[x_u, p_u], [q_m, k v_m]> + (b_m + k c_m),
    k = weight x slope
"""

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict

from cfjobs.models.network import DotScores

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""What a night chooses from."""

TYPICAL = 0.75
"""The weight where too few users are there to choose one."""

LEAST_USERS = 100
"""Users with a relevant movie in the inner split, below which the typical weight is taken."""


class Blend(BaseModel):
    """A weight of the stars, and why: nDCG@10 of each weight tried, on this many users of an inner split."""

    model_config = ConfigDict(frozen=True)

    weight: float
    tried: dict[float, float] = {}
    users: int = 0


def joined(affinity: DotScores, stars: DotScores, *, factor: float) -> DotScores:
    """affinity + factor x stars as one dot product. Both are of the same users and movies."""
    return DotScores(
        torch.cat([affinity.user, stars.user], dim=1),
        torch.cat([affinity.movie, factor * stars.movie], dim=1),
        affinity.bias + factor * stars.bias,
    )


def chosen(ndcg: Mapping[float, float]) -> float:
    """The largest weight that keeps half of what the best one gains over affinity alone; 0 where none gains.

    nDCG rewards liking only through what was rated 4 or more; beyond its peak the lists go on losing movies
    that their users would rate below their own mean, so the weight goes as far as half of the gain allows.
    """
    alone, best = ndcg[0.0], max(ndcg.values())
    if best <= alone:
        return 0.0
    return max(weight for weight, value in ndcg.items() if value >= alone + 0.5 * (best - alone))


def kept(last: float | None, tonight: float) -> float:
    """Last night's weight while tonight's is within a factor of two of it: nDCG is flat there,
    and lists stay."""
    if last and last / 2 <= tonight <= last * 2:
        return last
    return tonight
