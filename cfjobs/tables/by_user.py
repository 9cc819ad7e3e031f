"""A published night's rows of a table that is sorted by user, read for a range of users at a time."""

from typing import Any

import polars as pl

from cfjobs import storage
from cfjobs.errors import InputError
from cfjobs.tables import delta
from cfjobs.tables.runs import Source
from cfjobs.tables.schema import RUN_DATE, Table


class ByUser:
    """The rows of one night; only the files that may hold a user are opened, and only their row groups
    read."""

    def __init__(self, source: Source, table: Table, columns: list[str]) -> None:
        """InputError where the night has no such table, or a file of it is gone."""
        version = source.version(table)
        opened = None if version is None else delta.open_table(source.output, table.name, version=version)
        if opened is None:
            raise InputError(f"table {table.name}: the night of {source.run[RUN_DATE]} has none")
        if missing := set(columns) - {field.name for field in opened.schema().fields}:
            raise InputError(
                f"table {table.name}: the night of {source.run[RUN_DATE]} has no column {min(missing)!r}"
            )
        root = storage.join(source.output, table.name)
        day = f"{RUN_DATE}={source.run[RUN_DATE].isoformat()}/"
        self._columns, self._options = columns, storage.options(root)
        self._files: list[tuple[str, Any, Any]] = []
        self._schema = pl.DataFrame(opened.schema().to_arrow().empty_table()).select(columns).schema
        for row in pl.DataFrame(opened.get_add_actions(flatten=True)).to_dicts():
            if row["path"].startswith(day):
                uri = storage.join(root, row["path"])
                if not storage.exists(uri):
                    raise InputError(f"{uri}: is gone")
                self._files.append((uri, row.get("min.user_id"), row.get("max.user_id")))

    @property
    def id_type(self) -> pl.DataType:
        """Of the users."""
        return self._schema["user_id"]

    def between(self, first: str | int, last: str | int, *, where: pl.Expr | None = None) -> pl.DataFrame:
        """The rows of users first..last, both included, in the order of the files."""
        files = [
            uri
            for uri, low, high in self._files
            if (low is None or low <= last) and (high is None or high >= first)
        ]
        if not files:
            return pl.DataFrame(schema=self._schema)
        scan = pl.scan_parquet(files, storage_options=self._options, hive_partitioning=False)
        wanted = pl.col("user_id").is_between(pl.lit(first), pl.lit(last))
        if where is not None:
            wanted = wanted & where
        with storage.explained(files[0]):
            return scan.filter(wanted).select(self._columns).collect()
