"""The Triton kernels of `fused.py`, compiled when they are first called."""

import triton
import triton.language as tl


@triton.jit
def mark(user, position, taken, n_pairs, n_groups):
    """A bit for each pair; a pair that is there twice has one."""
    at = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    there = at < n_pairs
    place = tl.load(position + at, mask=there, other=-1)
    row = tl.load(user + at, mask=there, other=0).to(tl.int64)
    one = tl.full((1024,), 1, tl.int32)
    tl.atomic_or(taken + row * n_groups + place // 32, one << (place % 32), mask=place >= 0)


@triton.jit
def products(
    x,
    q,
    rows,
    columns,
    n_users,
    FACTORS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Approximate products of a tile, [BM, BN]."""
    total = tl.zeros((BM, BN), tl.float32)
    step = tl.arange(0, BK)
    x_at = x + rows.to(tl.int64)[:, None] * FACTORS + step[None, :]
    q_at = q + columns.to(tl.int64)[:, None] * FACTORS + step[None, :]
    for _ in range(0, FACTORS, BK):
        a = tl.load(x_at, mask=rows[:, None] < n_users, other=0.0)
        b = tl.load(q_at)
        total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION)
        x_at += BK
        q_at += BK
    return total


@triton.jit
def listable(
    taken, rows, columns, n_users, n_movies, n_groups, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr
):
    """Whether each pair of a tile may be listed, [BM, BN / GROUP, GROUP]."""
    group = tl.program_id(1) * (BN // GROUP) + tl.arange(0, BN // GROUP)
    at = taken + rows.to(tl.int64)[:, None] * n_groups + group[None, :]
    word = tl.load(at, mask=rows[:, None] < n_users, other=-1)
    bit = tl.arange(0, GROUP)
    unmarked = ((word[:, :, None] >> bit[None, None, :]) & 1) == 0
    return unmarked & (tl.reshape(columns, (1, BN // GROUP, GROUP)) < n_movies)


@triton.jit
def maxima(
    x,
    q,
    bias,
    norm,
    slack,
    error,
    taken,
    out,
    n_users,
    n_movies,
    n_groups,
    FACTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """The largest lower bound of each group, [B, groups]."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    total = products(x, q, rows, columns, n_users, FACTORS, BM, BN, BK, PRECISION)
    off = tl.load(error + rows, mask=rows < n_users, other=0.0)
    surely = tl.load(bias + columns) - tl.load(slack + columns)
    lower = total + surely[None, :] - off[:, None] * tl.load(norm + columns)[None, :]
    lower = tl.reshape(lower, (BM, BN // GROUP, GROUP))
    free = listable(taken, rows, columns, n_users, n_movies, n_groups, BM, BN, GROUP)
    best = tl.max(tl.where(free, lower, float("-inf")), axis=2)
    group = tl.program_id(1) * (BN // GROUP) + tl.arange(0, BN // GROUP)
    at = out + rows.to(tl.int64)[:, None] * n_groups + group[None, :]
    tl.store(at, best, mask=rows[:, None] < n_users)


@triton.jit
def collect(
    x,
    q,
    bias,
    norm,
    slack,
    error,
    taken,
    threshold,
    counts,
    candidates,
    n_users,
    n_movies,
    n_groups,
    room,
    FACTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Positions whose upper bound reaches the threshold, in any order; counts beyond `room` too."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    total = products(x, q, rows, columns, n_users, FACTORS, BM, BN, BK, PRECISION)
    off = tl.load(error + rows, mask=rows < n_users, other=0.0)
    perhaps = tl.load(bias + columns) + tl.load(slack + columns)
    upper = total + perhaps[None, :] + off[:, None] * tl.load(norm + columns)[None, :]
    least = tl.load(threshold + rows, mask=rows < n_users, other=float("inf"))
    free = listable(taken, rows, columns, n_users, n_movies, n_groups, BM, BN, GROUP)
    reached = (upper >= least[:, None]) & tl.reshape(free, (BM, BN))
    ones = tl.full((BM, BN), 1, tl.int32)
    row = tl.broadcast_to(rows[:, None], (BM, BN)).to(tl.int64)
    slot = tl.atomic_add(counts + row, ones, mask=reached)
    place = tl.broadcast_to(columns[None, :], (BM, BN)).to(tl.int32)
    tl.store(candidates + row * room + slot, place, mask=reached & (slot < room))


@triton.jit
def exact(x, q, bias, row_of, candidates, counts, keys, room, FACTORS: tl.constexpr):
    """The key of each candidate: its score, in bits that sort as numbers do, above its row from the end."""
    user = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * 128 + tl.arange(0, 128)
    n = tl.load(counts + user)
    if tl.program_id(1) * 128 < n:
        there = (slot < n) & (slot < room)
        place = tl.load(candidates + user * room + slot, mask=there, other=0)
        q_at = q + place.to(tl.int64) * FACTORS
        total = tl.zeros((128,), tl.float64)
        for d in range(FACTORS):
            total += tl.load(x + user * FACTORS + d).to(tl.float64) * tl.load(q_at + d).to(tl.float64)
        score = (total + tl.load(bias + place).to(tl.float64)).to(tl.float32) + 0.0
        bits = score.to(tl.int32, bitcast=True)
        high = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
        low = 0xFFFFFFFF - tl.load(row_of + place).to(tl.int64)
        tl.store(keys + user * room + slot, (high << 32) | low, mask=there)
