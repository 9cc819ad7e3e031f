"""Text files as frames of strings, some megabytes at a time: delimited ones and JSON, a line a row.

A frame has the columns asked for, as they are written, and `FAULT`: what is wrong with the line itself, else
null. No line is dropped: what cannot be read is a row with a fault.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import polars as pl

from cfjobs.datasets.archive import Member

FAULT = "__fault"
"""Column with what is wrong with a line."""
EMPTY, NO_CSV, NO_JSON = "line is empty", "line is not CSV", "line is not JSON"
TOO_LONG, OTHER_FORM = "line has too many fields", "line is of another form"
CHUNK_BYTES = 8 << 20
_OPEN_QUOTE_BYTES = 32 << 20  # a field in quotes has no line end beyond this
_OVER = "__over"
_GAP = "__gap"


def delimited(
    member: Member,
    columns: Sequence[str | None],
    *,
    separator: str = ",",
    quoted: bool = True,
    skip: int = 0,
    backslashes: bool = False,
) -> Iterator[pl.DataFrame]:
    """Rows of a delimited file.

    columns: a name for every field of a line, None for one that is not wanted. separator: one character, or
    one repeated (`::`). quoted: fields may be in double quotes and hold line ends. skip: lines at the
    beginning. backslashes: a quote within quotes is written as backslash and quote.
    """
    names = [name or f"__{n}" for n, name in enumerate(columns)]
    gaps = [f"{_GAP}{n}" for n in range(1, len(names))] if len(separator) > 1 else []
    fields = [name for pair in zip_longest(names, gaps) for name in pair if name is not None] + [_OVER]
    wanted = [name for name in columns if name]
    for chunk in chunks(member, quoted=quoted):
        text = chunk
        for _ in range(skip):
            text = text[text.find(b"\n") + 1 :] if b"\n" in text else b""
        skip = 0
        if not text:
            continue
        if backslashes:
            text = text.replace(b'\\"', b'""')
        frame = _parsed(text, fields, separator=separator[0], quoted=quoted)
        yield frame.select(*wanted, _fault_of(names, gaps).alias(FAULT))


def lines(member: Member) -> Iterator[pl.DataFrame]:
    """The lines of a file as they are, in a column `line`."""
    for chunk in chunks(member, quoted=False):
        found = chunk.decode("utf-8").removesuffix("\n").split("\n")
        yield pl.DataFrame({"line": [line.rstrip("\r") for line in found]}, schema={"line": pl.String})


def divided(frame: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Lines as the named groups of a pattern; one that does not match is a fault."""
    found = frame["line"].str.extract_groups(pattern).struct.unnest()
    bad = found.select(pl.all_horizontal(pl.all().is_null())).to_series()
    blank = frame["line"].str.strip_chars() == ""
    words = pl.when(bad & blank).then(pl.lit(EMPTY)).when(bad).then(pl.lit(OTHER_FORM))
    return found.with_columns(words.alias(FAULT))


def json_lines(member: Member, fields: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    """Rows of a file with a JSON object a line. fields: our name for each of the keys that are wanted."""
    for chunk in chunks(member, quoted=False):
        frame = _objects(chunk, list(fields))
        yield frame.select(*(pl.col(key).alias(name) for key, name in fields.items()), FAULT)


def chunks(member: Member, *, quoted: bool) -> Iterator[bytes]:
    """The content in pieces of whole lines, as UTF-8; with `quoted` no line end within quotes divides it."""
    rest, first = b"", True
    for block in member.stream():
        rest += block
        if first:
            rest, first = rest.removeprefix(b"\xef\xbb\xbf"), False
        if len(rest) >= CHUNK_BYTES:
            end = _last_line(rest, quoted=quoted and len(rest) < CHUNK_BYTES + _OPEN_QUOTE_BYTES)
            if end:
                yield _utf8(rest[:end])
                rest = rest[end:]
    if rest:
        yield _utf8(rest)


def _last_line(data: bytes, *, quoted: bool) -> int:
    """Where the last whole line ends, 0 for none."""
    end = data.rfind(b"\n")
    while quoted and end >= 0 and data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, data.rfind(b'"', 0, end))
    return end + 1


def _utf8(data: bytes) -> bytes:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1").encode()
    return data


def _parsed(text: bytes, fields: Sequence[str], *, separator: str, quoted: bool) -> pl.DataFrame:
    """The rows of a chunk. A first line of our own tells Polars how many fields there are."""
    schema = dict.fromkeys(fields, pl.String)
    try:
        frame = pl.read_csv(
            io.BytesIO(separator.encode() * (len(fields) - 1) + b"\n" + text),
            has_header=False,
            schema=schema,
            separator=separator,
            quote_char='"' if quoted else None,
            truncate_ragged_lines=True,
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError:
        return _line_by_line(text.decode(), fields, separator=separator)
    return frame.slice(1).with_columns(pl.lit(None, pl.String).alias(FAULT))


def _line_by_line(text: str, fields: Sequence[str], *, separator: str) -> pl.DataFrame:
    """The rows of a chunk in which a quote is wrong, found by taking each line for a row."""
    rows: list[list[str | None]] = []
    n = len(fields)
    for line in text.removesuffix("\n").split("\n"):
        try:
            row = next(csv.reader([line.rstrip("\r")], delimiter=separator), [])
        except csv.Error:
            row = []
        if line.count('"') % 2 or (line.strip() and not row):
            rows.append([None] * n + [NO_CSV])
            continue
        cells = [*row, *[None] * n][:n]
        rows.append([*(cell or None for cell in cells), None])
    return pl.DataFrame(rows, schema=dict.fromkeys([*fields, FAULT], pl.String), orient="row")


def _fault_of(names: Sequence[str], gaps: Sequence[str]) -> pl.Expr:
    extra = pl.any_horizontal(pl.col(_OVER, *gaps).is_not_null())
    return (
        pl.when(pl.col(FAULT).is_not_null())
        .then(pl.col(FAULT))
        .when(extra)
        .then(pl.lit(TOO_LONG))
        .when(pl.all_horizontal(pl.col(*names).is_null()))
        .then(pl.lit(EMPTY))
    )


def _objects(chunk: bytes, keys: Sequence[str]) -> pl.DataFrame:
    """The objects of a chunk: all at once, or one by one where a line is none."""
    schema = dict.fromkeys(keys, pl.String)
    n_lines = chunk.count(b"\n") + (not chunk.endswith(b"\n"))
    try:
        frame = pl.read_ndjson(io.BytesIO(chunk), schema=schema)
        if frame.height == n_lines and frame.select(pl.any_horizontal(pl.all().is_not_null()).all()).item():
            return frame.with_columns(pl.lit(None, pl.String).alias(FAULT))
    except pl.exceptions.PolarsError:
        pass
    rows: list[list[str | None]] = []
    for line in chunk.removesuffix(b"\n").split(b"\n"):
        try:
            found = json.loads(line) if line.strip() else None
            fault = None if isinstance(found, dict) else NO_JSON if line.strip() else EMPTY
        except (ValueError, RecursionError):
            found, fault = None, NO_JSON
        cells = [found.get(key) if isinstance(found, dict) else None for key in keys]
        rows.append([*(_as_text(cell) for cell in cells), fault])
    return pl.DataFrame(rows, schema=schema | {FAULT: pl.String}, orient="row")


def _as_text(cell: object) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    return json.dumps(cell)
