"""Last.fm: plays instead of ratings. 360K has user, artist, name, plays; 1K a line a play, with its time;
HetRec 2011 user, artist, weight. An artist is what is listened to: its MusicBrainz id, or its name where it
has none.

Plays become `weight`, and there is no `rating`; without times there is no `timestamp`.
"""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from cfjobs.datasets.archive import Member
from cfjobs.datasets.family import (
    TEXT,
    WHOLE,
    Family,
    Found,
    Table,
    beside,
    has_lines,
    header,
    one_of,
    with_header,
)
from cfjobs.datasets.text import FAULT, delimited

_ARTIST = pl.coalesce(pl.when(pl.col("artist") != "").then(pl.col("artist")), pl.col("name"))
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def _find(members: Sequence[Member]) -> Found | None:
    plays = [m for m in members if has_lines(m, r"[0-9a-f]{40}\t[^\t]*\t[^\t]*\t\s*\d+")]
    if plays:
        member = one_of(plays)
        columns: list[str | None] = ["user_id", "artist", "name", "weight"]
        return Found("Last.fm 360K", _table(member, columns, TEXT), _artists(member, columns))
    events = [m for m in members if has_lines(m, rf"[^\t]+\t{_TIME}\t[^\t]*\t[^\t]*\t[^\t]*\t[^\t]*")]
    if events:
        member = one_of(events)
        columns = ["user_id", "timestamp", "artist", "name", None, None]
        return Found("Last.fm 1K", _table(member, columns, TEXT), _artists(member, columns))
    return _hetrec(members)


def _hetrec(members: Sequence[Member]) -> Found | None:
    heads = {member.name: head for member in members if (head := header(member))}
    plays = [
        m for m in members if m.name in heads and heads[m.name].plain == ("userid", "artistid", "weight")
    ]
    if not plays:
        return None
    artists = beside(
        [m for m in members if m.name in heads and heads[m.name].has("id", "name", "url")], plays[0]
    )
    wanted = {"userid": "user_id", "artistid": "movie_id", "weight": "weight"}
    return Found(
        "Last.fm HetRec 2011",
        with_header(plays[:1], wanted, ids=WHOLE),
        with_header(
            [artists], {"id": "movie_id", "name": "title"}, ids={"movie_id": pl.Int64()}, quoted=False
        )
        if artists
        else None,
    )


def _table(member: Member, columns: Sequence[str | None], ids: Mapping[str, pl.DataType]) -> Table:
    """The plays; a line that is one play weighs 1."""

    def frames() -> Iterator[pl.DataFrame]:
        for frame in delimited(member, columns, separator="\t", quoted=False):
            weight = pl.col("weight") if "weight" in columns else pl.lit("1").alias("weight")
            more = ["timestamp"] if "timestamp" in columns else []
            yield frame.select("user_id", _ARTIST.alias("movie_id"), weight, *more, FAULT)

    return Table((member,), frames, ids)


def _artists(member: Member, columns: Sequence[str | None]) -> Table:
    """Each artist once, with the first name that it has; lines of an artist who is known already are no
    rows."""

    def frames() -> Iterator[pl.DataFrame]:
        known = pl.Series("movie_id", [], dtype=pl.String)
        for frame in delimited(member, columns, separator="\t", quoted=False):
            named = frame.filter(pl.col(FAULT).is_null()).select(
                _ARTIST.alias("movie_id"), pl.col("name").alias("title"), FAULT
            )
            new = named.drop_nulls("movie_id").unique("movie_id", keep="first", maintain_order=True)
            new = new.filter(~pl.col("movie_id").is_in(known.implode()))
            known = pl.concat([known, new["movie_id"]])
            yield new

    return Table((member,), frames, {"movie_id": pl.String()})


FAMILY = Family("Last.fm", _find)
