"""Tonight's lists for apps: as CSV, JSON lines, Parquet or SQLite, or into a table of Postgres."""

from cfjobs.export.run import Exported, export

__all__ = ["Exported", "export"]
