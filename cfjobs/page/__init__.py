"""The night as a page that opens anywhere: one HTML file beside the tables, without a request to any network."""

from datetime import date

from cfjobs import storage
from cfjobs.tables import RUN_DATE


def uri(output: str, run_date: date) -> str:
    """Where the page of a night is."""
    return storage.join(output, "reports", f"{RUN_DATE}={run_date.isoformat()}", "index.html")
