"""A user who arrived today, without training: their row of the rating network,
solved for with all else fixed.

    row = argmin over x of   sum_i (r_i - rating(x, m_i))^2  +  (l2 x n + h) x |x - x_typical|^2

i = 1..n are the user's ratings, rating() the trained network, and x_typical the row of an unknown user, so
that without ratings the answer is the typical user. It is the network's own training problem for one row,
with the centre moved from zero to the typical user and h of holding more, which decides while the ratings are
few. Gauss-Newton: each step solves a ridge regression in the row's length; for `dot`, which is linear in the
row, the first is the answer.

Source of folding in: Sarwar and others, "Incremental singular value decomposition algorithms for highly
scalable recommender systems" (2002).
"""

from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call

from cfjobs import models
from cfjobs.models.network import UNKNOWN, Network, UserTable

HOLD = 4.0
"""h: how tightly a user with few ratings is held to the typical one. With it, every network predicts better
from one rating on; without it, one rating predicts worse than none (`bench/fold_in.py`)."""

_MOST_STEPS = 20
_SMALLEST_STEP = 1 / 64
_GOOD_ENOUGH = 1e-9


def network_of_one(network: Network, name: str, *, movie_idx: Tensor, rating: Tensor, l2: float) -> Network:
    """The trained network with one user, row 0, folded in from their ratings;
    the movies are the network's own.

    name: of the network. movie_idx [R] int64, rating [R], of one user in any order. l2: as in training.
    """
    one = only_user(network, name, UNKNOWN)
    if len(rating):
        solved = _solve(one, movie_idx, rating.double(), l2=l2)
        with torch.no_grad():
            for key, row in solved.items():
                one.get_parameter(key)[0] = row
    return one


def only_user(network: Network, name: str, row: int) -> Network:
    """The trained network with one user, row 0: the user of this row, or the typical one for UNKNOWN."""
    one = models.build(name, n_users=1, n_movies=network.n_movies, settings=network.settings)
    of_users = network.user_tensors()
    kept = {
        key: torch.stack([tensor[row], tensor[-1]]) if key in of_users else tensor
        for key, tensor in network.state_dict().items()
    }
    one.to(next(network.parameters()).device).load_state_dict(kept)
    one.eval()
    return one


def _solve(one: Network, movie_idx: Tensor, rating: Tensor, *, l2: float) -> dict[str, Tensor]:
    """The user's row of each user table, by the table's key."""
    tables = {
        f"{name}.weight": table.weight for name, table in one.named_modules() if isinstance(table, UserTable)
    }
    widths = [table.shape[1] for table in tables.values()]
    typical = torch.cat([table[-1].detach() for table in tables.values()]).double()
    hold = (l2 * len(rating) + HOLD) / one.n_members
    user_idx = torch.arange(len(rating), device=rating.device)
    constant = {
        key: buffer[:1].expand(len(rating), -1)
        for key, buffer in one.named_buffers()
        if key in one.user_tensors()
    }

    def predicted(x_RW: Tensor) -> Tensor:
        """As if each rating were of a user of its own,
        so that one backward pass gives every rating's slope."""
        parts = dict(zip(tables, x_RW.split(widths, dim=1), strict=True))
        return cast(Tensor, functional_call(one, parts | constant, (user_idx, movie_idx)))

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions [R], and the slope of each in the row [R, W]."""
        x_RW = x.repeat(len(rating), 1).requires_grad_()
        found = predicted(x_RW)
        return found.detach(), torch.autograd.grad(found.sum(), x_RW)[0]

    def loss(x: Tensor) -> float:
        with torch.no_grad():
            error = rating - predicted(x.expand(len(rating), -1))
            return float(error.square().sum() + hold * (x - typical).square().sum())

    x, least = typical, loss(typical)
    for _ in range(_MOST_STEPS):
        found, slope_RW = slopes(x)
        pull = slope_RW.T @ (rating - found) - hold * (x - typical)
        curvature = slope_RW.T @ slope_RW + hold * torch.eye(len(x), dtype=x.dtype, device=x.device)
        step = torch.linalg.lstsq(curvature, pull[:, None]).solution[:, 0]
        fraction, before = 1.0, least
        while (after := loss(x + fraction * step)) > least and fraction > _SMALLEST_STEP:
            fraction /= 2
        if after >= least:
            break
        x, least = x + fraction * step, after
        if before - least <= _GOOD_ENOUGH * before:
            break
    return dict(zip(tables, x.split(widths), strict=True))
