"""An explanation in words: what the user liked and speaks for the movie, what else does, what speaks against
it, and what the rest adds up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from cfjobs import tables
from cfjobs.query.explain import Explanation

LIKED, OTHERS = 7, 3
"""Ratings shown of each kind, at most."""

_RULES = {
    tables.PINNED: ", pinned to it, whatever its score",
    tables.NEW: ", one of the places for new movies",
    tables.HELD_BACK: ", held back by max_per behind others of its kind",
}
_NOTHING = 5e-4  # what rounds to no part


@dataclass(frozen=True)
class Reasons:
    """Lines, then groups (heading, rows of title, rating, rated_at, part), then lines."""

    begin: Sequence[str]
    groups: Sequence[tuple[str, Sequence[dict[str, Any]]]]
    end: Sequence[str]


def of(found: Explanation) -> Reasons:
    """The reasons: ratings no lower than the user's own mean are liked ones.
    Parts that round to 0 are left out."""
    groups, rest = _groups(found) if found.parts.history else ([], None)
    return Reasons(_begin(found), groups, [*([rest] if rest else []), _sum(found)])


def _begin(found: Explanation) -> list[str]:
    place = f"not listed: place {found.place} of {found.n_candidates:,}" if found.place else ""
    if found.rank:
        place = f"rank {found.rank} of {found.n_candidates:,} movies that could be listed{_RULES.get(found.rule or '', '')}"
    elif found.rated is not None:
        place = f"not listed: the user has rated it {found.rated:g}"
    elif found.seen:
        place = "not listed: the user has chosen it already"
    elif found.withheld:
        place = "not listed: withheld that night, by allow, deny or its days of availability"
    elif found.place is None:
        place = "not listed: too few ratings"
    name = found.title or found.movie_id
    line = f"{name} for user {found.user_id}, {found.run_date}: {place}"
    return [
        line + ("" if found.predicted_rating is None else f", {found.predicted_rating:.1f} stars predicted")
    ]


def _groups(found: Explanation) -> tuple[list[tuple[str, list[dict[str, Any]]]], str | None]:
    """The ratings that say most, by kind, and what the others add up to."""
    frame = found.frame.with_columns(pl.col("rated_at").dt.date()).with_row_index("row")
    frame = frame.filter(pl.col("part").abs() >= _NOTHING)
    rated = frame["rating"].null_count() < frame.height
    liked = (pl.col("rating") >= found.frame["rating"].mean()).fill_null(True) if rated else pl.lit(True)
    speaks_for = frame.filter(pl.col("part") > 0)
    kinds = [
        (
            "Because the user liked" if rated else "Because the user chose",
            speaks_for.filter(liked).head(LIKED),
        ),
        ("Though rated low", speaks_for.filter(~liked).head(OTHERS)),
        ("Against it", frame.filter(pl.col("part") < 0).tail(OTHERS).reverse()),
    ]
    columns = [
        "title" if frame["title"].null_count() < frame.height else "movie_id",
        "rating",
        "rated_at",
        "part",
    ]
    columns = [name for name in columns if frame[name].null_count() < frame.height]
    groups = [
        (heading, rows.select(columns).with_columns(*_written(columns)).to_dicts())
        for heading, rows in kinds
        if rows.height
    ]
    shown = pl.concat(rows["row"] for _, rows in kinds)
    others = frame.filter(~pl.col("row").is_in(shown.implode()))
    if others.is_empty():
        return groups, None
    return groups, f"{others.height} other ratings together {float(others['part'].sum()):+.3f}"


def _written(columns: Sequence[str]) -> list[pl.Expr]:
    """Ratings and parts as text."""
    forms = {"rating": "{:g}", "part": "{:+.3f}"}
    return [
        pl.col(name).map_elements(form.format, return_dtype=pl.String)
        for name, form in forms.items()
        if name in columns
    ]


def _sum(found: Explanation) -> str:
    """The score, and the parts that add up to it."""
    parts = found.parts
    named = (
        ("the user's ratings", sum(parts.history)),
        ("the user's taste (embedding)", parts.embedding),
        ("the movie itself (bias)", parts.bias),
        (f"predicted stars (weight {found.stars_weight:g})", parts.stars),
        ("the shop's boost", parts.boost),
    )
    told = [f"{name} {value:+.3f}" for name, value in named if abs(value) >= _NOTHING]
    return f"score {parts.score:+.3f} = {'; '.join(told)}" if told else f"score {parts.score:+.3f}"
