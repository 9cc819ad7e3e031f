"""The column types of a file that are read, by what a column holds: one table for every input.

Types are looked at where Parquet has them, in the footer: what Polars would name but cannot hold, or hold
but not tell from others, ends in one line before a row is read.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cfjobs.errors import InputError

ACCEPTED = {
    "id": "integers of any width, signed or not; decimals without places; strings, also as bytes in UTF-8, as "
    "categories, and as an enumeration",
    "rating": "integers, floating-point numbers, decimals",
    "timestamp": "datetimes of any unit, with or without a zone; dates; numbers of seconds, milliseconds, "
    "microseconds or nanoseconds since 1970",
}
"""What a column may be, by what it holds; `validate` has the same in a few words, for errors."""

_DIGITS = 38


def footer_schema(metadata: pq.FileMetaData, *, file: str) -> pa.Schema:
    """The columns of a file. Raises InputError for one that would keep all others from being read."""
    for number in range(metadata.num_columns):
        column = metadata.schema.column(number)
        if column.converted_type == "INTERVAL":
            raise InputError(
                f"{file}: {column.name!r} is an interval, which keeps the file from being read; "
                "leave it out on export, or cast it"
            )
    try:
        return metadata.schema.to_arrow_schema()
    except pa.ArrowNotImplementedError as error:
        raise InputError(
            f"{file}: has a column of a type that is not read ({str(error).splitlines()[0]}); "
            "cast it on export, ids of more than 64 bits to strings"
        ) from error


def check(schema: pa.Schema, columns: Sequence[str], *, file: str) -> None:
    """InputError for one of these columns whose values cannot be read as they are meant.

    file: how the line begins, as in 'ratings part-0.parquet'. Columns that are not there are passed over.
    """
    for name in columns:
        place = schema.get_field_index(name)
        if place >= 0 and (words := unreadable(schema.field(place).type)):
            raise InputError(f"{file}: {name!r} is {words} on export")


def unreadable(dtype: pa.DataType) -> str | None:
    """What a type is and what to make of it, where its values cannot be read as they are meant."""
    if isinstance(dtype, pa.BaseExtensionType):
        is_uuid = dtype.extension_name == "arrow.uuid"
        return "a UUID, which is stored as 16 bytes; cast it to a string" if is_uuid else None
    if pa.types.is_fixed_size_binary(dtype):
        return f"binary of a fixed size ({dtype.byte_width} bytes), expected text; cast it to a string"
    if pa.types.is_decimal(dtype) and dtype.precision > _DIGITS:
        return f"decimal({dtype.precision}, {dtype.scale}), of more than {_DIGITS} digits; cast it to fewer, or to a string"
    return None


def int96(metadata: pq.FileMetaData) -> set[str]:
    """The columns that are datetimes in the old form of 96 bits, which Polars reads in microseconds."""
    columns = (metadata.schema.column(number) for number in range(metadata.num_columns))
    return {column.path for column in columns if column.physical_type == "INT96"}
