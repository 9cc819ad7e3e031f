"""A look around the published movies: search by title, and what is like what.
Reads the published tables only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from deltalake import DeltaTable

from cfjobs import tables
from cfjobs.errors import InputError
from cfjobs.tables import delta
from cfjobs.tables.runs import Source, night_of

Row = dict[str, Any]

_MOVIES = """
    select movie_id, title, n_ratings, bias from movie_embeddings
    where run_date = {run_date} order by n_ratings desc, movie_id
"""
_SIMILAR = """
    select s.rank, s.similar_movie_id as movie_id, m.title, m.n_ratings, s.cosine, {listable} as listable
    from similar_movies s
    left join movie_embeddings m on m.run_date = s.run_date and m.movie_id = s.similar_movie_id {listed}
    where s.run_date = {run_date} and s.movie_id = {movie} order by s.rank
"""


@dataclass(frozen=True)
class Similar:
    """A movie and those like it. rows: rank, movie_id, title, n_ratings, cosine, listable: whether the night
    could list it, None where the night did not tell."""

    movie_id: str | int
    title: str | None
    run_date: date
    rows: Sequence[Row]


def search(output: str, text: str, *, run_date: date | None = None, n: int = 20) -> list[Row]:
    """Movies whose title has every word of the text, or whose id it is; most rated first.

    movie_id, title, n_ratings, bias, which is left out where no rating was given. InputError when there is
    none.
    """
    found = matching(_movies(night_of(output, run_date)), text)
    if not found:
        raise InputError(f"movies: no title has {text!r} in it; try fewer letters, or the movie's id")
    if all(row["bias"] is None for row in found):
        found = [{name: value for name, value in row.items() if name != "bias"} for row in found]
    return found[:n]


def similar(
    output: str, movie: str, *, run_date: date | None = None, n: int = 10, listable: bool = False
) -> Similar:
    """The movies most like one, which is named by its id, its title, or words that only its title has.

    listable: without those that the night could not list; places keep their rank among all.
    """
    night = night_of(output, run_date)
    day, chosen = night.run["run_date"], one_movie(_movies(night), movie)
    listed = _listed(night)
    if listable and not listed:
        raise InputError(f"--listable: the night of {day} does not tell what it could list; leave it out")
    join = "left join listed d on d.run_date = s.run_date and d.movie_id = s.similar_movie_id"
    rows = delta.select(
        _SIMILAR.format(
            run_date=delta.literal(day),
            movie=delta.literal(chosen["movie_id"]),
            listable="d.listable" if listed else "null",
            listed=join if listed else "",
        ),
        similar_movies=night.table(tables.SIMILAR_MOVIES),
        movie_embeddings=night.table(tables.MOVIE_EMBEDDINGS),
        **listed,
    )
    if not rows:
        raise InputError(
            f"movie {chosen['movie_id']}, {chosen['title']}: has too few ratings to be like others (similar_min_ratings); "
            "name one with more"
        )
    found = [row for row in rows if row["listable"] or not listable]
    if not found:
        raise InputError(
            f"movie {chosen['movie_id']}, {chosen['title']}: none of the {len(rows)} movies like it could be listed on {day}"
        )
    return Similar(chosen["movie_id"], chosen["title"], day, found[:n])


def _listed(night: Source) -> dict[str, DeltaTable]:
    """The night's table of movies, where it tells what could be listed."""
    if night.version(tables.MOVIES) is None:
        return {}
    movies = night.table(tables.MOVIES)
    known = any(field.name == "listable" for field in movies.schema().fields)
    return {"listed": movies} if known else {}


def one_movie(movies: Sequence[Row], text: str) -> Row:
    """The row of the movie that the text names: by id, by title, or by words.
    InputError when it is none or several."""
    wanted = text.strip().lower()
    without_article = re.sub(r"^(the|a|an)\s+", "", wanted)
    titled = [row for row in movies if row["title"]]
    by_words = matching(movies, text)
    for found in (
        [row for row in movies if str(row["movie_id"]) == text.strip()],
        [row for row in titled if _title(row) == wanted],
        [row for row in titled if _name(row) == wanted],
        [
            row for row in titled if re.sub(r",\s+(the|a|an)$", "", _name(row)) == without_article
        ],  # "Matrix, The"
        by_words,
    ):
        if len(found) == 1:
            return found[0]
    if not by_words:
        raise InputError(f"movie {text!r}: no id and no title is like it; `cfjobs movies` searches titles")
    some = "; ".join(f"{row['movie_id']} {row['title']}" for row in by_words[:5])
    some += f"; and {len(by_words) - 5} more" if len(by_words) > 5 else ""
    raise InputError(f"movie {text!r}: fits {len(by_words)} movies ({some}); name one by its id")


def _movies(night: Source) -> list[Row]:
    """The night's movies, most rated first."""
    query = _MOVIES.format(run_date=delta.literal(night.run["run_date"]))
    return delta.select(query, movie_embeddings=night.table(tables.MOVIE_EMBEDDINGS))


def matching(movies: Sequence[Row], text: str) -> list[Row]:
    """The rows whose title has every word of the text, or whose id it is."""
    words = text.lower().split()
    return [
        row
        for row in movies
        if str(row["movie_id"]) == text.strip() or (words and all(word in _title(row) for word in words))
    ]


def _title(row: Row) -> str:
    return (row["title"] or "").lower()


def _name(row: Row) -> str:
    """The title without its year."""
    return re.sub(r"\s*\(\d{4}\)\s*$", "", _title(row))
