"""Charts: marks stay within the plot, text is text, and a chart's file stands on its own."""

import itertools
import math
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from cfjobs.report import charts, metric_names
from cfjobs.report.charts import Chart
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
    title, name = HOSTILE_TITLES[:2]
    chart = Chart(title, name, name, (1, 10), (0, 1), key=(("main", name),), log_x=True)
    chart.dot(2, 0.5, kind="main", tip=title).marker(3, title, line=0, after=True)
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
