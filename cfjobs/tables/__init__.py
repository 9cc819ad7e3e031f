"""The published Delta tables: columns and guarantees, commits, the nights in them, rollback and retention."""

from cfjobs.tables.schema import (
    HOLDOUT_PREDICTIONS,
    METRICS,
    MOVIE_EMBEDDINGS,
    PUBLISHED,
    REJECTED,
    ROLLBACKS,
    RUN_DATE,
    RUNS,
    SIMILAR_MOVIES,
    SOURCE_MODEL,
    SOURCE_POPULAR,
    TOP_N,
    Column,
    Table,
    document,
)

__all__ = [
    "HOLDOUT_PREDICTIONS",
    "METRICS",
    "MOVIE_EMBEDDINGS",
    "PUBLISHED",
    "REJECTED",
    "ROLLBACKS",
    "RUNS",
    "RUN_DATE",
    "SIMILAR_MOVIES",
    "SOURCE_MODEL",
    "SOURCE_POPULAR",
    "TOP_N",
    "Column",
    "Table",
    "document",
]
