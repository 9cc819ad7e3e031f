"""The lists of users under the rules of a shop, user after user: `rules.py` says what they are.

order   the movies that may be listed, best first, without the pinned ones
first   those of them that stand in the first places: the best that fit under the caps
"""

import numpy as np

from cfjobs.compiled import compiled

BY_SCORE, PINNED, NEW, HELD_BACK = range(4)
_OPEN, _FIRST, _PASSED = range(3)  # what has become of a movie of an order


@compiled()
def _fits(movie, values, counts):  # type: ignore[no-untyped-def]
    """Whether one more movie with these values keeps every cap."""
    indptr, value, most = values
    for at in range(indptr[movie], indptr[movie + 1]):
        if counts[value[at]] >= most[value[at]]:
            return False
    return True


@compiled()
def _count(movie, values, counts):  # type: ignore[no-untyped-def]
    indptr, value, _ = values
    for at in range(indptr[movie], indptr[movie + 1]):
        counts[value[at]] += 1


@compiled()
def _forget(movie, values, counts):  # type: ignore[no-untyped-def]
    indptr, value, _ = values
    for at in range(indptr[movie], indptr[movie + 1]):
        counts[value[at]] = 0


@compiled()
def _fill(movie, kind, begin, room, values, counts, first):  # type: ignore[no-untyped-def]
    """Append to first [n] what fits, from place begin[0] of an order on, until room are there; what does not
    fit is passed over. Returns how many there are."""
    at, n = begin
    while n < room and at < kind.size:
        if kind[at] == _OPEN:
            if _fits(movie[at], values, counts):
                _count(movie[at], values, counts)
                kind[at] = _FIRST
                first[n] = at
                n += 1
            else:
                kind[at] = _PASSED
        at += 1
    return at, n


@compiled()
def _pool(new, first, values, counts, pool):  # type: ignore[no-untyped-def]
    """Fill pool with places among the new movies: of the best that are not in the first places, and fit.
    Returns how many."""
    n, at = 0, 0
    while n < pool.size and at < new.size and new[at] >= 0:
        if not (first == new[at]).any() and _fits(new[at], values, counts):
            pool[n] = at
            n += 1
        at += 1
    return n


@compiled()
def _draw(new, pool, seed, taken, wished, values, counts):  # type: ignore[no-untyped-def]
    """Fill taken with places among the new movies, best first: drawn from the pool, as far as they fit.
    Returns how many."""
    state = seed
    for i in range(pool.size - 1, 0, -1):  # splitmix64, Fisher and Yates
        state = np.uint64(state + np.uint64(0x9E3779B97F4A7C15))
        z = state
        z = np.uint64((z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
        z = np.uint64((z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
        j = np.int64((z ^ (z >> np.uint64(31))) % np.uint64(i + 1))
        pool[i], pool[j] = pool[j], pool[i]
    n = 0
    for i in range(pool.size):
        if n == wished:
            break
        if _fits(new[pool[i]], values, counts):
            _count(new[pool[i]], values, counts)
            taken[n] = pool[i]
            n += 1
    taken[:n].sort()
    return n


@compiled()
def place(order, pins, pool, values, sizes, out):  # type: ignore[no-untyped-def]
    """Fill out: movie, score, rule [B, N], and short [B] where the order, or the new movies, ended before the
    first places were full.

    order: movie, score [B, W], whole, own [B]. pins: movie [P], slot [B, P], 0 for none, score [B, P].
    pool: movie, score [B, Q], whole, seed [B]. values: indptr [M + 1], value, most [V]. sizes: first places,
    new ones among them, new movies to draw from.
    """
    movie, score, whole, own = order
    pinned, slot, pinned_score = pins
    new, new_score, new_whole, seed = pool
    places, new_places, drawn_from = sizes
    listed, listed_score, rule, short = out
    n_users, n = listed.shape
    counts = np.zeros(values[2].size, np.int64)
    first, taken = np.empty(places, np.int64), np.empty(new_places, np.int64)
    drawn = np.empty(drawn_from, np.int64)
    at_pin, pin = np.empty(pinned.size, np.int64), np.empty(pinned.size, np.int64)
    for user in range(n_users):
        width = 0
        while width < movie.shape[1] and movie[user, width] >= 0:
            width += 1
        kind = np.full(width, _OPEN, np.int8)
        n_pins = 0
        for p in range(pinned.size):
            if slot[user, p] > 0:
                pin[n_pins], at_pin[n_pins] = p, slot[user, p]
                n_pins += 1
        n_rest = min(width, n - n_pins)
        n_free = top = min(places, n_rest + n_pins)
        for i in range(n_pins):
            at_pin[i] = min(at_pin[i], n_rest + i + 1)  # in a shorter list they come last
            if at_pin[i] <= top:
                n_free -= 1
                _count(pinned[pin[i]], values, counts)

        wished = min(new_places, n_free) if own[user] else 0
        at, n_first = _fill(movie[user], kind, (0, 0), n_free - wished, values, counts, first)
        lacks = n_first < n_free - wished and not whole[user]
        n_taken = 0
        if not lacks and wished:
            n_pool = _pool(new[user], movie[user][first[:n_first]], values, counts, drawn)
            lacks = n_pool < drawn_from and not new_whole[user]
            n_taken = _draw(new[user], drawn[:n_pool], seed[user], taken, wished, values, counts)
            for i in range(n_taken):
                for k in range(width):
                    if movie[user, k] == new[user, taken[i]]:
                        kind[k] = _FIRST
            at, n_first = _fill(movie[user], kind, (at, n_first), n_free - n_taken, values, counts, first)
            lacks = lacks or (n_first < n_free - n_taken and not whole[user])
        for i in range(n_pins):
            _forget(pinned[pin[i]], values, counts)
        for i in range(n_first):
            _forget(movie[user, first[i]], values, counts)
        for i in range(n_taken):
            _forget(new[user, taken[i]], values, counts)
        if lacks:
            short[user] = True
            continue
        n_fit = n_first
        for k in range(width):  # nothing else fits: those passed over, as they come
            if n_first == n_free - n_taken:
                break
            if kind[k] == _PASSED:
                kind[k] = _FIRST
                first[n_first] = k
                n_first += 1

        next_pin, next_rest, behind = 0, 0, 0
        for rank in range(n_rest + n_pins):
            if next_pin < n_pins and at_pin[next_pin] == rank + 1:
                p = pin[next_pin]
                listed[user, rank], listed_score[user, rank] = pinned[p], pinned_score[user, p]
                rule[user, rank] = PINNED
                next_pin += 1
                continue
            if next_rest < n_first:
                k = first[next_rest]
                rule[user, rank] = BY_SCORE if next_rest < n_fit else HELD_BACK
            elif next_rest < n_first + n_taken:
                q = taken[next_rest - n_first]
                listed[user, rank], listed_score[user, rank] = new[user, q], new_score[user, q]
                rule[user, rank] = NEW
                next_rest += 1
                continue
            else:
                while kind[behind] == _FIRST:
                    behind += 1
                k = behind
                rule[user, rank] = HELD_BACK if kind[k] == _PASSED else BY_SCORE
                behind += 1
            listed[user, rank], listed_score[user, rank] = movie[user, k], score[user, k]
            next_rest += 1
