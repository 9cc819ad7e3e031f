"""The lists of one published night, block after block: whole lists, in the order they were written."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from cfjobs import storage, tables
from cfjobs.errors import DamagedFile
from cfjobs.storage.parquet import TableFile
from cfjobs.tables import delta
from cfjobs.tables.runs import Source

BLOCK_ROWS = 250_000
"""Rows in memory at once, about."""

_READ = ("user_id", "rank", "movie_id", "score", "predicted_rating", "source")
COLUMNS = ("run_date", "user_id", "rank", "movie_id", "title", "score", "predicted_rating", "source")


@dataclass
class Lists:
    """The rows of a night's lists. top: so many of each; all by default. users: only theirs, of the type of
    the table's ids. titles: movie_id, title; None for rows without titles. lists, rows, done: written so far,
    and the share of the table that was read."""

    night: Source
    top: int | None = None
    users: pl.Series | None = None
    titles: pl.DataFrame | None = None
    lists: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)
    done: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._table = self.night.table(tables.TOP_N)
        self._paths = sorted(delta.partition(self._table, self.night.run["run_date"]))
        wanted = [name for name in COLUMNS if name != "title" or self.titles is not None]
        empty = pl.DataFrame(pa.schema(self._table.schema().to_arrow()).empty_table())
        dtypes = dict(empty.schema) | {"title": pl.String()}
        self.schema = pl.Schema({name: dtypes[name] for name in wanted})

    def blocks(self) -> Iterator[pl.DataFrame]:
        """Blocks of rows with the columns of `schema`; a list may go on in the next block.

        Raises DamagedFile where the rows of a list lie apart.
        """
        last = None
        for n_read, path in enumerate(self._paths):
            uri = storage.join(self.night.output, tables.TOP_N.name, path)
            file = TableFile(uri, columns=list(_READ))
            in_file = 0
            for block in file.blocks(BLOCK_ROWS):
                self._check(block, after=last, uri=uri)
                last, in_file = block["user_id"][-1], in_file + block.height
                rows = self._chosen(block)
                self.lists += int((rows["rank"] == 1).sum())
                self.rows += rows.height
                self.done = (n_read + in_file / file.n_rows) / len(self._paths)
                yield rows

    @staticmethod
    def _check(block: pl.DataFrame, *, after: str | int | None, uri: str) -> None:
        """Each list begins with its rank 1, and goes on without another's rows in between."""
        user, rank = block["user_id"], block["rank"]
        same = (user == user.shift(fill_value=after)).fill_null(False)
        if (same == (rank == 1)).any():
            raise DamagedFile(
                f"{uri}: the rows of a list lie apart, somebody has written the table anew; publish the night again"
            )

    def _chosen(self, block: pl.DataFrame) -> pl.DataFrame:
        rows = block if self.top is None else block.filter(pl.col("rank") <= self.top)
        if self.users is not None:
            rows = rows.filter(pl.col("user_id").is_in(self.users.implode()))
        if self.titles is not None:
            rows = rows.join(self.titles, on="movie_id", how="left", maintain_order="left")
        day = pl.lit(self.night.run["run_date"], pl.Date).alias("run_date")
        return rows.select(day, *(name for name in self.schema if name != "run_date"))
