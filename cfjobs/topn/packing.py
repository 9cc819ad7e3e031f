"""Movies and users as the screen wants them, and the proofs of its bounds."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from cfjobs.compiled import compiled
from cfjobs.topn.kernel import BLOCK, CHUNK, HAS_VNNI, TILE
from cfjobs.topn.problem import NO_PAIRS, Job, check_range, movie_rows, user_rows

Screen = Literal["auto", "int8", "float32"]


@dataclass(frozen=True, kw_only=True)
class Movies:
    """Candidate movies in order of scanning, padded to chunks; K rows of panels per chunk."""

    kind: Literal["int8", "float32", "net"]
    rows: np.ndarray  # [positions, D] float32, for exact scores
    bias: np.ndarray  # [positions] float32
    row_of: np.ndarray  # [positions] int32
    position_of: np.ndarray  # [M] int32, -1 where not a candidate
    panels: np.ndarray  # [chunks, K, 64] int32 (four bytes) or float32
    init: np.ndarray  # [positions] float32, bias over the largest bias
    scale: np.ndarray  # [positions] float32, what a step of the movie's bytes is worth, over `unit`
    unit: float  # what a step of the coarsest movie's bytes is worth
    block_error: np.ndarray  # [blocks, 4]: |v - score| <= user_error . block_error
    movie_error: np.ndarray  # [positions, 2]: the first two terms movie by movie
    block_cap: np.ndarray  # [blocks, 2]: score <= shift + user_cap . (block_cap, 1)
    weight: np.ndarray | None  # [H] float32 of a net
    output_bias: float
    rotation: np.ndarray  # [D, D] float64 of the int8 screen
    middle: np.ndarray  # [D] float64 of the int8 screen, the mean movie
    top_bias: float
    largest: float  # of the norms
    sample_blocks: int
    sample_n: int


@dataclass(frozen=True, kw_only=True)
class Users:
    """A batch of users, padded to tiles. v = unit * acc + shift."""

    packed: np.ndarray  # [tiles, K, 6] int32 or float32
    start: np.ndarray  # [tiles * 6] int32
    unit: np.ndarray  # [B]
    factor: np.ndarray  # [B] float32, largest bias over unit
    shift: np.ndarray  # [B]
    error: np.ndarray  # [B, 4]
    cap: np.ndarray  # [B, 3]


def _scan_order(job: Job, rows: np.ndarray, *, sampled: int) -> np.ndarray:
    """Candidate rows: first `sampled` of them drawn at random, then the others; each by falling ceiling.

    Blocks then hold movies of like size, for which one bound serves well, and the last ones are
    passed over. Any order gives the same lists.
    """
    norm = np.sqrt(np.square(rows.astype(np.float64)).sum(axis=1))
    bias = job.bias[job.listed].astype(np.float64)
    if job.net is None:
        some = user_rows(job, job.users.start, min(job.users.stop, job.users.start + 1024)).astype(np.float64)
        ceiling = np.sqrt(np.square(some).sum(axis=1)).mean() * norm[job.listed] + bias if len(some) else bias
    else:
        ceiling = np.maximum(rows[job.listed], 0) @ np.maximum(job.net.output_weight, 0)
    order = np.argsort(-ceiling, kind="stable")
    drawn = np.zeros(len(order), bool)
    drawn[np.random.default_rng(0).permutation(len(order))[:sampled]] = True
    order_of: np.ndarray = job.listed[np.concatenate([order[drawn[order]], order[~drawn[order]]])]
    return order_of


def _sample_plan(n: int, movies: int) -> tuple[int, int]:
    """How many blocks to sample for a first threshold, and which rank in the sample to take for it.

    The rank lies 3 deviations and 3 below the sample's share of the n best, so that about one user in
    a thousand has a threshold too high, is found out, and is scanned again. The size is the one that
    meets the fewest candidates: those of the sample, then those of the rest above the threshold.
    """
    best, plan = n * (5 + math.log(movies / n)) if movies > n else math.inf, (0, n)
    for blocks in (1, 2, 4, 8, 16, 32):
        size = blocks * BLOCK * CHUNK
        share = n * size / max(1, movies)
        rank = math.ceil(share + 3 * math.sqrt(share) + 3)
        met = CHUNK + rank * (1 + math.log(size / rank) + movies / size) if rank < size else math.inf
        if 4 * size <= movies and met < best:
            best, plan = met, (blocks, rank)
    return plan


@lru_cache(maxsize=4)
def _rotation(factors: int) -> np.ndarray:
    """A random rotation [D, D] float64, the same each time, which spreads a vector over its factors."""
    drawn = np.random.default_rng(0).standard_normal((factors, factors))
    rotation: np.ndarray = np.linalg.qr(drawn)[0]
    return rotation


def pack_movies(job: Job, *, screen: Screen) -> Movies:
    rows = movie_rows(job)
    sample_blocks, sample_n = _sample_plan(job.n, len(job.listed))
    order = _scan_order(job, rows, sampled=sample_blocks * BLOCK * CHUNK)
    factors = rows.shape[1]
    kind = "net" if job.net is not None else screen
    if kind == "auto":
        kind = "int8" if HAS_VNNI else "float32"
    if kind == "int8" and (not HAS_VNNI or factors > 8192):
        raise ValueError("screen='int8' needs AVX-512 VNNI and at most 8192 factors; use 'float32'")
    chunks = max(1, -(-len(order) // CHUNK))
    blocks = -(-chunks // BLOCK)
    starts = np.arange(blocks) * (BLOCK * CHUNK)
    position_of = np.full(len(rows), -1, np.int32)
    position_of[order] = np.arange(len(order), dtype=np.int32)
    sorted_rows = np.zeros((chunks * CHUNK, factors), np.float32)
    sorted_rows[: len(order)] = rows[order]
    bias = np.zeros(chunks * CHUNK, np.float32)
    bias[: len(order)] = job.bias[order]
    bias64 = bias.astype(np.float64)
    top = np.maximum.reduceat(np.abs(bias64), starts)
    top_bias = float(top.max())
    wide = sorted_rows.astype(np.float64)
    middle = wide[: max(1, len(order))].mean(axis=0) if kind == "int8" else np.zeros(factors)
    wide[: len(order)] -= middle
    norm = np.sqrt(np.square(wide).sum(axis=1))
    block_norm = np.maximum.reduceat(norm, starts)
    error, each = np.zeros((blocks, 4)), np.stack([norm, np.zeros(len(norm))], axis=1)
    cap = np.stack([block_norm * (1 + 2.0**-20), np.maximum.reduceat(bias64, starts)], axis=1)
    unit, scale, rotation = 1.0, np.empty(0, np.float32), np.empty((0, 0))
    weight, output_bias = None, 0.0
    if kind == "int8":
        rotation = _rotation(factors)
        turned = _turned(wide, rotation)
        step = np.abs(turned).max(axis=1) / 127
        step[step == 0] = 2.0**-160
        unit = float(step.max())
        scale = (step / unit).astype(np.float32)
        whole = np.rint(turned / step[:, None])
        lost = np.sqrt(np.square(turned - whole * step[:, None]).sum(axis=1))
        each[:, 1], error[:, 2] = lost, 1
        error[:, 3] = top * 2.0**-20 + 2.0**-140
        steps = np.full((len(wide), -(-factors // 4) * 4), 128, np.uint8)
        steps[:, :factors] = whole + 128
        packed = steps.view(np.int32)
    else:
        packed = sorted_rows.view(np.int32)  # a view of the bits, so that both kinds of panels go one way
        gamma = (factors + 8) * 2.0**-24 * 1.01
        error[:, 3] = top * gamma + (factors + 8) * 2.0**-125
    if kind == "net":
        assert job.net is not None
        weight, output_bias = padded(job.net.output_weight), float(job.net.output_bias)
        size = np.abs(wide) @ np.abs(weight[:factors].astype(np.float64))
        above = np.maximum(wide, 0) @ np.maximum(weight[:factors].astype(np.float64), 0)
        each = np.stack([np.ones(len(size)), size], axis=1)
        cap = np.stack([np.ones(blocks), np.maximum.reduceat(above, starts) * (1 + 2.0**-20)], axis=1)
    error[:, :2] = np.maximum.reduceat(each, starts)
    panels = np.ascontiguousarray(packed.reshape(chunks, CHUNK, -1).transpose(0, 2, 1))
    panels = panels if kind == "int8" else panels.view(np.float32)
    return Movies(
        kind=kind, rows=padded(sorted_rows), bias=bias, row_of=order.astype(np.int32), position_of=position_of,
        panels=panels, init=(bias64 / (top_bias or 1.0)).astype(np.float32), scale=scale, unit=unit,
        block_error=error, movie_error=each, block_cap=cap, weight=weight, output_bias=output_bias, rotation=rotation, middle=middle,
        top_bias=top_bias, largest=float(norm.max()), sample_blocks=sample_blocks, sample_n=sample_n,
    )  # fmt: skip


class Kept:
    """The packed movies of one call, for further calls with the same movies, candidates and n."""

    def __init__(self) -> None:
        self._movies: Movies | None = None

    def of(self, job: Job, *, screen: Screen) -> Movies:
        self._movies = self._movies or pack_movies(job, screen=screen)
        return self._movies


def pack_users(rows: np.ndarray, movies: Movies) -> Users:
    wide = rows.astype(np.float64)
    pack = {"int8": _int8_users, "float32": _float_users, "net": _net_users}[movies.kind]
    return pack(wide, movies)


def padded(rows: np.ndarray) -> np.ndarray:
    """Zeros appended up to a multiple of 8 factors, for `sum8`."""
    return np.ascontiguousarray(np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % 8)]))


def _tiles(packed: np.ndarray) -> np.ndarray:
    padded = np.zeros((-(-len(packed) // TILE) * TILE, packed.shape[1]), packed.dtype)
    padded[: len(packed)] = packed
    return np.ascontiguousarray(padded.reshape(-1, TILE, packed.shape[1]).transpose(0, 2, 1))


@compiled()
def _turned(rows: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """rows @ rotation in float64. Not by BLAS, whose own threads would wait for each other in ours."""
    out = np.zeros(rows.shape)
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            value = np.float64(rows[i, d])
            for j in range(rows.shape[1]):
                out[i, j] += value * rotation[d, j]
    return out


def _int8_users(wide: np.ndarray, movies: Movies) -> Users:
    """Users in signed bytes, and the proof of the int8 bound.

    First take the mean movie c off every movie: x . q = x . c + x . (q - c), the first term a number per
    user (`shift`, float64), the second smaller; below, q stands for q - c.
    Turn both sides by one orthogonal matrix; x . q stays (to 1e-13 |x||q| in float64) and no factor
    sticks out. With a unit s per user and t per movie, and whole numbers X, Q of at most 127, write
    x = s X + r and q = t Q + p. Then

        x . q = s t X.Q + s X.p + r.q      so   |x.q - s t X.Q| <= |s X||p| + |r||q|    (Cauchy-Schwarz)

    with the *actual* lengths of r and p, not their worst case. X.Q is exact: movies are stored as
    Q + 128, `start` takes 128 sum(X) off again, and no sum passes 255*127*D < 2^31 for D <= 8192. The
    rest is float32: v / unit = X.Q * (t / t_max) + b / (s t_max), at most 7 roundings of 2^-24 of
    |s X||t Q| + |b| <= 4 |x||q| + |b|; t / t_max below the normal range loses 2^-100 s t_max at most; s
    is never so small that |b| / (s t_max) passes 2^29. Last, the exact score is rounded to float32,
    and v - e and v + e are stored in float32, each at most 2^-24 (|x||q| + |b| + e) + 2^-150, and the
    float64 sum loses D 2^-53 |x||q|: all within the 2^-20 terms of e = user_error . block_error,

        user_error  = |r| + 2^-20 |x|,   |s X|,      2^-100 s t_max + 2^-20 |x||c|,   1
        block_error = max |q|,           max |p|,    1,                               2^-20 max |b| + 2^-140

    A score's ceiling, used to pass over whole blocks, is x . c + |x| max|q| + max b.
    """
    turned = _turned(wide, movies.rotation)
    step = np.maximum(np.abs(turned).max(axis=1) / 127, movies.top_bias * 2.0**-29 / movies.unit)
    step[step == 0] = 2.0**-160
    whole = np.rint(turned / step[:, None])
    rounded = whole * step[:, None]
    norm = np.sqrt(np.square(wide).sum(axis=1))
    lost = np.sqrt(np.square(turned - rounded).sum(axis=1))
    middle = np.sqrt(np.square(movies.middle).sum())
    check_range(norm.max() * (movies.largest + middle) + movies.top_bias)
    unit = step * movies.unit
    one = np.ones(len(norm))
    length = np.sqrt(np.square(rounded).sum(axis=1)) * (1 + 2.0**-40)
    error = [lost + norm * 2.0**-20, length, unit * 2.0**-100 + norm * middle * 2.0**-20, one]
    packed = np.zeros((len(wide), movies.panels.shape[1] * 4), np.int8)
    packed[:, : wide.shape[1]] = whole
    start = np.zeros(-(-len(wide) // TILE) * TILE, np.int32)
    start[: len(wide)] = -128 * whole.sum(axis=1)
    return Users(
        packed=_tiles(packed.view(np.int32)), start=start, unit=unit, shift=(wide * movies.middle).sum(axis=1),
        factor=(movies.top_bias / unit).astype(np.float32), error=np.stack(error, axis=1),
        cap=np.stack([norm * (1 + 2.0**-20) + 2.0**-140, one, norm * middle * 2.0**-20], axis=1),
    )  # fmt: skip


def _float_users(wide: np.ndarray, movies: Movies) -> Users:
    """Users in float32, and the proof of the float32 bound.

    D fused multiply-adds onto the bias, each rounding a partial sum of at most |x||q| + |b|
    (Cauchy-Schwarz): D 2^-24 (|x||q| + |b|) to first order, 3 further roundings for the bias, and as
    in `_int8_users` one for the exact score, two for v - e and v + e; 1.01 covers the higher orders for
    D < 100,000. Sums below the normal range, or flushed to zero, lose at most 2^-126 each.
    """
    norm = np.sqrt(np.square(wide).sum(axis=1))
    check_range(norm.max() * movies.largest + movies.top_bias)
    gamma = (wide.shape[1] + 8) * 2.0**-24 * 1.01
    zero, one = np.zeros(len(norm)), np.ones(len(norm))
    return Users(
        packed=_tiles(wide.astype(np.float32)), start=NO_PAIRS, unit=one, shift=zero,
        factor=np.full(len(norm), movies.top_bias, np.float32),
        error=np.stack([norm * gamma, zero, zero, one], axis=1),
        cap=np.stack([norm * (1 + 2.0**-20) + 2.0**-140, one, zero], axis=1),
    )  # fmt: skip


def _net_users(wide: np.ndarray, movies: Movies) -> Users:
    """Users' halves of the first layer, negated, and the proof of the net's bound.

    relu(a + b) = max(b, -a) + a, so  w . relu(a + b) = w . max(b, -a) + w . a : two instructions for
    each hidden unit, the rest one number per user (`shift`). With A = sum |w_j a_j| and B = sum |w_j b_j|,
    the H fused multiply-adds round partial sums of at most A + B; the exact score rounds a + b and
    itself, v - e and v + e are rounded: (H + 8) 2^-24 1.01 (A + B + |w0|) in all.
    The ceiling: relu(a + b) <= relu(a) + relu(b) where w > 0, and at least 0 where w < 0.
    """
    assert movies.weight is not None
    weight = movies.weight[: wide.shape[1]].astype(np.float64)
    size = np.abs(wide * weight).sum(axis=1) + abs(movies.output_bias)
    gamma = (wide.shape[1] + 8) * 2.0**-24 * 1.01
    check_range(size.max() + movies.block_error[:, 1].max())
    zero, one = np.zeros(len(wide)), np.ones(len(wide))
    ceiling = (np.maximum(wide, 0) * np.maximum(weight, 0)).sum(axis=1) + movies.output_bias
    shift = (wide * weight).sum(axis=1) + movies.output_bias
    return Users(
        packed=_tiles(-wide.astype(np.float32)), start=NO_PAIRS, unit=one,
        factor=np.zeros(len(wide), np.float32), shift=shift,
        error=np.stack([size * gamma, one * gamma, zero, one], axis=1),
        cap=np.stack([zero, one, ceiling - shift + size * 2.0**-20 + 2.0**-120], axis=1),
    )  # fmt: skip
