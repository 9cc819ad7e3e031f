"""The tables the night publishes: names, columns, types and meanings, declared once.

Ids keep the type they came with (int64 or string), so a schema is made for a night's id types.
"""

from dataclasses import dataclass

import pyarrow as pa

RUN_DATE = "run_date"


@dataclass(frozen=True)
class Column:
    """One column of a published table; `kind` is an Arrow type, or 'user' or 'movie' for an outside id."""

    name: str
    kind: pa.DataType | str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One published table: a Delta table under the output URI, partitioned by `run_date`."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    def schema(self, *, user_type: pa.DataType, movie_type: pa.DataType) -> pa.Schema:
        """The Arrow schema for a night whose ids have these types."""
        ids = {"user": user_type, "movie": movie_type}
        return pa.schema(
            [
                pa.field(c.name, ids[c.kind] if isinstance(c.kind, str) else c.kind, nullable=c.nullable)
                for c in self.columns
            ]
        )


_DATE = Column(RUN_DATE, pa.date32(), "The night the row belongs to; the partition.")

TOP_N = Table(
    "top_n",
    "Each user's list: the movies to show, best first.",
    (
        _DATE,
        Column("user_id", "user", "Whose list it is; the outside id, as in the ratings."),
        Column("rank", pa.int16(), "Place in the list: 1, 2, ... without gaps."),
        Column("movie_id", "movie", "The movie; never one the user has rated."),
        Column(
            "score",
            pa.float32(),
            "What orders the list: never increases with rank, comparable within one user only.",
        ),
        Column("predicted_rating", pa.float32(), "Stars the user would give, on the scale of the ratings."),
        Column("source", pa.string(), "`model`, or `popular` for a user without any rating."),
    ),
)

METRICS = Table(
    "metrics",
    "How good the night's model is on ratings it was not trained on.",
    (
        _DATE,
        Column("metric", pa.string(), "Name of the metric, such as `rmse` or `ndcg_at_10`."),
        Column("value", pa.float64(), "Its value."),
    ),
)

REJECTED = Table(
    "rejected_ratings",
    "Input rows that were set aside, each with its reason.",
    (
        _DATE,
        Column("file", pa.string(), "The input file."),
        Column("row", pa.int64(), "Row number in the file, from 0."),
        Column("reason", pa.string(), "Why the row was set aside."),
        Column("user_id", pa.string(), "The row's user, as text.", nullable=True),
        Column("movie_id", pa.string(), "The row's movie, as text.", nullable=True),
        Column("rating", pa.string(), "The row's rating, as text.", nullable=True),
    ),
)

RUNS = Table(
    "runs",
    "One row a night, committed last: what went in, how it went, and the versions of the other tables.",
    (
        _DATE,
        Column("run_id", pa.string(), "Identifier of the run that published the night."),
        Column("started_at", pa.timestamp("us", tz="UTC"), "When the run started."),
        Column("finished_at", pa.timestamp("us", tz="UTC"), "When the run published."),
        Column("model_uri", pa.string(), "Folder of the model that made the lists."),
        Column(
            "table_versions", pa.string(), "JSON object: Delta version of each other table of this night."
        ),
        Column(
            "counts",
            pa.string(),
            "JSON object: ratings read, kept, superseded and rejected, users, movies, lists.",
        ),
        Column("metrics", pa.string(), "JSON object: the holdout metrics."),
        Column("seconds", pa.string(), "JSON object: seconds of each stage."),
        Column("config", pa.string(), "JSON object: the configuration."),
        Column("inputs", pa.string(), "JSON list: the input files with size and etag."),
        Column("versions", pa.string(), "JSON object: versions of cfjobs, Python and the main packages."),
        Column(
            "gate",
            pa.string(),
            "`passed`, `no holdout`, `existing model`, or `overridden: ` and what the gate had said.",
        ),
    ),
)

ROLLBACKS = Table(
    "rollbacks",
    "Who brought the tables back to a former night, and why; absent until somebody does.",
    (
        Column(RUN_DATE, pa.date32(), "The night gone back to; the partition."),
        Column("run_id", pa.string(), "The run that had published it."),
        Column("at", pa.timestamp("us", tz="UTC"), "When."),
        Column("who", pa.string(), "Who asked."),
        Column("why", pa.string(), "The reason given, or nothing."),
        Column("before", pa.string(), "JSON object: version of each table before."),
        Column("restored", pa.string(), "JSON object: version of each table whose content it has again."),
    ),
)

PUBLISHED: tuple[Table, ...] = (TOP_N, METRICS, REJECTED, RUNS)

SOURCE_MODEL = "model"
SOURCE_POPULAR = "popular"


def document() -> str:
    """The data dictionary of the published tables, as Markdown; `docs/tables.md` is this text."""
    return "\n".join([_INTRODUCTION, *(_section(table) for table in (*PUBLISHED, ROLLBACKS))])


_INTRODUCTION = """# The published tables

Delta tables under the output URI, partitioned by `run_date`. A date is published in one atomic commit a table:
a reader sees the night before or this one, never a part. Running a date again replaces that date and nothing else.
`runs` is committed last and names the version of every other table: take the versions from there to read several
tables of one night. Ids keep the type they have in the ratings, int64 or string.

This page is printed by `python -m cfjobs.tables`.
"""


def _section(table: Table) -> str:
    rows = [f"| `{c.name}` | {_kind(c)} | {c.meaning} |" for c in table.columns]
    return "\n".join(
        [
            f"## {table.name}\n",
            f"{table.meaning}\n",
            "| column | type | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _kind(column: Column) -> str:
    name = f"{column.kind} id" if isinstance(column.kind, str) else str(column.kind)
    return f"{name}, may be null" if column.nullable else name


if __name__ == "__main__":
    print(document(), end="")
