"""Column names that people use for the user, the movie, the rating, the time and the title,
recognised where there is no doubt.

Columns in, a mapping out: nothing is read here. A name is compared without case, spaces and punctuation, so
that `userId`, `User-ID` and `user_id` are one. The columns that a configuration names always win; then names
that say what they are (`userId`), then looser ones (`user`). Two of equal standing are a doubt, which only a
setting ends.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.ratings.validate import is_usable

_SPOKEN = {
    "user_column": "user",
    "movie_column": "movie",
    "rating_column": "rating",
    "timestamp_column": "time",
}
"""What each setting's column holds, in the order of the columns of a rating."""

_NEEDED = ("user_column", "movie_column")

_NAMES: dict[str, tuple[str, ...]] = {  # by standing, the surest first
    "user_column": (
        "userid useridx uid customerid custid reviewerid memberid accountid visitorid raterid viewerid personid",
        "user customer reviewer member account visitor rater viewer username",
    ),
    "movie_column": (
        "movieid itemid filmid productid bookid isbn asin sku businessid songid trackid artistid animeid gameid "
        "articleid titleid showid contentid recipeid jokeid",
        "movie item film product book business song track artist anime game article content recipe joke",
    ),
    "rating_column": (
        "rating ratings stars score userrating bookrating starrating userscore overall grade",
        "value",
    ),
    "timestamp_column": (
        "timestamp ratingtimestamp unixreviewtime unixtime unixtimestamp tstamp eventtime ratedat createdat datetime "
        "ratingtime ratingdate reviewdate reviewtime",
        "time ts date when created",
    ),
    "title": (
        "title movietitle booktitle itemtitle producttitle filmtitle",
        "name moviename itemname productname",
    ),
}
_DEFAULTS = {setting: Config.model_fields[setting].default for setting in _SPOKEN}


def settings_of(columns: Mapping[str, pl.DataType], *, config: Config, what: str) -> dict[str, str]:
    """The settings that let a configuration read ratings of these columns; none where it reads them as it is.

    A setting that is not the default stands, and so does one whose column is there. what: how an error
    begins, as in `ratings part-0.parquet`. Raises InputError where the user or the movie cannot be told, and
    where two columns could be meant, with the settings to add. A rating or a time that no column is named for
    is left as it is.
    """
    fixed = {s: getattr(config, s) for s in _SPOKEN}
    fixed = {s: name for s, name in fixed.items() if name in columns or name != _DEFAULTS[s]}
    free = {name: dtype for name, dtype in columns.items() if name not in fixed.values()}
    found = {s: _candidates(s, free) for s in _SPOKEN if s not in fixed}
    doubtful = {s: names for s, names in found.items() if len(names) > 1}
    absent = [s for s in _NEEDED if s in found and not found[s]]
    if doubtful or absent:
        raise InputError(f"{what}: {_question(doubtful, absent, columns=columns, found=found)}")
    return {s: names[0] for s, names in found.items() if names}


def recognised(columns: Iterable[str], setting: str) -> str | None:
    """The one column that is named for a setting, or for `title`: by its own name, or by another that people
    use.

    None without one, and in doubt.
    """
    there = list(columns)
    if (own := _DEFAULTS.get(setting)) in there:
        return str(own)
    names = _candidates(setting, dict.fromkeys(there))
    return names[0] if len(names) == 1 else None


def renaming(columns: Iterable[str], keys: Mapping[str, str]) -> dict[str, str]:
    """How to rename columns of another table than the ratings, so that its ids are where they are looked for.

    keys: the column that a setting names, by setting. One that is there stays; one that is not is taken from
    the column recognised for it, and left to the caller's own error where there is none.
    """
    there = list(columns)
    found = {recognised(there, setting): name for setting, name in keys.items() if name not in there}
    return {old: new for old, new in found.items() if old is not None}


def titled(columns: Iterable[str]) -> dict[str, str]:
    """How to rename the columns of a movies table so that its titles are in `title`."""
    name = None if "title" in columns else recognised(columns, "title")
    return {name: "title"} if name else {}


def words(settings: Mapping[str, str]) -> str:
    """What was recognised, as the log says it."""
    taken = ", ".join(f"{_SPOKEN[setting]} from {name!r}" for setting, name in settings.items())
    return f"{taken} (recognised by name; as {_as_options(settings)} would)"


def words_of(renamed: Mapping[str, str]) -> str:
    """What was recognised in another table, as the log says it."""
    return ", ".join(f"{new} from {old!r}" for old, new in renamed.items()) + " (recognised by name)"


def _candidates(setting: str, columns: Mapping[str, pl.DataType | None]) -> list[str]:
    """The columns of the highest standing that has any, of a type that will do if there are such."""
    for standing in _NAMES[setting]:
        meant = standing.split()
        names = [name for name in columns if re.sub(r"[^a-z0-9]", "", name.lower()) in meant]
        usable = [name for name in names if _is_usable(columns[name], setting)]
        if names:
            return usable or names
    return []


def _is_usable(dtype: pl.DataType | None, setting: str) -> bool:
    return dtype is None or setting not in _SPOKEN or is_usable(dtype, setting)


def _question(
    doubtful: Mapping[str, list[str]],
    absent: Sequence[str],
    *,
    columns: Mapping[str, pl.DataType],
    found: Mapping[str, list[str]],
) -> str:
    parts = [f"{' or '.join(map(repr, names))} could hold the {_SPOKEN[s]}" for s, names in doubtful.items()]
    if absent:
        parts.append(f"no column is named for the {' or the '.join(_SPOKEN[s] for s in absent)}")
    taken = {names[0] for names in found.values() if names}
    left = [name for name in columns if name not in taken]
    left += ["COLUMN"] * len(absent)
    wanted = {s: names[0] for s, names in doubtful.items()}
    wanted |= dict(zip(absent, left, strict=False))
    ordered = {s: wanted[s] for s in _SPOKEN if s in wanted}
    return f"{'; '.join(parts)} (got {', '.join(columns)}); add {_as_options(ordered)}, or the column that is meant"


def _as_options(settings: Mapping[str, str]) -> str:
    return " ".join(f"--set {setting}={name}" for setting, name in settings.items())
