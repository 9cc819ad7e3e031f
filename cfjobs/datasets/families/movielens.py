"""MovieLens, every release: 100k (u.data), 1M and 10M (`::`), 20M to 32M and latest (CSV), with genome tags
as a column `genome_tags` of the movies; Kaggle's copies too, whose times are text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import (
    WHOLE,
    Family,
    Found,
    Table,
    beside,
    has_lines,
    header,
    one_of,
    with_header,
    without_header,
)
from cfjobs.datasets.text import FAULT, delimited, divided, lines

TAG_RELEVANCE = 0.5
"""A genome tag describes a movie from this relevance on, of 0 to 1."""
TAGS_A_MOVIE = 20
"""At most so many of them, the most relevant."""

_RATING = ("user_id", "movie_id", "rating", "timestamp")
_BY_NAME = {"userid": "user_id", "movieid": "movie_id", "rating": "rating", "timestamp": "timestamp"}
_GENRES = (  # the flags of u.item from field 5 on, as its u.genre numbers them
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_MOVIE = {"movie_id": pl.Int64()}
_USER = {"user_id": pl.Int64()}
_AGE = ("age",)


def _find(members: Sequence[Member]) -> Found | None:
    for find in (_csv, _dat, _data):
        if found := find(members):
            return found
    return None


def _csv(members: Sequence[Member]) -> Found | None:
    heads = {member.name: header(member) for member in members}

    def those(*columns: str) -> list[Member]:
        return [member for member in members if (head := heads[member.name]) and head.has(*columns)]

    candidates = [
        member for member in those("userid", "movieid", "rating", "timestamp") if _is_theirs(member)
    ]
    if not candidates:
        return None
    ratings = one_of(candidates)
    movies = beside(those("movieid", "title"), ratings)
    table = None
    if movies is not None:
        head = heads[movies.name]
        assert head is not None
        table = with_header([movies], {"movieid": "movie_id"}, ids=_MOVIE, keep=head.plain)
        scores, tags = (
            beside(those(*c), ratings) for c in (("movieid", "tagid", "relevance"), ("tagid", "tag"))
        )
        if scores and tags:
            table = _with_genome(table, scores, tags)
    return Found("MovieLens", with_header([ratings], _BY_NAME, ids=WHOLE), table)


def _is_theirs(member: Member) -> bool:
    """Its columns are written as GroupLens does, `userId`: other spellings are other people's."""
    return re.search(r"\buserId\b.*\bmovieId\b|\bmovieId\b.*\buserId\b", member.lines[0]) is not None


def _dat(members: Sequence[Member]) -> Found | None:
    candidates = [m for m in members if has_lines(m, r"\d+::\d{1,6}::\d+(\.\d+)?::\d+")]
    if not candidates:
        return None
    ratings = one_of(candidates, preferred=["ratings.dat"])
    movies = beside([m for m in members if has_lines(m, r"\d+::.+ \(\d{4}\)::.*")], ratings)
    users = beside([m for m in members if has_lines(m, r"\d+::[MF]::\d+::\d+::.*")], ratings)
    return Found(
        "MovieLens",
        without_header([ratings], _RATING, separator="::", ids=WHOLE),
        Table((movies,), lambda: _movies(movies), _MOVIE) if movies else None,
        without_header(
            [users],
            ["user_id", "gender", "age", "occupation", "zip"],
            separator="::",
            ids=_USER,
            numbers=_AGE,
        )
        if users
        else None,
    )


def _movies(member: Member) -> Iterator[pl.DataFrame]:
    """Lines of id::title::genres; a title may hold a colon, so Polars cannot divide them."""
    for frame in lines(member):
        yield divided(frame, r"^(?<movie_id>[^:]*)::(?<title>.*)::(?<genres>[^:]*)$")


def _data(members: Sequence[Member]) -> Found | None:
    candidates = [m for m in members if has_lines(m, r"\d+\t\d+\t\d+(\.\d+)?\t\d+")]
    if not candidates:
        return None
    ratings = one_of(candidates, preferred=["u.data"])  # its splits u1.base, ua.test and so on look alike
    movies = beside([m for m in members if has_lines(m, r"\d+\|.*(\|[01]){19}")], ratings)
    users = beside([m for m in members if has_lines(m, r"\d+\|\d+\|[MF]\|\w+\|.*")], ratings)
    return Found(
        "MovieLens",
        without_header([ratings], _RATING, separator="\t", ids=WHOLE),
        Table((movies,), lambda: _items(movies), _MOVIE) if movies else None,
        without_header(
            [users], ["user_id", "age", "gender", "occupation", "zip"], separator="|", ids=_USER, numbers=_AGE
        )
        if users
        else None,
    )


def _items(member: Member) -> Iterator[pl.DataFrame]:
    flags = [f"genre {name}" for name in _GENRES]
    for frame in delimited(
        member, ["movie_id", "title", None, None, None, *flags], separator="|", quoted=False
    ):
        names = [pl.when(pl.col(flag) == "1").then(pl.lit(flag[6:])) for flag in flags]
        yield frame.select(
            "movie_id", "title", pl.concat_str(names, separator="|", ignore_nulls=True).alias("genres"), FAULT
        )


# Genome tags ----------------------------------------------------------------------------------------


def _with_genome(movies: Table, scores: Member, tags: Member) -> Table:
    """The movies with a column `genome_tags`, as `a|b|c`."""

    def frames() -> Iterator[pl.DataFrame]:
        described = genome_tags(scores, tags)
        for frame in movies.frames():
            ids = pl.col("movie_id").cast(pl.Int64, strict=False)
            joined = frame.select(ids).join(described, on="movie_id", how="left", maintain_order="left")
            yield frame.with_columns(joined["genome_tags"])

    return replace(movies, members=(*movies.members, scores, tags), frames=frames)


def genome_tags(scores: Member, tags: Member) -> pl.DataFrame:
    """movie_id, genome_tags: the tags of each movie that describe it, the most relevant first."""
    names = pl.concat(with_header([tags], {"tagid": "tag_id", "tag": "tag"}, ids={}).frames())
    wanted = {"movieid": "movie_id", "tagid": "tag_id", "relevance": "relevance"}
    relevance = pl.col("relevance").cast(pl.Float32, strict=False)
    ids = pl.col("movie_id").cast(pl.Int64, strict=False)
    titled = [
        frame.select(ids, "tag_id", relevance).filter(pl.col("relevance") >= TAG_RELEVANCE)
        for frame in with_header([scores], wanted, ids={}).frames()
    ]
    named = pl.concat(titled).join(
        names.select("tag_id", pl.col("tag").str.replace_all("|", "/", literal=True)), on="tag_id"
    )
    best = named.sort("movie_id", "relevance", "tag", descending=[False, True, False])
    return best.group_by("movie_id").agg(pl.col("tag").head(TAGS_A_MOVIE).str.join("|").alias("genome_tags"))


FAMILY = Family("MovieLens", _find, rank=1)
