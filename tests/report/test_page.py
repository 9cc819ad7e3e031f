"""The page of a night: whole, harmless whatever the titles say, and quiet and legible in a real browser."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from cfjobs import report
from cfjobs.cli import app, query
from cfjobs.config import Config
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.report import facts, metric_names, nights
from tests.browser import Tab, browser, chromium
from tests.conftest import HOSTILE_TITLES

NIGHT = date(2026, 3, 1)
QUICK = Config(
    epochs=1, top_n=20, n_factors=8, ranking_factors=8, ranking_steps=20, gate_beat_popularity=False
)


@pytest.fixture(scope="module")
def html(two_nights: Path) -> str:
    return Path(report.uri(str(two_nights / "out"), NIGHT)).read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element with its attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_night_writes_its_page_and_the_run_names_it(two_nights: Path, html: str) -> None:
    runs = pl.read_delta(str(two_nights / "out" / "runs")).filter(run_date=NIGHT)
    assert runs["report_uri"][0] == report.uri(str(two_nights / "out"), NIGHT)
    assert len(html.encode()) < 2_000_000
    found = Elements(html)
    for heading in (
        "Training and metrics", "Loss curves", "Who is served how well", "Predicted against true ratings", "Calibration",
        "Error by rating", "Error by movie age", "Map of the movies", "Most loved", "Least loved", "Popularity curve",
        "Changes since last night", "A few users", "Set aside", "rating is missing",
    ):  # fmt: skip
        assert heading in found.said, heading


def test_the_page_says_what_orders_the_lists(two_nights: Path, html: str) -> None:
    runs = pl.read_delta(str(two_nights / "out" / "runs")).filter(run_date=NIGHT)
    weight = json.loads(runs["metrics"][0])["stars_weight"]
    assert "Ordered by affinity: what the user chooses next" in html
    assert f"and {weight:g} \N{MULTIPLICATION SIGN} predicted stars" in html or weight == 0
    former = Path(report.uri(str(two_nights / "out"), date(2026, 2, 28))).read_text(encoding="utf-8")
    assert "Ordered by predicted stars." in former


def test_titles_are_text_whatever_they_say(html: str) -> None:
    found = Elements(html)
    assert len(found.named("script")) == 2
    assert not found.named("img")
    assert not [1 for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert HOSTILE_TITLES[1] in found.said
    inside = html.split('<script id="map-data" type="application/json">')[1].split("</script>", maxsplit=1)[0]
    data = json.loads(inside)
    assert data["title"][0] == HOSTILE_TITLES[0]
    assert len(data["title"]) == len(data["x"]) == len(data["y"]) == len(data["n"]) == len(data["bias"])


def test_nothing_on_the_page_comes_from_elsewhere(html: str) -> None:
    found = Elements(html)
    links = [
        str(a[key]) for _, a in found.tags for key in ("src", "href", "action", "data", "srcset") if key in a
    ]
    assert [link for link in links if not link.startswith("#")] == ["data:,", "../index.html"]
    assert "url(" not in html
    assert "@import" not in html
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link for link in links if link.startswith("#")} == {
        f"#{section['id']}" for section in found.named("section")
    }
    (policy,) = [meta for meta in found.named("meta") if meta.get("http-equiv")]
    assert "default-src 'none'" in str(policy["content"])


def test_the_figures_of_the_page_are_those_of_the_tables(two_nights: Path) -> None:
    found = facts.gather(str(two_nights / "out"))
    out = two_nights / "out"
    lists = pl.read_delta(str(out / "top_n")).filter(pl.col("rank") <= 10)
    tonight, before = lists.filter(run_date=NIGHT), lists.filter(run_date=date(2026, 2, 28))
    new = tonight.join(before, on=["user_id", "movie_id"], how="anti")
    assert found.changed is not None
    assert found.changed["changed"] == new["user_id"].n_unique()
    assert sum(found.changed["histogram"]) == found.changed["users"] == 122
    assert sum(found.places) == tonight.height
    assert found.variety["listed_movies"] == tonight["movie_id"].n_unique()
    lists_of_ten = tonight.sort("rank").group_by("user_id").agg("movie_id")["movie_id"].to_list()
    alike = Counter(map(tuple, lists_of_ten))
    assert alike.most_common(1)[0][1] >= 2  # the two who have rated nothing, at least
    assert found.variety["repeated_fraction"] == pytest.approx(sum(n for n in alike.values() if n > 1) / 122)
    assert found.by_rating["n"].sum() == found.calibration["n"].sum()
    assert (
        found.calibration["n"].sum()
        == pl.read_delta(str(out / "holdout_predictions")).filter(run_date=NIGHT).height
    )
    assert [user.band for user in found.users] == ["light", "medium", "heavy", "nothing rated"]
    assert all(len(user.list) == 10 for user in found.users)
    assert all(user.history for user in found.users[:3])


def test_tiles_and_tables_give_the_same_numbers(two_nights: Path, html: str) -> None:
    run = pl.read_delta(str(two_nights / "out" / "runs")).filter(run_date=NIGHT).row(0, named=True)
    tiles = html.split('class="tiles"')[1].split("<section", maxsplit=1)[0]
    for metric, value in json.loads(run["metrics"]).items():
        if metric in {"rmse", "ndcg_at_10"}:
            written = metric_names.of(metric).written(value)
            assert f">{written}<" in tiles
            assert f">{written}<" in html.split(metric_names.of(metric).name, maxsplit=1)[1][:200]
    (coverage,) = re.findall(
        r">Movies in some first ten \(coverage\)</th>\s*<td[^>]*>([^<]+)</td><td", html.split("Variety")[1]
    )
    assert f">{coverage}<" in tiles
    assert coverage == f"{json.loads(run['metrics'])['coverage_published']:.1%}"


def test_tables_name_their_rows_and_columns(html: str) -> None:
    found = Elements(html)
    assert len(found.named("table")) == len(found.named("caption"))
    assert {attributes.get("scope") for attributes in found.named("th")} == {"row", "col"}
    figures, pictures = html.count("<figure"), html.count('<svg class="chart"')
    assert figures == pictures
    assert all("<table" in figure.split("</figure>", maxsplit=1)[0] for figure in html.split("<figure")[1:])


def test_churn_of_users_without_new_ratings(two_nights: Path) -> None:
    found = facts.gather(str(two_nights / "out"))
    assert found.changed is not None
    quiet, with_new = found.changed["quiet"]
    assert 0 <= with_new <= quiet <= found.changed["users"]
    assert with_new <= found.changed["changed"]


def _pages(found: Elements) -> list[str]:
    """Where the page of all nights leads to, beside places on itself."""
    return [href for link in found.named("a") if not (href := str(link["href"])).startswith("#")]


def test_the_page_of_all_nights_links_to_each(two_nights: Path) -> None:
    index = two_nights / "out" / "reports" / "index.html"
    found = Elements(index.read_text(encoding="utf-8"))
    links = _pages(found)
    assert links == [f"run_date={night}/index.html" for night in ("2026-03-01", "2026-02-28")]
    assert all((index.parent / link).exists() for link in links)
    runs = pl.read_delta(str(two_nights / "out" / "runs"))
    for run in runs.to_dicts():
        metrics, counts = json.loads(run["metrics"]), json.loads(run["counts"])
        assert metric_names.of("rmse").written(metrics["rmse"]) in found.said
        assert f"{counts['read']:,}" in found.said


def _run(number: int, **columns: Any) -> dict[str, Any]:
    """A row of `runs`, with what the page of all nights reads."""
    began = datetime(2024, 1, 1, 1, 30, tzinfo=UTC) + timedelta(days=number)
    metrics = {
        "ndcg_at_10": 0.1 + number % 5 / 100,
        "ndcg_at_10_popular": 0.05,
        "rmse": 0.8 + number % 7 / 100,
    }
    return {
        "run_date": began.date(),
        "started_at": began,
        "finished_at": began + timedelta(minutes=3, seconds=5),
        "metrics": json.dumps(metrics | {"coverage_published": None, "churn_published": math.nan}),
        "counts": json.dumps(
            {"read": 1234, "lists": 10, "kept": 10 + number, "users": 10 + number, "movies": 9}
        ),
        "config": json.dumps({"model": "dot_bias"}),
        "model_uri": f"out/models/night-{number}",
        "gate": f"overridden: {HOSTILE_TITLES[0]}",
    } | columns


@pytest.mark.parametrize("n_nights", [1, 2, 3, 400])
def test_the_page_of_all_nights_draws_from_the_third_night_on_and_stays_small(n_nights: int) -> None:
    html = nights.document([_run(number) for number in range(n_nights)])
    found = Elements(html)
    assert len(html.encode()) < 1_000_000
    assert len(found.named("figure")) == (5 if n_nights >= 3 else 0)  # nDCG, RMSE, seconds, lists, ratings
    assert len(found.named("circle")) == (6 * n_nights if n_nights >= 3 else 0)  # nDCG has popularity's too
    newest_first = [f"run_date={_run(number)['run_date']}/index.html" for number in range(n_nights)][::-1]
    assert _pages(found) == newest_first
    table = html.split('<table class="nights">')[1].split("</table>")[0]
    assert table.count('<th scope="row"') == min(n_nights, nights.MOST_TABLED)
    assert f"published although the gate refused: {HOSTILE_TITLES[0]}" in found.said
    assert not [name for name, _ in found.tags if name in {"script", "img", "b"}]
    assert "3 min 5 s" in table
    assert ("(+1)" in table) == (n_nights > 1)
    assert "nan" not in html
    assert "Places that are new" not in html


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"gate": "no holdout"}, "no holdout, nothing measured"),
        ({"gate": "existing model", "model_uri": "s3://lake/models/<night>"}, "<night>"),
        ({"gate": "passed", "config": json.dumps({"feedback": "implicit"})}, "ranking alone"),
    ],
)
def test_the_page_of_all_nights_tells_nights_without_metrics(columns: dict[str, Any], said: str) -> None:
    runs = [_run(number, **columns, metrics="{}") for number in range(3)]
    found = Elements(nights.document(runs))
    assert said in found.said
    assert "nDCG" not in found.said
    assert len(found.named("figure")) == 3


def test_a_page_of_all_nights_that_fails_is_a_warning(
    two_nights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    monkeypatch.setattr(nights, "document", lambda _: 1 / 0)
    report.build_nights(str(two_nights / "out"))
    assert "the page of all nights was not written" in caplog.text


def test_a_past_night_is_told_as_it_was(two_nights: Path) -> None:
    found = facts.gather(str(two_nights / "out"), run_date=date(2026, 2, 28))
    assert found.changed is None
    assert len(found.nights) == 1


def test_a_night_with_little_to_tell_has_a_page_too(data_set: Path, tmp_path: Path) -> None:
    ratings = pl.read_parquet(data_set / "ratings.parquet")
    (tmp_path / "in").mkdir()
    ratings.with_columns(pl.format("u<{}>", "user_id").alias("user_id")).write_parquet(
        tmp_path / "in" / "r.parquet"
    )
    config = QUICK.model_copy(update={"holdout": "none"})
    output = str(tmp_path / "out")
    published = story.nightly(
        story.start(Inputs(ratings=str(tmp_path / "in")), output=output, run_date=NIGHT, config=config)
    )
    said = Elements(Path(report.uri(output, NIGHT)).read_text(encoding="utf-8")).said
    assert "nothing to measure" in said
    assert "This is the first night" in said
    assert "Nothing was rejected" in said
    (tmp_path / "in" / "r.parquet").unlink()
    assert "Nothing to show" in Path(report.build(output)).read_text(encoding="utf-8")
    assert published.counts["lists"] == 120


def test_a_page_that_fails_does_not_take_the_night_with_it(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(facts, "gather", fails)
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    story.nightly(
        story.start(Inputs(ratings=str(data_set)), output=str(tmp_path), run_date=NIGHT, config=QUICK)
    )
    assert pl.read_delta(str(tmp_path / "runs")).height == 1
    assert not (tmp_path / "reports").exists()


def test_report_builds_and_opens(two_nights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    output = str(two_nights / "out")
    done = CliRunner().invoke(
        app, ["report", "--output", output, "--run-date", "2026-02-28", "--open", "--json"]
    )
    uri = json.loads(done.stdout)["report"]
    assert uri == report.uri(output, date(2026, 2, 28))
    assert opened == [Path(uri).as_uri()]


def test_a_page_in_an_object_store_is_copied_to_be_opened(data_set: Path, bucket: str) -> None:
    story.nightly(story.start(Inputs(ratings=str(data_set)), output=bucket, run_date=NIGHT, config=QUICK))
    copy = query.local_copy(report.uri(bucket, NIGHT))
    assert "Recommendations of 1 March 2026" in copy.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    executable = chromium()
    if executable is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium); the page is not opened")
    with browser(executable, tmp_path_factory.mktemp("chromium")) as found:
        yield found


SMALLEST_TEXT = """(() => {
  const sizes = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement, svg = element.closest("svg");
    if (!text.textContent.trim() || element.closest("script, title") || !element.getClientRects().length) continue;
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    sizes.push(parseFloat(getComputedStyle(element).fontSize) * scale);
  }
  return Math.min(...sizes);
})()"""


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False)])
@pytest.mark.parametrize("of_all", [False, True])
def test_a_browser_shows_it_without_a_word_or_a_request(
    two_nights: Path, tmp_path: Path, tab: Tab, width: int, dark: bool, of_all: bool
) -> None:
    file = Path(report.uri(str(two_nights / "out"), NIGHT))
    if of_all:
        file = tmp_path / "index.html"
        file.write_text(nights.document([_run(number) for number in range(30)]), encoding="utf-8")
    tab.open(file.as_uri(), width=width, dark=dark)
    assert tab.complaints() == []
    assert tab.requests() == [file.as_uri()]
    title = "Nights of recommendations" if of_all else "Recommendations of 2026-03-01"
    assert tab.evaluate("document.title") == title
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(21, 23, 26)") == dark
    assert tab.evaluate(SMALLEST_TEXT) >= 12


def test_the_map_names_a_movie_and_zooms(two_nights: Path, tab: Tab) -> None:
    tab.open(Path(report.uri(str(two_nights / "out"), NIGHT)).as_uri())
    tab.evaluate("document.getElementById('map').scrollIntoView()")
    x, y, width, height = tab.evaluate(
        "(() => { const b = document.getElementById('map').getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
    )
    picture = "document.getElementById('map').toDataURL()"
    before = tab.evaluate(picture)
    for step in range(400):
        at = {
            "x": x + width * (0.2 + 0.6 * (step % 20) / 20),
            "y": y + height * (0.1 + 0.8 * (step // 20) / 20),
        }
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", **at)
        if tab.evaluate("document.getElementById('tip').style.display") == "block":
            break
    assert "ratings, bias" in tab.evaluate("document.getElementById('tip').textContent")
    tab.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=-400, **at)
    tab.settle(0.2)
    zoomed = tab.evaluate(picture)
    assert zoomed != before
    tab.evaluate("document.getElementById('map-whole').click()")
    assert tab.evaluate(picture) != zoomed
    assert tab.evaluate("document.title") == "Recommendations of 2026-03-01"
    assert tab.complaints() == []
