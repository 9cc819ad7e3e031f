"""Rules of a shop, against a plain loop over the complete order of each user."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfjobs import lists, model_store
from cfjobs.config import Config
from cfjobs.lists import build, rules
from cfjobs.lists.build import Limits
from cfjobs.lists.rules import Rules
from cfjobs.model_store.files import Model
from cfjobs.topn import NO_MOVIE, Pairs
from tests.lists.test_first_places import rated

NIGHT = date(2026, 3, 1)
N = 12
USERS = 15


@dataclass(frozen=True)
class Shop:
    """A random shop: its movies table, and the settings of its rules."""

    movies: pl.DataFrame
    settings: dict[str, Any]

    @cached_property
    def values(self) -> list[set[tuple[str, str]]]:
        """Of each movie: column and value."""
        found: list[set[tuple[str, str]]] = [set() for _ in range(self.movies.height)]
        for name in self.settings.get("max_per", {}):
            for movie, value in enumerate(self.movies[name].to_list()):
                several = value.split("|") if isinstance(value, str) else value
                several = several if isinstance(several, list) else [value]
                found[movie] |= {(name, str(one)) for one in several if str(one)}
        return found

    def rules(self, model: Model) -> Rules | None:
        config = Config(**{"top_n": N, **self.settings})
        return rules.of(self.movies, config, n_ratings=n_ratings(model), run_date=NIGHT)


def n_ratings(model: Model) -> np.ndarray:
    return model.movies["n_ratings"].to_numpy()


@pytest.fixture(scope="module")
def model(two_nights: Path) -> Model:
    runs = pl.read_delta(str(two_nights / "out" / "runs")).sort("run_date")
    return replace(model_store.load_model(runs["model_uri"][-1]), stars_weight=0.5)


def shop(model: Model, seed: int, **some: bool) -> Shop:
    """Some of the rules, at random."""
    rng, n_movies = np.random.default_rng(seed), model.movies.height
    table: dict[str, Any] = {"movie_id": model.movies["movie_id"]}
    settings: dict[str, Any] = {"seed": seed, "rule_places": int(rng.integers(1, N + 3))}
    if some.get("boost"):
        table["boost"] = np.where(rng.random(n_movies) < 0.2, rng.normal(size=n_movies) * 3, 0)
    if some.get("pins"):
        pinned, places = rng.random(n_movies) < rng.choice([0.01, 0.05]), rng.integers(1, N + 1, n_movies)
        table["pinned_rank"] = [int(p) if on else None for on, p in zip(pinned, places, strict=True)]
    if some.get("caps"):
        n_values, least = int(rng.integers(1, 9)), int(rng.integers(2))
        kinds = [
            sorted({str(v) for v in rng.integers(n_values, size=rng.integers(least, 4))})
            for _ in range(n_movies)
        ]
        table["kinds"] = (
            pl.Series(["|".join(k) for k in kinds])
            if seed % 2
            else pl.Series(kinds, dtype=pl.List(pl.String))
        )
        table["maker"] = rng.integers(0, 40, n_movies)
        settings["max_per"] = {"kinds": int(rng.integers(1, 5)), "maker": int(rng.integers(1, 3))}
    if some.get("new"):
        settings["new_places"] = int(rng.integers(1, settings["rule_places"] + 1))
        settings["new_max_ratings"] = int(np.quantile(n_ratings(model), rng.choice([0.05, 0.3])))
    return Shop(pl.DataFrame(table), settings)


def by_hand(
    request: lists.Request, shop: Shop, user: int, *, n: int, seed: int
) -> list[tuple[int, str | None]]:
    """One user's list by the words of the rules: movie rows, and the rule of each."""
    score, own = scores_of(request, user), bool(request.by_model[user])
    may = np.flatnonzero(request.limits.listed)
    may = may[~np.isin(may, request.seen.of_user(user))]
    order = may[np.lexsort((may, -score[may]))].tolist()
    pinned = pins_of(order, shop, n=n)
    rest = [m for m in order if m not in place_of(shop)]
    least = request.limits.min_score
    if own:
        rest = [m for m in rest if least is None or score[m] >= np.float32(least)]
    else:
        rest = [m for m in rest if n_ratings(request.model)[m] > 0]
    new_ones = [m for m in rest if n_ratings(request.model)[m] <= shop.settings.get("new_max_ratings", 20)]
    if own and rest:
        low, high = request.model.network.settings.y_range
        liked = (
            stars_of(request, user, rest[: build._SPARE + 1]) >= request.mean_rating[user] - (high - low) / 9
        )
        skip = int(liked.argmax())
        rest = rest[skip:] if len(rest) >= n - len(pinned) + skip else rest

    length = min(len(rest), n - len(pinned)) + len(pinned)
    stands = [min(at, length - len(pinned) + i) for i, at in enumerate(pinned.values(), start=1)]
    top = min(shop.settings["rule_places"], length)
    counted = [m for m, place in zip(pinned, stands, strict=True) if place <= top]
    free = top - len(counted)
    wished = min(shop.settings.get("new_places", 0), free) if own else 0
    first, held, drawn = list[int](), list[int](), list[int]()

    def fill(room: int) -> None:
        for movie in rest:
            if len(first) >= room:
                return
            if movie not in first + held + drawn:
                (first if fits(movie, counted + first + drawn, shop) else held).append(movie)

    fill(free - wished)
    pool = [m for m in new_ones if m not in first and fits(m, counted + first, shop)]
    pool = pool[: 4 * shop.settings.get("new_places", 0)]
    for movie in shuffled(pool, seed) if wished else ():
        if len(drawn) < wished and fits(movie, counted + first + drawn, shop):
            drawn.append(movie)
    drawn.sort(key=pool.index)
    fill(free - len(drawn))
    rule: dict[int, str | None] = dict.fromkeys(drawn, "new") | dict.fromkeys(held, "held_back")
    first += [m for m in rest if m in held][: free - len(drawn) - len(first)]
    others = iter(first + drawn + [m for m in rest if m not in first + drawn])
    by_place = dict(zip(stands, pinned, strict=True))
    listed = [by_place[p] if p in by_place else next(others) for p in range(1, length + 1)]
    return [(m, "pinned" if m in pinned else rule.get(m)) for m in listed]


