"""GroupLens data (MovieLens, any release) as input tables.

    zip or folder -> the ratings file and the movies file beside it, wherever they are nested
                  -> the three layouts that GroupLens has published, each with its columns and encoding
                  -> ratings and movies in the form of the input tables

A zip is taken for hostile: nothing is extracted under a name of its own, sizes are capped while being read.
"""

import csv
import errno
import io
import logging
import lzma
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path, PurePosixPath
from typing import IO, TypedDict

import polars as pl

from cfjobs import storage
from cfjobs.errors import InputError

log = logging.getLogger(__name__)

MAX_BYTES = 16 << 30  # of one unpacked file; the largest GroupLens ratings file has under 1 GiB
MAX_RATIO = 200  # unpacked to packed bytes; rating files have about 4, a zip bomb 1000 and more
ROWS_A_PART = 5_000_000  # ratings in one Parquet file: some 50 MB
_SMALL = 1 << 20  # below this many bytes the ratio says nothing
_BLOCK = 1 << 20  # bytes copied at once
_ENCRYPTED = 0x1  # bit of a zip member's flags
_LATEST = 10**11  # seconds since 1970 beyond which a timestamp is no time of a rating


@dataclass(frozen=True)
class GroupLens:
    """Ratings and movies of a GroupLens release, in the form of the input tables.

    ratings: user_id int64, movie_id int64, rating float32, timestamp datetime[us] (UTC), in the order of the
    file. movies: movie_id int64, title, genres ("Comedy|Drama"), any further columns as strings; None where
    the source has none.
    """

    ratings: pl.DataFrame
    movies: pl.DataFrame | None


class Imported(TypedDict):
    """What an import wrote: where, and how much."""

    ratings: str
    movies: str | None
    n_ratings: int
    n_movies: int
    n_users: int


@dataclass(frozen=True)
class _Layout:
    """A form in which GroupLens published its files. header: whether line 1 names the columns."""

    ratings: str
    movies: str
    separator: str
    header: bool


