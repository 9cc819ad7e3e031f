"""Charts: marks stay within the plot, text is text, and a chart's file stands on its own."""

import itertools
import math
import xml.etree.ElementTree as ET

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfjobs.report import charts, metric_names, movies, rating_errors
from cfjobs.report.charts import Box, Chart
from tests.conftest import HOSTILE_TITLES

SVG = "{http://www.w3.org/2000/svg}"

finite = st.floats(-1e6, 1e6)


@given(finite, st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_within(low: float, span: float) -> None:
    found = charts.ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - span * 1e-6 <= at <= low + span * (1 + 1e-6) for at, _ in found)
    assert len({text for _, text in found}) == len(found)


@given(st.floats(1e-6, 1e3), st.floats(2, 1e6))
def test_ticks_of_a_logarithmic_axis_are_powers_of_ten_within(low: float, factor: float) -> None:
    for at, _ in charts.log_ticks(low, low * factor):
        assert low * (1 - 1e-6) <= at <= low * factor * (1 + 1e-6)
        assert math.log10(at) == round(math.log10(at))


@given(st.lists(st.tuples(finite, finite), min_size=1), st.booleans())
def test_every_point_is_drawn_within_the_plot(points: list[tuple[float, float]], log_x: bool) -> None:
    chart = Chart("t", "x", "y", (1, 1000), (0, 5), log_x=log_x).line(points, kind="main")
    ((_, path),) = [mark.split("points=") for mark in chart.marks]
    for place in path.strip('"/>').split():
        x, y = map(float, place.split(","))
        assert 0 <= x <= chart.width
        assert 0 <= y <= chart.height
    ordered = sorted(x for x, _ in points)
    assert all(chart.px(a) <= chart.px(b) for a, b in itertools.pairwise(ordered))


def test_a_file_stands_on_its_own_whatever_its_text_says() -> None:
    title, name, control = (*HOSTILE_TITLES[:2], HOSTILE_TITLES[-1])
    chart = Chart(title, name, name, (1, 10), (0, 1), key=(("main", name),), log_x=True)
    chart.dot(2, 0.5, kind="main", tip=title).dot(3, 0.5, kind="main", tip=control).marker(
        3, title, line=0, after=True
    )
    root = ET.fromstring(chart.file())
    texts = [element.text for element in root.iter() if element.text]
    assert texts.count(title) == 4  # as title, heading, tooltip and marker
    assert not list(root.iter(f"{SVG}script"))
    assert "prefers-color-scheme: dark" in chart.file()
    assert "url(" not in chart.file()


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=14))
def test_a_sparkline_is_drawn_from_the_third_night_on(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    assert bool(charts.sparkline(values)) == (len(known) >= 3)


@given(st.sampled_from(sorted(metric_names.METRICS)), finite, finite, finite, finite)
def test_a_difference_is_grey_inside_its_interval(
    metric: str, value: float, before: float, one: float, other: float
) -> None:
    about, interval = metric_names.of(metric), (min(one, other), max(one, other))
    verdict = about.verdict(value, before, interval)
    if interval[0] <= before <= interval[1] or about.better == 0:
        assert verdict == "muted"
    elif value != before:
        assert verdict == ("better" if (value > before) == (about.better > 0) else "worse")
    assert about.verdict(value, before, (None, None)) == "muted"


dots = st.tuples(st.floats(0, 700), st.floats(0, 500), st.floats(1, 8), st.text(max_size=30))


@settings(max_examples=30)
@given(st.lists(dots, max_size=60), st.integers(1, 20))
def test_labels_stand_clear_of_one_another_of_dots_and_of_the_edges(
    dots: list[tuple[float, float, float, str]], at_most: int
) -> None:
    plot = Box(0, 0, 700, 500)
    found = charts.placed(dots, plot=plot, at_most=at_most)
    assert len(found) <= at_most
    assert all(plot.holds(box) for _, box in found)
    assert not any(a.meets(b) for (_, a), (_, b) in itertools.combinations(found, 2))
    solid = [Box(x - r, y - r, x + r, y + r) for x, y, r, _ in dots[:at_most]]
    assert not any(dot.meets(box) for _, box in found for dot in solid)


def test_a_lone_dot_in_the_middle_has_its_label_to_the_right() -> None:
    ((text, box),) = charts.placed([(100, 100, 5, "Heat")], plot=Box(0, 0, 300, 200), at_most=3)
    assert text == "Heat"
    assert box.left > 105


def measured(metric: str, value: float, baseline: float | None) -> dict[str, object]:
    return {
        **{"metric": metric, "band": "all", "value": value, "low": value * 0.9, "high": value * 1.1},
        **{"baseline": baseline, "users": 10, "min_ratings": 1, "max_ratings": 9},
    }


def test_a_metric_stands_at_as_many_times_its_baseline_as_it_is_better() -> None:
    rows = [
        measured("rmse", 0.5, 1.0),  # less is better: twice as good
        measured("ndcg_at_10", 0.3, 0.1),
        measured("recall_at_10", 0.1, 0.2),
        measured("mrr_at_10", 0.2, 0.0),  # nothing to divide by
        measured("novelty_at_10", 3.0, 1.0),  # neither way is better
        measured("coverage_published", 0.2, 0.1),
    ]
    figure = rating_errors.against_baselines(pl.DataFrame(rows))
    assert figure is not None
    times = {row[0]: float(str(row[1])) for row in figure.numbers.rows}
    assert list(times.values()) == [3.0, 2.0, 0.5]
    places = [mark.split('cx="')[1].split('"')[0] for mark in figure.chart.marks if "<circle" in mark]
    assert [float(place) for place in places] == pytest.approx(
        [figure.chart.px(value) for value in sorted(times.values())], abs=0.1
    )
    assert rating_errors.against_baselines(pl.DataFrame(rows[4:])) is None


def test_the_map_colours_the_two_genres_that_lie_farthest_apart() -> None:
    n = 30
    genre = ["War", "Drama", "Musical"]
    found = pl.DataFrame(
        {
            "movie_id": range(n),
            "title": [f"Movie {number}" for number in range(n)],
            "n_ratings": range(n, 0, -1),
            "pc1": [(-1.0, 0.1, 1.0)[number % 3] for number in range(n)],
            "pc2": [number / n for number in range(n)],
        }
    )
    genres = pl.DataFrame({"movie_id": range(n), "genre": [genre[number % 3] for number in range(n)]})
    figure = movies.drawn_map(found, genres)
    assert {name for _, name in figure.chart.key} == {"War", "Musical"}
    assert sum("dot main" in mark for mark in figure.chart.marks) == n / 3
    plain = movies.drawn_map(found, genres.clear())
    assert not plain.chart.key
    assert "Movie 0" in plain._repr_svg_()
