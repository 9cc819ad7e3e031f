"""The scan: users pass over the movies in tiles, candidates are kept, narrowed, and scored exactly."""

import numpy as np

from cfjobs.compiled import compiled
from cfjobs.topn.kernel import BLOCK, CHUNK, TILE, lowest_bit, score_tile, sum8


@compiled()
def _reached_by(low, n):
    """A number that at least n of low, [more than n] float32, reach; mostly by few more than n."""
    under, over = low.min(), low.max()
    for _ in range(40):
        middle = np.float32(0.5) * under + np.float32(0.5) * over
        reached = np.int32(0)
        for i in range(len(low)):
            reached += low[i] >= middle
        if reached >= n:
            under = middle
            if reached <= n + n // 16:
                break
        else:
            over = middle
    return under


@compiled()
def _exact(x, u, places, rows, bias, weight, output_bias, out):
    """The exact scores of user u with the movies at `places`."""
    last = len(places) - 1
    at = np.empty(8, np.int64)
    total = np.empty(8)
    for first in range(0, len(places), 8):
        for i in range(8):
            at[i] = places[min(first + i, last)]
        sum8(x, u, rows, at, rows.shape[1], total, weight)
        for i in range(min(8, len(places) - first)):
            added = np.float64(bias[at[i]]) if weight is None else output_bias
            out[first + i] = np.float32(total[i] + added) + np.float32(0)  # -0 becomes 0


@compiled()
def _sort_best(score, places, row_of, position_of, n):
    """Bring the n best to the front, best first, equal scores by row. Returns how many there are."""
    count = len(score)
    bits = score.view(np.uint32)
    keys = np.empty(count, np.uint64)
    for i in range(count):
        rising = ~bits[i] if bits[i] >> np.uint32(31) else bits[i] | np.uint32(0x80000000)
        keys[i] = (np.uint64(rising) << np.uint64(32)) | np.uint64(0xFFFFFFFF - row_of[places[i]])
    if count > 1024:
        keys = np.sort(keys)[::-1]
    else:  # every key's rank by counting: no branches, so faster than a sort up to here
        ranked = np.empty(count, np.uint64)
        for i in range(count):
            rank, key = 0, keys[i]
            for j in range(count):
                rank += keys[j] > key
            ranked[rank] = key
        keys = ranked
    kept = min(n, count)
    for i in range(kept):
        rising = np.uint32(keys[i] >> np.uint64(32))
        bits[i] = rising & np.uint32(0x7FFFFFFF) if rising >> np.uint32(31) else ~rising
        places[i] = position_of[np.uint64(0xFFFFFFFF) - (keys[i] & np.uint64(0xFFFFFFFF))]
    return kept


@compiled()
def _bound(places, low, high, first, last, error, movie_error, block_error):
    """Turn the approximate scores low[first:last] into bounds from below and above."""
    for i in range(first, last):
        p = places[i]
        block = p // (BLOCK * CHUNK)
        e = error[0] * movie_error[p, 0] + error[1] * movie_error[p, 1]
        e += error[2] * block_error[block, 2] + error[3] * block_error[block, 3]
        v = np.float64(low[i])
        low[i] = v - e
        high[i] = v + e


@compiled()
def _narrow(places, low, high, count, n, reached):
    """Drop those of the first `count` entries that n others beat. Returns the new count and threshold."""
    if count > n:
        reached = max(reached, np.float64(_reached_by(low[:count], n)))
    kept = 0
    for i in range(count):
        places[kept], low[kept], high[kept] = places[i], low[i], high[i]
        kept += high[i] >= reached
    return kept, reached


