"""Choosing and liking in one score: how likely the user is to choose a movie, and how they would rate it.

    score(u, m) = affinity(u, m) + weight x stars(u, m)

Affinity is a log-probability of choosing, up to a constant of the user. stars is the rating network's sum in
stars, straightened: its slope in the middle of the rating range times <p_u, v_m> + c_m, without the terms of
the user alone. Both are dot products, so the score is one, over vectors that stand end to end:

    <x_u, q_m> + b_m + k (<p_u, v_m> + c_m)  =  <[x_u, p_u], [q_m, k v_m]> + (b_m + k c_m),
    k = weight x slope
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict

from cfjobs.models.network import DotScores

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""What a night chooses from."""

TYPICAL = 0.75
"""The weight where too few users are there to choose one."""

LEAST_USERS = 100
"""Users with a relevant movie in the inner split, below which the typical weight is taken."""


MOST_DISLIKED = 0.24
"""Of the listed movies that a user went on to rate, the share below their own mean that a weight may show on
the inner split: a point less than a quarter, which a night's own figure should keep, for the chance in it."""


class Blend(BaseModel):
    """A weight of the stars, and why: nDCG@10 and the share of disliked places of each weight tried, on this
    many users of an inner split."""

    model_config = ConfigDict(frozen=True)

    weight: float
    tried: dict[float, float] = {}
    disliked: dict[float, float] = {}
    users: int = 0


def joined(affinity: DotScores, stars: DotScores, *, factor: float) -> DotScores:
    """affinity + factor x stars as one dot product. Both are of the same users and movies."""
    return DotScores(
        torch.cat([affinity.user, stars.user], dim=1),
        torch.cat([affinity.movie, factor * stars.movie], dim=1),
        affinity.bias + factor * stars.bias,
    )


def weighed(affinity: DotScores, stars: DotScores, *, star: float, weight: float) -> DotScores:
    """affinity + weight x star x stars as one dot product whose movies are the same for every weight, so that
    they are made ready for a search once."""
    ones = torch.ones(len(stars.user), 1, device=stars.user.device)
    return DotScores(
        torch.cat([affinity.user, weight * stars.user, weight * ones], dim=1),
        torch.cat([affinity.movie, star * stars.movie, star * stars.bias[:, None]], dim=1),
        affinity.bias,
    )


def allowed(ndcg: Mapping[float, float], disliked: Mapping[float, float]) -> list[float]:
    """The weights that may be chosen, ascending: those that gain over affinity alone, and of these those with
    at most MOST_DISLIKED; where none has so few, the one with fewest."""
    gain = sorted(weight for weight, value in ndcg.items() if value >= ndcg[0.0])
    liked = [weight for weight in gain if disliked[weight] <= MOST_DISLIKED]
    return liked or [min(gain, key=lambda weight: disliked[weight])]


def chosen(ndcg: Mapping[float, float], disliked: Mapping[float, float]) -> float:
    """The largest weight that keeps half of what the best one gains over affinity alone, or, if too many of
    its places are disliked, the next one that is allowed.

    nDCG rewards liking only through what was rated 4 or more; beyond its peak the lists go on losing movies
    that their users would rate below their own mean, so the weight goes as far as half of the gain allows.
    """
    alone, best = ndcg[0.0], max(ndcg.values())
    far = max(weight for weight, value in ndcg.items() if value >= alone + 0.5 * (best - alone))
    may = allowed(ndcg, disliked)
    within = [weight for weight in may if weight <= far]
    return within[-1] if within else may[0]


def kept(last: float | None, tonight: float, may: Sequence[float]) -> float:
    """Last night's weight while it is allowed and tonight's is within a factor of two of it: nDCG is flat
    there, and lists stay."""
    if last in may and last and last / 2 <= tonight <= last * 2:
        return last
    return tonight
