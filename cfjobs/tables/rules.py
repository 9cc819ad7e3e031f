"""The rules of `top_n`, row by row: what a broken list looks like."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import polars as pl

from cfjobs.tables.schema import HELD_BACK, NEW, PINNED, SOURCE_MODEL, SOURCE_POPULAR, TOP_N


@dataclass(frozen=True)
class ShopRules:
    """What the rules of a shop promise of its lists. places: the first ones, new_places of them for new
    movies. pinned: movie_id, wanted, a movie once, in order of the pins. values: movie_id, value, most."""

    places: int
    new_places: int
    pinned: pl.DataFrame
    values: pl.DataFrame


def list_faults(
    lists: pl.DataFrame,
    *,
    seen: pl.DataFrame,
    top_n: int,
    y_range: tuple[float, float] | None,
    withheld: pl.Series | None = None,
    key: tuple[str, ...] = ("user_id",),
    rules: ShopRules | None = None,
) -> list[str]:
    """What is wrong with rows of `top_n`, each fault with its number of rows; empty when every rule holds.

    lists: the rows in the order in which they were written. seen: user_id, movie_id of the night's ratings;
    without a row where they are not at hand. y_range: None for implicit feedback, of which no rating is
    predicted. withheld: ids of movies that must not be listed that night. key: the columns that name a list.
    rules: of the shop.
    """
    filled = [c.name for c in TOP_N.columns if not c.nullable and c.name in lists.columns]
    filled += ["predicted_rating"] * (y_range is not None)
    filled += [name for name in key if name not in filled]
    known = seen.select(_number("user_id", "movie_id")).to_series()
    again = lists.height - _n_different(lists, *key, "movie_id", wanted=lists.height)
    n_lists = lists.filter(pl.col("rank") == 1).height
    second = n_lists - _n_different(lists, *key, wanted=n_lists)
    rated = lists.filter(_is_in(lists, known, "user_id", "movie_id"))
    if not rated.is_empty():  # by their numbers; exactly
        rated = rated.join(seen, on=["user_id", "movie_id"], how="semi")
    reasons = pl.Series([], dtype=pl.Boolean)
    if "because" in lists.columns and seen.height:
        given = lists.filter(pl.col("because").is_not_null())
        reasons = _is_in(given, known, "user_id", "because")
    same_list = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in key)
    by_score = lists.filter(pl.col("rule").is_null()) if "rule" in lists.columns else lists
    number = [name for name, kind in lists.schema.items() if kind.is_float()]
    held = pl.lit(value=False) if withheld is None else pl.col("movie_id").is_in(withheld.implode())
    found = {
        "hold a null": lists.filter(pl.any_horizontal(pl.col(filled).is_null())).height,
        "hold a number that is not finite": lists.filter(
            pl.any_horizontal(~pl.col(name).is_finite() for name in number)
        ).height,
        "break the ranks 1, 2, ... of their list": lists.filter(
            pl.col("rank") != pl.when(same_list).then(pl.col("rank").shift(1) + 1).otherwise(1)
        ).height,
        f"are beyond rank {top_n}": lists.filter(pl.col("rank") > top_n).height,
        "have a higher score than the rank before": by_score.filter(
            same_list & (pl.col("score") > pl.col("score").shift(1))
        ).height,
        "repeat a movie of their list": again,
        "show a movie that the user has rated": rated.height,
        "show a movie that may not be listed": lists.filter(held).height,
        "name as a reason a movie that the user has not rated": int((~reasons).sum()),
        **_predicted_faults(lists, y_range),
        "belong to a second list of their user": second,
        "have an unknown source": lists.filter(
            ~pl.col("source").is_in([SOURCE_MODEL, SOURCE_POPULAR])
        ).height,
        **(_rule_faults(lists, rules) if rules is not None else {}),
    }
    return [f"{rows:,} rows {fault}" for fault, rows in found.items() if rows]


def _number(*columns: str) -> pl.Expr:
    """64 bits for the values of each row: the same for equal ones, and for others but for a chance of 2^-64.
    One number is found much faster than a pair."""
    numbers = [pl.col(name).hash(place) for place, name in enumerate(columns)]
    return reduce(operator.xor, numbers)


def _n_different(frame: pl.DataFrame, *columns: str, wanted: int) -> int:
    """How many different rows there are in these columns: by their numbers where these are as many as wanted,
    else exactly."""
    found: int = frame.select(_number(*columns).n_unique()).item()
    return found if found == wanted else frame.select(pl.struct(*columns).n_unique()).item()


def _is_in(frame: pl.DataFrame, known: pl.Series, *columns: str) -> pl.Series:
    """Whether the values of each row are among those with these numbers."""
    return frame.select(_number(*columns).is_in(known.implode())).to_series()


OF_VALUE = ("user_id", "column", "value")
"""What names a list of `top_n_by_value`."""


def by_value_faults(
    lists: pl.DataFrame,
    *,
    seen: pl.DataFrame,
    lists_per: Mapping[str, int],
    having: pl.DataFrame,
    y_range: tuple[float, float] | None,
    withheld: pl.Series | None = None,
) -> list[str]:
    """What is wrong with rows of `top_n_by_value`, as `list_faults`.

    lists_per: the longest list of each column. having: column, value, movie_id of all movies with a value.
    """
    longest = pl.col("column").replace_strict(dict(lists_per), default=0, return_dtype=pl.Int64)
    before = {name: pl.col(name).shift(1) for name in OF_VALUE}
    same_user, same_column = (pl.col(name) == before[name] for name in ("user_id", "column"))
    falls = {name: pl.col(name) < before[name] for name in ("column", "value")}
    unsorted = same_user & (falls["column"] | (same_column & falls["value"]))
    found = {
        "are beyond the places of their column": lists.filter(pl.col("rank") > longest).height,
        "show a movie without the value": lists.join(
            having, on=["column", "value", "movie_id"], how="anti"
        ).height,
        "are not in order of column and value": lists.filter(unsorted).height,
    }
    faults = list_faults(
        lists, seen=seen, top_n=max(lists_per.values()), y_range=y_range, withheld=withheld, key=OF_VALUE
    )
    return faults + [f"{rows:,} rows {fault}" for fault, rows in found.items() if rows]


def _rule_faults(lists: pl.DataFrame, rules: ShopRules) -> dict[str, int]:
    """What the rules of the shop do not allow. In a list of R movies and some pinned ones the pinned movie
    number i, which wants a place of its own, stands at R + i at most."""
    rule, rank = pl.col("rule"), pl.col("rank")
    pinned = rule == PINNED
    order = rules.pinned.with_row_index("order")
    found = lists.with_columns((~pinned.fill_null(value=False)).sum().over("user_id").alias("rest"))
    found = found.join(order, on="movie_id", how="left", maintain_order="left")
    pins = found.filter(pinned).sort("user_id", "order", nulls_last=True)
    i = pl.int_range(1, pl.len() + 1).over("user_id")
    stands = pl.min_horizontal((pl.col("wanted") - i).cum_max().over("user_id") + i, pl.col("rest") + i)
    first = lists.filter(rank <= rules.places, (rule != HELD_BACK).fill_null(value=True))
    first = first.join(rules.values, on="movie_id").select("user_id", "rule", "value", "most")
    over = first.filter(
        pl.len().over("user_id", "value") > pl.col("most"), ~pl.col("rule").eq_missing(PINNED)
    )
    new = lists.filter(rule == NEW)
    return {
        "have an unknown rule": lists.filter(~rule.is_in([PINNED, NEW, HELD_BACK])).height,
        "are not at the place to which they are pinned": pins.filter(
            ~(rank == stands).fill_null(value=False)
        ).height,
        "are pinned, and stand by another rule": found.filter(
            pl.col("wanted").is_not_null(), ~pinned.fill_null(value=False)
        ).height,
        f"are more of a kind than max_per allows in the first {rules.places} places": over.height,
        f"are new movies beyond the first {rules.places} places": new.filter(rank > rules.places).height,
        "are new movies beyond new_places": new.filter(
            pl.int_range(1, pl.len() + 1).over("user_id") > rules.new_places
        ).height,
    }


def _predicted_faults(lists: pl.DataFrame, y_range: tuple[float, float] | None) -> dict[str, int]:
    stars = pl.col("predicted_rating")
    if y_range is None:
        return {"predict a rating where nobody gave one": lists.filter(stars.is_not_null()).height}
    low, high = y_range
    outside = ~stars.is_between(pl.lit(low, pl.Float32), pl.lit(high, pl.Float32))
    return {f"predict a rating outside {low:g} to {high:g}": lists.filter(outside).height}