_LAYOUTS = (
    _Layout("ratings.csv", "movies.csv", ",", True),
    _Layout("ratings.dat", "movies.dat", "::", False),
    _Layout("u.data", "u.item", "\t", False),
)
_RATING_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
_SPELLINGS = {"userid": "user_id", "movieid": "movie_id"}
_TYPES = {"user_id": pl.Int64, "movie_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
_ITEM_GENRES = (  # the flags of u.item from field 5 on, as its u.genre numbers them
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
_ITEM_FIELDS = 5 + len(_ITEM_GENRES)
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class _Found:
    """The files of a source, on the local disk; `what` and `movies_what` name them in messages."""

    layout: _Layout
    ratings: Path
    what: str
    movies: Path | None
    movies_what: str


def load(source: str) -> GroupLens:
    """Ratings and movies of a GroupLens zip (local or s3://) or local folder.

    Raises InputError for a source without ratings or with several, a zip that is damaged, encrypted or
    unsafe, and a line that is not what its layout says (named by its number). No line is dropped.
    """
    with storage.explained(source), _opened(source) as found:
        ratings = _read_ratings(found)
        movies = _read_movies(found) if found.movies else None
    log.info("%s: %d ratings, %s movies", source, ratings.height, "no" if movies is None else movies.height)
    return GroupLens(ratings, movies)


def import_to(source: str, output: str) -> Imported:
    """Write a GroupLens source as Parquet under OUTPUT/ratings and, if it has movies, OUTPUT/movies.

    Everything is read and checked before the first file is written; a failure while writing removes what was
    written. Raises InputError as `load` does, and for an output that holds such files already.
    """
    output = storage.normal(output)
    ratings_uri, movies_uri = storage.join(output, "ratings"), storage.join(output, "movies")
    for folder in (ratings_uri, movies_uri):
        _check_empty(folder)
    storage.check_writable(output)
    data = load(source)
    files = [] if data.movies is None else [(storage.join(movies_uri, "movies.parquet"), data.movies)]
    for number, part in enumerate(data.ratings.iter_slices(ROWS_A_PART)):
        files.append((storage.join(ratings_uri, f"part-{number:05d}.parquet"), part))
    _write_all(files)
    return Imported(
        ratings=ratings_uri,
        movies=None if data.movies is None else movies_uri,
        n_ratings=data.ratings.height,
        n_movies=0 if data.movies is None else data.movies.height,
        n_users=data.ratings["user_id"].n_unique(),
    )


def _check_empty(folder: str) -> None:
    """Parts of an earlier import would be read together with the new ones."""
    there = storage.list_files(folder)
    if there:
        raise InputError(f"{folder}: holds {len(there)} Parquet files; give another output or remove them")


def _write_all(files: Sequence[tuple[str, pl.DataFrame]]) -> None:
    written: list[str] = []
    try:
        for uri, frame in files:
            buffer = io.BytesIO()
            frame.write_parquet(buffer, compression="zstd", statistics=True)
            written.append(uri)
            storage.write_bytes(uri, buffer.getvalue())
    except BaseException:
        for uri in written:
            storage.delete(uri)
        raise


# Finding the files ----------------------------------------------------------------------------------


@contextmanager
def _opened(source: str) -> Iterator[_Found]:
    """The files of a source, unpacked for as long as the context lasts."""
    uri = storage.normal(source)
    if storage.is_s3(uri) and not uri.lower().endswith(".zip"):
        raise InputError(f"{uri}: is not a .zip; give the URI of a zip, or a local folder")
    if not storage.is_s3(uri) and Path(uri).is_dir():
        yield _in_folder(uri)
        return
    with tempfile.TemporaryDirectory(prefix="cfjobs-") as work:
        path = Path(uri)
        if storage.is_s3(uri):
            path = Path(work, "source.zip")
            with storage.explained(uri):
                path.write_bytes(storage.read_bytes(uri))
        with _zip(path, uri) as archive:
            found = _unpacked(archive, uri, Path(work))
        yield found


def _in_folder(uri: str) -> _Found:
    names = [path.relative_to(uri).as_posix() for path in sorted(Path(uri).rglob("*")) if path.is_file()]
    layout, ratings, movies = _choose(names, uri)
    movies_path = Path(uri, movies) if movies else None
    return _Found(layout, Path(uri, ratings), f"{uri}/{ratings}", movies_path, f"{uri}/{movies}")


def _choose(names: Sequence[str], source: str) -> tuple[_Layout, str, str | None]:
    """The layout, the ratings file and the movies file beside it, of a source's file names."""
    visible = [name for name in names if not any(part[0] in "._" for part in PurePosixPath(name).parts)]
    by_name = {layout.ratings: layout for layout in _LAYOUTS}
    found = [name for name in visible if PurePosixPath(name).name in by_name]
    if not found:
        raise InputError(
            f"{source}: holds no ratings (of {len(names)} files none is {', '.join(by_name)}); "
            "give a GroupLens zip or folder"
        )
    if len(found) > 1:
        named = ", ".join(found[:5])
        raise InputError(f"{source}: holds several ratings files ({named}); give a zip or folder with one")
    ratings = found[0]
    layout = by_name[PurePosixPath(ratings).name]
    movies = (PurePosixPath(ratings).parent / layout.movies).as_posix()
    return layout, ratings, movies if movies in visible else None


# Zip ------------------------------------------------------------------------------------------------


@contextmanager
def _zip(path: Path, uri: str) -> Iterator[zipfile.ZipFile]:
    """A zip opened; whatever is wrong with it as an archive raises InputError."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError) as error:
        # A wrong offset is an invalid seek; bz2 raises a bare OSError. Any other is not the zip's fault.
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise
        raise InputError(f"{uri}: is not a zip or is damaged ({error}); download it again") from error
    except NotImplementedError as error:
        raise InputError(f"{uri}: is packed in an unknown way ({error}); unpack it first") from error


def _unpacked(archive: zipfile.ZipFile, uri: str, work: Path) -> _Found:
    members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
    for member in archive.infolist():
        _check_safe(member, uri)
    layout, ratings, movies = _choose(list(members), uri)
    _unpack(archive, members[ratings], work / "ratings", uri)
    if movies:
        _unpack(archive, members[movies], work / "movies", uri)
    movies_path = work / "movies" if movies else None
    return _Found(layout, work / "ratings", f"{uri} ({ratings})", movies_path, f"{uri} ({movies})")


def _check_safe(member: zipfile.ZipInfo, uri: str) -> None:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in (parts or ("",))[0] or not parts:
        raise InputError(f"{uri}: member {name!r} leads out of the archive; get the zip from its publisher")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{uri}: member {name!r} is a symbolic link; get the zip from its publisher")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, uri: str) -> None:
    """Copy one member to a file of our own name, not believing the size that it declares."""
    if member.flag_bits & _ENCRYPTED:
        raise InputError(f"{uri}: member {member.filename!r} is encrypted; unpack it and give the folder")
    limit = min(MAX_BYTES, max(_SMALL, MAX_RATIO * member.compress_size))
    if member.file_size > limit:
        raise _too_large(member, limit, uri)
    with archive.open(member) as packed, storage.explained(str(target)), target.open("wb") as file:
        _copy(packed, file, member=member, limit=limit, uri=uri)


def _copy(packed: IO[bytes], file: IO[bytes], *, member: zipfile.ZipInfo, limit: int, uri: str) -> None:
    copied = 0
    while block := packed.read(_BLOCK):
        copied += len(block)
        if copied > limit:
            raise _too_large(member, limit, uri)
        file.write(block)


def _too_large(member: zipfile.ZipInfo, limit: int, uri: str) -> InputError:
    return InputError(
        f"{uri}: member {member.filename!r} unpacks {member.compress_size:,} bytes to more than {limit:,}, "
        "like a zip bomb; get the zip from its publisher, or unpack it and give the folder"
    )


# Ratings --------------------------------------------------------------------------------------------


def _read_ratings(found: _Found) -> pl.DataFrame:
    """Ratings [R] as in GroupLens, parsed by Polars; the line is looked for only when one is bad."""
    columns = _header(found) if found.layout.header else list(_RATING_COLUMNS)
    # Polars separates by one character: between the two of '::' it sees a field, which has to be empty.
    gaps = [f"gap_{n}" for n in range(1, len(columns))] if len(found.layout.separator) > 1 else []
    names = [name for pair in zip_longest(columns, gaps) for name in pair if name is not None]
    try:
        raw = pl.read_csv(
            found.ratings,
            has_header=False,
            skip_lines=int(found.layout.header),
            separator=found.layout.separator[0],
            quote_char='"' if found.layout.header else None,
            encoding="utf8-lossy",
            raise_if_empty=False,
            schema={name: _TYPES.get(name, pl.String) for name in names},
        )
    except (pl.exceptions.PolarsError, OverflowError) as error:
        raise _bad_line(found, columns, reason=str(error).partition("\n")[0]) from error
    if not raw.height:
        raise InputError(f"{found.what}: holds no ratings; download it again")
    bad = pl.any_horizontal(
        *(pl.col(name).is_null() for name in _RATING_COLUMNS),
        *(pl.col(name).is_not_null() for name in gaps),
        ~pl.col("rating").cast(pl.Float32).is_finite(),
        pl.col("timestamp").abs() > _LATEST,
    )
    if raw.select(bad.any()).item():
        raise _bad_line(found, columns, reason="a field is missing or is not a number")
    return raw.select(
        "user_id",
        "movie_id",
        pl.col("rating").cast(pl.Float32),
        (pl.col("timestamp") * 1_000_000).cast(pl.Datetime("us")).alias("timestamp"),
    )


def _header(found: _Found) -> list[str]:
    """Column names of a CSV file, in our spelling (userId is user_id)."""
    with found.ratings.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        _, names = next(_csv_rows(file, found.what), (1, []))
    columns = _our_names(names)
    missing = [name for name in _RATING_COLUMNS if name not in columns]
    if missing or len(set(columns)) < len(columns):
        raise InputError(
            f"{found.what}: line 1 names the columns {', '.join(names) or '(none)'}, "
            "expected userId, movieId, rating, timestamp, each once; mend the line"
        )
    return columns


def _our_names(names: Sequence[str]) -> list[str]:
    return [_SPELLINGS.get(name.strip().lower(), name.strip()) for name in names]


def _bad_line(found: _Found, columns: Sequence[str], *, reason: str) -> InputError:
    """The error for the first line that is not what the layout says."""
    for number, fields in _lines(found):
        problem = _problem(fields, columns)
        if problem:
            return InputError(f"{found.what}: line {number} {problem}; mend the line, or download it again")
    return InputError(f"{found.what}: cannot be read ({reason}); download it again")


def _lines(found: _Found) -> Iterator[tuple[int, list[str]]]:
    """Line number, from 1, and fields of each rating."""
    newline = "" if found.layout.header else "\n"
    with found.ratings.open(encoding="utf-8-sig", errors="replace", newline=newline) as file:
        if found.layout.header:
            yield from islice(_csv_rows(file, found.what), 1, None)
            return
        for number, line in enumerate(file, 1):
            yield number, line.rstrip("\r\n").split(found.layout.separator)


def _csv_rows(lines: Iterable[str], what: str) -> Iterator[tuple[int, list[str]]]:
    """Line number, from 1, and fields of each row, the header included."""
    reader = csv.reader(lines, strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(f"{what}: line {reader.line_num} is not CSV ({error}); mend the line") from error


def _problem(fields: Sequence[str], columns: Sequence[str]) -> str | None:
    if len(fields) != len(columns):
        return f"has {len(fields)} fields, expected {len(columns)} ({', '.join(columns)})"
    for name, text in zip(columns, fields, strict=True):
        if name == "rating" and not _NUMBER.fullmatch(text):
            return f"has the rating {text!r}, expected a number"
        if name in _TYPES and name != "rating" and not _INTEGER.fullmatch(text):
            return f"has the {name} {text!r}, expected an integer"
        if name == "timestamp" and abs(int(text)) > _LATEST:
            return f"has the timestamp {text}, expected seconds since 1970"
    return None


# Movies ---------------------------------------------------------------------------------------------


def _read_movies(found: _Found) -> pl.DataFrame:
    """Movies [M] as in GroupLens. A few ten thousand lines: Python, line by line."""
    assert found.movies is not None
    text = _decoded(found.movies.read_bytes())
    if found.layout.header:
        return _movies_csv(text, found.movies_what)
    lines = ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip("\r"))
    parse = _dat_movie if found.layout.separator == "::" else _item_movie
    rows = [parse(line.rstrip("\r"), f"{found.movies_what}: line {n}") for n, line in lines]
    schema = {"movie_id": pl.Int64, "title": pl.String, "genres": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _decoded(data: bytes) -> str:
    """UTF-8, or Latin-1 as in the files before 2009."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _movies_csv(text: str, what: str) -> pl.DataFrame:
    lines = _csv_rows(io.StringIO(text, newline=""), what)
    columns = _our_names(next(lines, (1, []))[1])
    if any(columns.count(name) != 1 for name in ("movie_id", "title")) or len(set(columns)) < len(columns):
        named = ", ".join(columns) or "(none)"
        raise InputError(f"{what}: line 1 names the columns {named}, expected movieId and title; mend it")
    rows: list[list[str]] = []
    ids: list[int] = []
    for number, fields in lines:
        if len(fields) != len(columns):
            raise InputError(f"{what}: line {number} has {len(fields)} fields, not {len(columns)}; mend it")
        rows.append(fields)
        ids.append(_movie_id(fields[columns.index("movie_id")], f"{what}: line {number}"))
    frame = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    return frame.with_columns(pl.Series("movie_id", ids, dtype=pl.Int64))


def _dat_movie(line: str, what: str) -> tuple[int, str, str]:
    fields = line.split("::")
    if len(fields) != 3:
        raise InputError(f"{what} has {len(fields)} fields, expected 3 (movie::title::genres); mend the line")
    return _movie_id(fields[0], what), fields[1], fields[2]


def _item_movie(line: str, what: str) -> tuple[int, str, str]:
    fields = line.split("|")
    if len(fields) != _ITEM_FIELDS:
        raise InputError(f"{what} has {len(fields)} fields, expected {_ITEM_FIELDS}; mend the line")
    genres = [name for name, flag in zip(_ITEM_GENRES, fields[5:], strict=True) if flag == "1"]
    return _movie_id(fields[0], what), fields[1], "|".join(genres)


def _movie_id(text: str, what: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise InputError(f"{what} has the movie {text!r}, expected an integer; mend the line")
    return int(text)