@compiled()
def scan_users(
    x, packed, start, unit, factor, shift, error, cap,
    rows, bias, row_of, position_of, panels, init, scale, block_error, movie_error, block_cap,
    weight, output_bias, seen_ptr, seen_idx,
    group, room, n, floor, sample_blocks, sample_n, out_idx, out_score, short,
):  # fmt: skip
    """The lists of one batch: for each group of users, pass over the blocks of movies, then score exactly.

    Each user keeps `room` candidates as [v - e, v + e]. When they run out, the n-th largest v - e
    becomes the threshold and what lies below is dropped. If too many remain (ties), they are scored
    exactly and the n best kept, so there is always room.
    """
    chunks, depth = panels.shape[0], panels.shape[1]
    taken = np.empty((group, chunks), np.uint64)
    places = np.empty((group, room), np.int32)
    low = np.empty((group, room), np.float32)
    high = np.empty((group, room), np.float32)
    count = np.zeros(group, np.int64)
    reached = np.empty(group)
    guess = np.empty(group)
    fresh = np.empty(group, np.int64)
    acc = np.empty((BLOCK, TILE, CHUNK), np.float32)
    bar = np.empty(TILE, np.float32)
    hits = np.empty((BLOCK, TILE), np.uint64)
    words = np.empty(BLOCK + 1, np.uint64)
    word_of = np.empty(BLOCK + 1, np.int64)
    tile_factor = np.empty(TILE, np.float32)
    margin = np.empty(TILE)
    padding = np.uint64(0)
    if len(row_of) < chunks * CHUNK:
        padding = ~np.uint64(0) << np.uint64(len(row_of) % CHUNK)
    for group_first in range(0, len(x), group):
        members = min(group, len(x) - group_first)
        for g in range(members):
            u = group_first + g
            taken[g, :] = 0
            taken[g, chunks - 1] = padding
            for i in range(seen_ptr[u], seen_ptr[u + 1]):
                p = position_of[seen_idx[i]]
                if p >= 0:
                    taken[g, p >> 6] |= np.uint64(1) << np.uint64(p & 63)
            count[g] = 0
            fresh[g] = 0
            reached[g] = floor
            guess[g] = floor
        for block in range(len(block_error)):
            need, limit = n, room - CHUNK
            if block < sample_blocks:
                need, limit = sample_n, min(limit, max(4 * sample_n, 2 * CHUNK))
            if block == sample_blocks:
                for g in range(members):
                    u = group_first + g
                    _bound(places[g], low[g], high[g], fresh[g], count[g], error[u], movie_error, block_error)
                    guess[g] = reached[g]
                    if count[g] >= sample_n:
                        middle = 0.5 * (np.float64(high[g, 0]) - np.float64(low[g, 0]))
                        guess[g] = max(guess[g], _reached_by(low[g, : count[g]], sample_n) + middle)
                    count[g], reached[g] = _narrow(places[g], low[g], high[g], count[g], n, guess[g])
                    fresh[g] = count[g]
            span = BLOCK if block else 1  # look at hits at once while thresholds still rise fast
            last_chunk = min(chunks, (block + 1) * BLOCK)
            for tile_first in range(0, members, TILE):
                idle = True
                for w in range(TILE):
                    g = tile_first + w
                    u = group_first + g
                    if g >= members or _ceiling(cap[u], block_cap[block]) + shift[u] < reached[g]:
                        bar[w], tile_factor[w] = np.inf, 0
                        continue
                    idle = False
                    e = 0.0
                    for i in range(4):
                        e += error[u, i] * block_error[block, i]
                    margin[w] = e
                    tile_factor[w] = factor[u]
                    bar[w] = _bar(reached[g] - e, unit[u], shift[u])
                if idle:
                    continue
                tile = (group_first + tile_first) // TILE
                for first_chunk in range(block * BLOCK, last_chunk, span):
                    chunks_here = min(span, last_chunk - first_chunk)
                    for c in range(chunks_here):
                        chunk = first_chunk + c
                        score_tile(
                            packed, tile * depth * TILE, start, panels, chunk * depth * CHUNK, depth,
                            init, scale, chunk * CHUNK, tile_factor, bar, acc[c], hits[c], weight,
                        )  # fmt: skip
                    for w in range(min(TILE, members - tile_first)):
                        g = tile_first + w
                        u = group_first + g
                        full = 0
                        for c in range(chunks_here):
                            word = hits[c, w] & ~taken[g, first_chunk + c]
                            words[full] = word
                            word_of[full] = c
                            full += word != 0
                        k = count[g]
                        for i in range(full):
                            word, c = words[i], word_of[i]
                            while word:
                                bit = lowest_bit(word)
                                word &= word - np.uint64(1)
                                places[g, k] = (first_chunk + c) * CHUNK + bit
                                low[g, k] = unit[u] * np.float64(acc[c, w, bit]) + shift[u]
                                k += 1
                            if k > limit:
                                _bound(
                                    places[g],
                                    low[g],
                                    high[g],
                                    fresh[g],
                                    k,
                                    error[u],
                                    movie_error,
                                    block_error,
                                )
                                k, reached[g] = _narrow(places[g], low[g], high[g], k, need, reached[g])
                                if k > room // 2:
                                    _exact(x, u, places[g, :k], rows, bias, weight, output_bias, low[g])
                                    k = _sort_best(low[g, :k], places[g], row_of, position_of, n)
                                    high[g, :k] = low[g, :k]
                                    if k == n:
                                        reached[g] = max(reached[g], np.float64(low[g, n - 1]))
                                fresh[g] = k
                                bar[w] = _bar(reached[g] - margin[w], unit[u], shift[u])
                        count[g] = k
        for g in range(members):
            u = group_first + g
            _bound(places[g], low[g], high[g], fresh[g], count[g], error[u], movie_error, block_error)
            k, _ = _narrow(places[g], low[g], high[g], count[g], n, reached[g])
            _exact(x, u, places[g, :k], rows, bias, weight, output_bias, low[g])
            k = _sort_best(low[g, :k], places[g], row_of, position_of, n)
            short[u] = guess[g] > floor and (k < n or low[g, n - 1] < guess[g])
            for i in range(k):
                if low[g, i] < floor:
                    break
                out_idx[u, i] = row_of[places[g, i]]
                out_score[u, i] = low[g, i]


@compiled()
def _ceiling(cap, block_cap):
    return cap[0] * block_cap[0] + cap[1] * block_cap[1] + cap[2]


@compiled()
def _bar(least, unit, shift):
    """The accumulator's value that a pair must pass for v to reach `least`, rounded downwards."""
    value = (least - shift) / unit
    return value - abs(value) * 2.0**-22 - 2.0**-125
