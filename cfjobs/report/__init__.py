"""The night as a page that opens anywhere: one HTML file next to the tables,
without a request to any network.

facts                  what the page shows, from the published tables of the night
page                   the sections in their order; each gives its template what it shows
rating_errors, lists, movies, run   the sections
nights                 the page of all nights
html, templates/       tables, figures and the templates, with autoescape
charts, charts.css     the only maker of charts: SVG for this page, for `lr-find`, for the summary of a run
metric_names           what people call the metrics
page.css, page.js      the look, and the map that can be moved
markdown               the summary of a run for Prefect
"""

import logging
from datetime import date

from cfjobs import storage
from cfjobs.report import nights
from cfjobs.tables.runs import published_nights
from cfjobs.tables.schema import RUN_DATE

log = logging.getLogger(__name__)


def uri(output: str, run_date: date) -> str:
    """Where the page of a night is."""
    return storage.join(output, "reports", f"{RUN_DATE}={run_date.isoformat()}", "index.html")


def nights_uri(output: str) -> str:
    """Where the page of all nights is."""
    return storage.join(output, "reports", "index.html")


def build(output: str, *, run_date: date | None = None) -> str:
    """Write the page of a published night, the latest by default, and then the page of all nights.
    Returns the URI of the first."""
    from cfjobs.report import facts, page  # here: the page of all nights does without torch

    found = facts.gather(output, run_date=run_date)
    where = uri(output, found.run["run_date"])
    storage.write_bytes(where, page.document(found).encode("utf-8"))
    build_nights(output)
    return where


def build_nights(output: str) -> None:
    """Write the page of all nights from `runs` as it is now; whatever goes wrong is logged,
    for the tables stand."""
    output = storage.normal(output)
    where = nights_uri(output)
    try:
        storage.write_bytes(where, nights.document(published_nights(output)).encode("utf-8"))
    except Exception:
        log.warning(
            "%s: the page of all nights was not written; `cfjobs report` makes it again", where, exc_info=True
        )


def build_after_publishing(output: str, *, run_date: date) -> None:
    """The page of a night that has just been published; whatever goes wrong is logged,
    for the tables stand."""
    try:
        log.info("page: %s", build(output, run_date=run_date))
    except Exception:
        log.warning(
            "the tables are published, but their page failed; `cfjobs report` makes it again", exc_info=True
        )