def scores_of(request: lists.Request, user: int) -> np.ndarray:
    """Every movie's score for a user, exactly; the number of ratings in a popularity list."""
    if not request.by_model[user] or request.scores is None:
        return n_ratings(request.model).astype(np.float32)
    x, q, b = (
        t.double().numpy() for t in (request.scores.user[user], request.scores.movie, request.scores.bias)
    )
    score = np.zeros(len(q))
    for d in range(x.size):
        score += x[d] * q[:, d]
    return (score + b).astype(np.float32)


def place_of(shop: Shop) -> dict[int, int]:
    places = shop.movies["pinned_rank"] if "pinned_rank" in shop.movies.columns else pl.Series([])
    return {movie: place for movie, place in enumerate(places) if place is not None}


def pins_of(order: list[int], shop: Shop, *, n: int) -> dict[int, int]:
    """Each pinned movie of an order and its place in a long list, first to last."""
    found, last = {}, 0
    for place, movie in sorted((place, movie) for movie, place in place_of(shop).items() if movie in order):
        last = max(place, last + 1)
        if last <= n:
            found[movie] = last
    return found


def fits(movie: int, there: list[int], shop: Shop) -> bool:
    counted = Counter(value for other in there for value in shop.values[other])
    return all(counted[name, value] < shop.settings["max_per"][name] for name, value in shop.values[movie])


def shuffled(pool: list[int], seed: int) -> list[int]:
    """By splitmix64, Fisher and Yates."""
    pool, state, mask = list(pool), int(seed), 2**64 - 1
    for i in range(len(pool) - 1, 0, -1):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        j = (z ^ (z >> 31)) % (i + 1)
        pool[i], pool[j] = pool[j], pool[i]
    return pool


def stars_of(request: lists.Request, user: int, movies: list[int]) -> np.ndarray:
    return build._predicted(request.model, np.full(len(movies), user), np.array(movies, np.int32))


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    some=st.fixed_dictionaries({name: st.booleans() for name in ("boost", "pins", "caps", "new")}),
    few=st.sampled_from([1.0, 0.3, 0.05]),
    least=st.sampled_from([None, None, -3.0]),
    stars=st.sampled_from([2.5, 4.5]),
)
def test_lists_are_those_of_the_rules_by_hand(
    model: Model, seed: int, some: dict[str, bool], few: float, least: float | None, stars: float
) -> None:
    """Over the complete order, where few movies may be listed too, of the model and by popularity."""
    where = shop(model, seed, **some)
    limits = limits_of(model, where, seed=seed, few=few, least=least)
    frame = rated(model, stars=stars).filter(pl.col("user_idx") < USERS, pl.col("user_idx") % 7 != 3)
    request = lists.request_of(model, frame, users=range(USERS), limits=limits)
    (batch,) = lists.best(request, n=N)
    if limits.rules is None:
        return
    assert batch.rule is not None
    seeds = limits.rules.seeds(model.users["user_id"][:USERS].to_list())
    for user in range(USERS):
        found = [
            (m, rules.NAMES[code])
            for m, code in zip(batch.movie_idx[user].tolist(), batch.rule[user].tolist(), strict=True)
            if m != NO_MOVIE
        ]
        assert found == by_hand(request, where, user, n=N, seed=int(seeds[user]))


def limits_of(model: Model, where: Shop, *, seed: int, few: float, least: float | None) -> Limits:
    rng, n_movies = np.random.default_rng(seed), model.movies.height
    listed = lists.candidates(model) & (rng.random(n_movies) < few)
    excluded = Pairs.of(rng.integers(0, USERS, 40), rng.integers(0, n_movies, 40), n_users=USERS)
    return Limits(
        listed=listed, excluded=excluded.joined(excluded), min_score=least, rules=where.rules(model)
    )


@pytest.mark.parametrize("batch_users", [1, 7])
@pytest.mark.parametrize("seed", [1, 4])
def test_no_batch_size_changes_a_list(model: Model, seed: int, batch_users: int) -> None:
    where = shop(model, seed, boost=True, pins=True, caps=True, new=True)
    limits = Limits(listed=lists.candidates(model), rules=where.rules(model))
    frame = rated(model, stars=3.5).filter(pl.col("user_idx") < USERS, pl.col("user_idx") != 3)

    def of(users: range) -> np.ndarray:
        found = list(lists.best(lists.request_of(model, frame, users=users, limits=limits), n=N))
        return np.concatenate([np.stack([b.movie_idx, b.rule], axis=2) for b in found if b.rule is not None])

    parts = [of(range(at, min(at + batch_users, USERS))) for at in range(0, USERS, batch_users)]
    np.testing.assert_array_equal(np.concatenate(parts), of(range(USERS)))


def test_another_night_draws_others(model: Model) -> None:
    ids = model.users["user_id"].to_list()
    where = shop(model, 1, new=True)
    config = Config(top_n=N, **where.settings)
    found = [
        rules.of(where.movies, config, n_ratings=n_ratings(model), run_date=day)
        for day in (NIGHT, NIGHT, NIGHT.replace(day=2))
    ]
    seeds = [of.seeds(ids) for of in found if of is not None]
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert len(set(np.concatenate(seeds).tolist())) == 2 * len(ids)
