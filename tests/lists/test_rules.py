"""Rules of a shop, against a plain loop over the complete order; and what is said of columns that will not do."""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfjobs import lists, model_store
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.lists import build, rules
from cfjobs.lists.build import Limits
from cfjobs.lists.rules import Rules
from cfjobs.model_store.files import Model
from cfjobs.topn import NO_MOVIE, Pairs
from tests.lists.test_first_places import predicted, rated

NIGHT = date(2026, 3, 1)
N = 12
USERS = 20


@dataclass(frozen=True)
class Shop:
    """A random shop: its movies table, and the settings of its rules."""

    movies: pl.DataFrame
    settings: dict[str, Any]

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
        pinned = rng.random(n_movies) < rng.choice([0.01, 0.05])
        table["pinned_rank"] = [
            int(p) if on else None for on, p in zip(pinned, rng.integers(1, N + 1, n_movies))
        ]
    if some.get("caps"):
        n_values = int(rng.integers(1, 9))
        kinds = [
            sorted({str(v) for v in rng.integers(n_values, size=rng.integers(0, 4))}) for _ in range(n_movies)
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


def by_hand(asked: lists.Asked, shop: Shop, user: int, *, n: int, seed: int) -> list[tuple[int, str | None]]:
    """One user's list by the words of the rules: movie rows, and the rule of each."""
    model, movies = asked.model, shop.movies
    own = bool(asked.by_model[user])
    may = np.flatnonzero(asked.limits.listed)
    may = may[~np.isin(may, asked.seen.of_user(user))]
    if own:
        x, q, b = (
            t.double().numpy() for t in (asked.scores.user[user], asked.scores.movie, asked.scores.bias)
        )
        score = np.zeros(model.movies.height, np.float64)
        for d in range(x.size):
            score += x[d] * q[:, d]
        score = (score + b).astype(np.float32)
    else:
        score = n_ratings(model).astype(np.float32)
    order = may[np.lexsort((may, -score[may]))].tolist()
    places = movies["pinned_rank"].to_list() if "pinned_rank" in movies.columns else [None] * movies.height
    pins = sorted((p, m) for m in order if (p := places[m]))
    rest = [m for m in order if not places[m]]
    if own and asked.limits.min_score is not None:
        rest = [m for m in rest if score[m] >= np.float32(asked.limits.min_score)]
    if not own:
        rest = [m for m in rest if n_ratings(model)[m] > 0]
    at, slot = {}, 0
    for place, movie in pins:
        slot = max(place, slot + 1)
        if slot <= n:
            at[movie] = slot
    pinned = sorted(at, key=at.__getitem__)
    if own and rest:
        low, high = model.network.settings.y_range
        stars = predicted_of(asked, user, rest[: build._SPARE + 1])
        liked = stars >= asked.mean_rating[user] - (high - low) / 9
        skip = int(liked.argmax())
        if len(rest) >= n - len(pinned) + skip:
            rest_of_lists = rest[skip:]
        else:
            rest_of_lists = rest
    else:
        rest_of_lists = rest
    new_ones = [m for m in rest if n_ratings(model)[m] <= shop.settings.get("new_max_ratings", 20)]
    rest = rest_of_lists

    def values(movie: int) -> set[tuple[str, str]]:
        found = set()
        for name in shop.settings.get("max_per", {}):
            value = movies[name][movie]
            several = (
                value.split("|")
                if isinstance(value, str)
                else value
                if isinstance(value, pl.Series)
                else [value]
            )
            found |= {(name, str(one)) for one in several if str(one)}
        return found

    def fits(movie: int, there: list[int]) -> bool:
        most = shop.settings.get("max_per", {})
        return all(sum(v in values(m) for m in there) < most[v[0]] for v in values(movie))

    length = min(len(rest), n - len(pinned)) + len(pinned)
    stands = [min(at[m], length - len(pinned) + i + 1) for i, m in enumerate(pinned)]
    top = min(shop.settings["rule_places"], length)
    counted = [m for m, place in zip(pinned, stands, strict=True) if place <= top]
    free = top - len(counted)
    wished = min(shop.settings.get("new_places", 0), free) if own else 0
    first: list[int] = []
    held: list[int] = []
    drawn: list[int] = []

    def fill(room: int) -> None:
        for movie in rest:
            if len(first) >= room:
                return
            if movie in first or movie in held or movie in drawn:
                continue
            (first if fits(movie, counted + first + drawn) else held).append(movie)

    fill(free - wished)
    if wished:
        pool = [m for m in new_ones if m not in first][: 4 * shop.settings["new_places"]]
        for movie in shuffled(pool, seed):
            if len(drawn) < wished and fits(movie, counted + first + drawn):
                drawn.append(movie)
        drawn.sort(key=pool.index)
        fill(free - len(drawn))
    rule: dict[int, str | None] = dict.fromkeys(drawn, "new") | dict.fromkeys(held, "held_back")
    first += [m for m in rest if m in held][: free - len(drawn) - len(first)]
    ordinary = first + drawn + [m for m in rest if m not in first and m not in drawn]
    listed: list[int] = []
    for place in range(1, length + 1):
        listed.append(pinned[stands.index(place)] if place in stands else ordinary.pop(0))
    return [(m, "pinned" if m in pinned else rule.get(m)) for m in listed]


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


def predicted_of(asked: lists.Asked, user: int, movies: list[int]) -> np.ndarray:
    return build._predicted(asked.model, np.full(len(movies), user), np.array(movies, np.int32))


@settings(max_examples=60)
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
    """Over the complete order, also where few movies may be listed, in lists of the model and by popularity."""
    where = shop(model, seed, **some)
    limits = limits_of(model, where, seed=seed, few=few, least=least)
    frame = rated(model, stars=stars).filter(pl.col("user_idx") < USERS, pl.col("user_idx") % 7 != 3)
    asked = lists.ask(model, frame, users=range(USERS), limits=limits)
    (batch,) = lists.best(asked, n=N)
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
        assert found == by_hand(asked, where, user, n=N, seed=int(seeds[user]))


def limits_of(model: Model, where: Shop, *, seed: int, few: float, least: float | None) -> Limits:
    rng, n_movies = np.random.default_rng(seed), model.movies.height
    listed = lists.candidates(model) & (rng.random(n_movies) < few)
    excluded = Pairs.of(rng.integers(0, USERS, 50), rng.integers(0, n_movies, 50), n_users=USERS)
    return Limits(
        listed=listed, excluded=excluded.joined(excluded), min_score=least, rules=where.rules(model)
    )
