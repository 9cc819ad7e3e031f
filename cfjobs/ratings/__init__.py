"""Ratings in: read, validated, encoded, sorted, split; and what is known of their movies and users."""

from cfjobs.ratings.read import (
    Cleaned,
    Ratings,
    read_ratings,
    read_table,
    rows_of,
    with_names,
    with_rows_of,
    write_frame,
)
from cfjobs.ratings.source import list_parquet, pinned

__all__ = [
    "Cleaned",
    "Ratings",
    "list_parquet",
    "pinned",
    "read_ratings",
    "read_table",
    "rows_of",
    "with_names",
    "with_rows_of",
    "write_frame",
]
