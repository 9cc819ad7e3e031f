"""Blocked SGD, a rating at a time, in an order that keeps movies in the processor's cache: compiled loops.

Ratings are dealt into B x B blocks, by range of users and of movies. A round visits B blocks that share no
user and no movie, so threads need no lock and the result does not depend on their number; B rounds are an
epoch. While a block is visited its movies stay in the cache and its users stream by, so that a rating costs
arithmetic, not memory.

For a rating r of user u and movie m, with e = predicted - r and g = weight x e x d predicted / d logit,

    p_u -= rate / sqrt(A_u) x (g v_m + l2 p_u)          A: running sum of the mean squared gradients of a row
    q_m -= rate / sqrt(A_m) x (g w_u + l2 q_m)

where v_m = q_m + s_m is the movie's vector and its raters' sum, w_u = p_u + t_u the user's and the sum of
the movies that they rated (see `models/networks/dot_raters.py`). The sums are held for a while and their
gradients collected; then the rows x and y that they sum take one step of Adam and the sums are new.

Sources: Chin and others, "A fast parallel stochastic gradient method" (2015, LIBMF), for the blocks and the
rates by row; Gemulla and others, "Large-scale matrix factorization with distributed stochastic gradient
descent" (2011), for the rounds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfjobs.compiled import compiled, counted
from cfjobs.models.prefetch import fetch
from cfjobs.models.raters import Floats, Ints, Raters

_CACHE_BYTES = 1 << 19  # of a movie block's rows, their sums and gradients
_VISIT = 4  # ratings of a user in a block, at least: its rows are fetched anew for each
_FEWEST, _MOST = 8, 64  # blocks
_AHEAD = 3  # ratings: whose movie is brought near
_fast = compiled(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")


@dataclass(frozen=True)
class Blocks:
    """Ratings by block; block i x B + j has the i-th users and the j-th movies. user, movie, rating, value,
    weight [R], value as in `Raters`, weight as in `Examples`; first [B x B + 1].

    A movie m is stored as ~m where the user is in the movie's sum, a user u as ~u where the movie is in the
    user's.
    """

    user: Ints
    movie: Ints
    rating: Floats
    value: Floats
    weight: Floats
    first: NDArray[np.int64]
    n_blocks: int

    @classmethod
    def of(
        cls,
        user: NDArray[np.integer],
        movie: NDArray[np.integer],
        rating: Floats,
        value: Floats,
        weight: Floats,
        *,
        raters: Raters,
        rated: Raters,
        row_bytes: int,
        rng: np.random.Generator,
    ) -> "Blocks":
        """Deal the ratings out; users in blocks of equally many ratings, movies at random. row_bytes: of a
        movie in the cache."""
        n_users, n_movies = len(raters.lot), len(raters.last)
        by_cache = math.ceil(n_movies * row_bytes / _CACHE_BYTES)
        by_visit = len(user) // (max(1, n_users) * _VISIT)
        n_blocks = min(_MOST, _FEWEST * max(1, min(-(-by_cache // _FEWEST), by_visit // _FEWEST)))
        before = counted(user, n_users).cumsum()
        block_of_user = ((before - 1) * n_blocks // max(1, len(user))).astype(np.int32)
        block_of_movie = (rng.permutation(n_movies) % n_blocks).astype(np.int32)
        users, movies, ratings, values, weights, first = _deal(
            user, movie, rating, value, weight, block_of_user, block_of_movie, n_blocks,
            raters.lot, raters.last, rated.lot, rated.last,
        )  # fmt: skip
        return cls(users, movies, ratings, values, weights, first, n_blocks)


@_fast
def _deal(  # type: ignore[no-untyped-def]
    user, movie, rating, value, weight, block_of_user, block_of_movie, n_blocks,
    user_lot, movie_last, movie_lot, user_last,
):  # fmt: skip
    first = np.zeros(n_blocks * n_blocks + 1, np.int64)
    for t in range(len(user)):
        first[block_of_user[user[t]] * n_blocks + block_of_movie[movie[t]] + 1] += 1
    for c in range(n_blocks * n_blocks):
        first[c + 1] += first[c]
    place = first[:-1].copy()
    users, movies = np.empty(len(user), np.int32), np.empty(len(user), np.int32)
    ratings, values = np.empty(len(user), np.float32), np.empty(len(user), np.float32)
    weights = np.empty(len(user), np.float32)
    for t in range(len(user)):
        c = block_of_user[user[t]] * n_blocks + block_of_movie[movie[t]]
        users[place[c]] = ~user[t] if movie_lot[movie[t]] <= user_last[user[t]] else user[t]
        movies[place[c]] = ~movie[t] if user_lot[user[t]] <= movie_last[movie[t]] else movie[t]
        ratings[place[c]], values[place[c]], weights[place[c]] = rating[t], value[t], weight[t]
        place[c] += 1
    return users, movies, ratings, values, weights, first


@_fast
def _add(into, times, row):  # type: ignore[no-untyped-def]
    for d in range(len(row)):
        into[d] += times * row[d]


@_fast
def visit(  # type: ignore[no-untyped-def]
    users, movies, ratings, values, weights, start, user_UKW, movie_MKW, x_UKW, y_MKW, s_MKW, t_UKW, grad_s_MKW, grad_t_UKW,
    own_x_UKW, own_y_MKW, movie_weight, user_weight, user_A, movie_A, offset, low, span, rate, l2, l2_bias, both,
):  # fmt: skip
    """Take the ratings of one block, from `start` round to it again. Returns the squared errors, summed over
    ratings and members.

    The last column of a row is its bias. s, t: the movies' and the users' sums; grad, own: what their
    gradients need, added to. x, y and own have 2 K rows each, as `sum_raters` says. both: without it users
    have no sums and ratings no values, and what is for them is not touched.
    """
    n, (n_members, width) = len(users), user_UKW.shape[1:]
    n_factors, n_row = width - 1, n_members * width
    squared = 0.0
    v, w = np.empty(width, np.float32), np.empty(width, np.float32)
    for turn in range(n):
        soon = movies[(start + turn + _AHEAD) % n]
        at = np.int64(soon if soon >= 0 else ~soon) * n_row
        fetch(movie_MKW, at, at + n_row)
        fetch(s_MKW, at, at + n_row)
        fetch(grad_s_MKW, at, at + n_row)
        t = (start + turn) % n
        u, m, c, e = users[t], movies[t], np.float32(0), np.float32(0)
        if m < 0:
            m = ~m
            c = movie_weight[m]
        if u < 0:
            u = ~u
            e = user_weight[u]
        for k in range(n_members):
            p, q, s, r = user_UKW[u, k], movie_MKW[m, k], s_MKW[m, k], t_UKW[u, k]
            x, x_value, y, y_value = (
                x_UKW[u, k],
                x_UKW[u, n_members + k],
                y_MKW[m, k],
                y_MKW[m, n_members + k],
            )
            c_value, e_value = c * values[t], e * values[t]
            for d in range(width):
                v[d] = q[d] + s[d] - c * x[d]
            w[:] = p
            if both:
                _add(v, -c_value, x_value)
                for d in range(width):
                    w[d] += r[d] - e * y[d] - e_value * y_value[d]
            wv = vv = ww = pp = pv = qq = wq = np.float32(0)
            for d in range(n_factors):
                wv += w[d] * v[d]
                vv += v[d] * v[d]
                ww += w[d] * w[d]
                pp += p[d] * p[d]
                pv += p[d] * v[d]
                qq += q[d] * q[d]
                wq += w[d] * q[d]
            b_u, b_m = p[n_factors], q[n_factors]
            logit = wv + w[n_factors] + v[n_factors] + offset
            sigmoid = np.float32(1) / (np.float32(1) + np.exp(-logit))
            error = low + span * sigmoid - ratings[t]
            squared += error * error
            g = weights[t] * error * span * sigmoid * (np.float32(1) - sigmoid)
            user_A[u, k, 0] += (g * g * vv + 2 * g * l2 * pv + l2 * l2 * pp) / n_factors
            movie_A[m, k, 0] += (g * g * ww + 2 * g * l2 * wq + l2 * l2 * qq) / n_factors
            user_A[u, k, 1] += (g + l2_bias * b_u) ** 2
            movie_A[m, k, 1] += (g + l2_bias * b_m) ** 2
            rate_u, rate_m = rate / np.sqrt(user_A[u, k, 0]), rate / np.sqrt(movie_A[m, k, 0])
            v[n_factors] = w[n_factors] = 1  # what a bias is multiplied by
            # Loops over few arrays each: with more, the compiler gives up proving that they do not overlap.
            _add(grad_s_MKW[m, k], g, w)
            if c > 0:
                _add(own_x_UKW[u, k], c * g, w)
            if both:
                _add(grad_t_UKW[u, k], g, v)
                _add(own_x_UKW[u, n_members + k], c_value * g, w)
                _add(own_y_MKW[m, k], e * g, v)
                _add(own_y_MKW[m, n_members + k], e_value * g, v)
            for d in range(n_factors):
                p[d] -= rate_u * (g * v[d] + l2 * p[d])
            for d in range(n_factors):
                q[d] -= rate_m * (g * w[d] + l2 * q[d])
            p[n_factors] = b_u - rate / np.sqrt(user_A[u, k, 1]) * (g + l2_bias * b_u)
            q[n_factors] = b_m - rate / np.sqrt(movie_A[m, k, 1]) * (g + l2_bias * b_m)
    return squared


@_fast
def step_summed(  # type: ignore[no-untyped-def]
    x_UKW, first_moment, second_moment, grad_MKW, own_UKW, penalty, movies, value, first_movie, weight,
    rate, beta_1, beta_2, step, both, begin, end,
):  # fmt: skip
    """One step of Adam for the rows begin..end - 1 of those that are summed: of the raters, x, or of what
    they rated, y. Clears `own`. penalty [U]: what L2 takes of a row since the last step."""
    one = np.float32(1)
    correct_1, correct_2 = np.float32(1 - beta_1**step), np.float32(1 - beta_2**step)
    n_members, width = grad_MKW.shape[1:]
    n_rows = 2 * n_members if both else n_members
    n_row = np.int64(n_members * width)
    g_KW = np.empty((2 * n_members, width), np.float32)
    for u in range(begin, end):
        for k in range(n_rows):
            for d in range(width):
                g_KW[k, d] = penalty[u] * x_UKW[u, k, d] - own_UKW[u, k, d]
                own_UKW[u, k, d] = 0
        for t in range(first_movie[u], first_movie[u + 1]):
            soon = movies[min(t + _AHEAD, len(movies) - 1)] * n_row
            fetch(grad_MKW, soon, soon + n_row)
            m = movies[t]
            c, c_value = weight[m], weight[m] * value[t]
            for k in range(n_members):
                grad, g, g_value = grad_MKW[m, k], g_KW[k], g_KW[n_members + k]
                _add(g, c, grad)
                if both:
                    _add(g_value, c_value, grad)
        for k in range(n_rows):
            for d in range(width):
                first = beta_1 * first_moment[u, k, d] + (one - beta_1) * g_KW[k, d]
                second = beta_2 * second_moment[u, k, d] + (one - beta_2) * g_KW[k, d] ** 2
                first_moment[u, k, d], second_moment[u, k, d] = first, second
                x_UKW[u, k, d] -= (
                    rate * (first / correct_1) / (np.sqrt(second / correct_2) + np.float32(1e-8))
                )


@_fast
def squared_errors(  # type: ignore[no-untyped-def]
    user, movie, rating, user_UKW, movie_MKW, s_MKW, t_UKW, offset, low, span, clip_low, clip_high
):
    """Squared errors of the clipped predictions of the members' mean logit, summed;
    rows are known ones or -1, which is the last."""
    total = 0.0
    n_members, width = user_UKW.shape[1:]
    for t in range(len(user)):
        u, m = user[t] % len(user_UKW), movie[t] % len(movie_MKW)
        logit = np.float32(0)
        for k in range(n_members):
            p, q, s, r = user_UKW[u, k], movie_MKW[m, k], s_MKW[m, k], t_UKW[u, k]
            for d in range(width - 1):
                logit += (p[d] + r[d]) * (q[d] + s[d])
            logit += p[width - 1] + r[width - 1] + q[width - 1] + s[width - 1]
        sigmoid = np.float32(1) / (np.float32(1) + np.exp(-logit / n_members - offset))
        error = min(max(low + span * sigmoid, clip_low), clip_high) - rating[t]
        total += error * error
    return total
