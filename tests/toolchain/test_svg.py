"""Tests of the charts."""

import math
import re
from xml.etree import ElementTree

import pytest

from toolchain.svg import Cloud, Point, Series, bar_chart, dot_plot, scatter
from toolchain.svg_scale import Axis, compact, short_labels

SVG = "{http://www.w3.org/2000/svg}"
SERIES = [Series(name="before", values=[4.0, 2.0]), Series(name="after", values=[1.0, None])]


def tips(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [each.text or "" for mark in root for each in mark.findall(f"{SVG}title")]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("chart", [bar_chart, dot_plot])
def test_marks_name_their_values_and_leave_gaps(chart, log) -> None:
    svg = chart(title="t", labels=["a", "b"], series=SERIES, unit="ms", log=log)
    assert [tip for tip in tips(svg) if ":" in tip] == [
        "a, before: 4 ms",
        "a, after: 1 ms",
        "b, before: 2 ms",
    ]


def test_bar_lengths_are_proportional_to_values() -> None:
    root = ElementTree.fromstring(bar_chart(title="t", labels=["a", "b"], series=SERIES))
    bars = [each for each in root.iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
    assert widths[0] == pytest.approx(2 * widths[2], rel=0.01)


def test_one_series_writes_its_values_and_has_no_legend() -> None:
    svg = bar_chart(title="t", labels=["a"], series=[Series(name="only", values=[1234.0])])
    texts = [each.text for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "1.23 k" in texts
    assert "only" not in texts


def test_scatter_labels_points_and_joins_a_line() -> None:
    points = [Point(x=1, y=90, label="p=0.5"), Point(x=10, y=92, label="p=1")]
    svg = scatter(
        title="t",
        clouds=[Cloud(name="penni", points=points, line=True)],
        x_label="ms",
        y_label="top-1",
        x_log=True,
    )
    assert "penni, p=0.5: 1, 90" in tips(svg)
    assert len(re.findall(r"<path[^>]*fill:none", svg)) == 1


@pytest.mark.parametrize("chart", [bar_chart, dot_plot])
def test_text_is_escaped(chart) -> None:
    svg = chart(
        title="<script>",
        labels=["<script>alert('x')</script>"],
        series=[Series(name="&", values=[1])],
    )
    assert "<script>" not in svg
    assert ElementTree.fromstring(svg).find(f"{SVG}title").text == "<script>"


@pytest.mark.parametrize("chart", [bar_chart, dot_plot])
@pytest.mark.parametrize("values", [[], [None], [0.0], [5.0], [math.nan, math.inf]])
@pytest.mark.parametrize("log", [False, True])
def test_thin_data_still_draws(chart, values, log) -> None:
    labels = ["a"] * len(values)
    svg = chart(title="t", labels=labels, series=[Series(name="s", values=values)], log=log)
    ElementTree.fromstring(svg)
    assert "nan" not in svg


def test_scatter_of_nothing_draws() -> None:
    ElementTree.fromstring(scatter(title="t", clouds=[], x_label="x", y_label="y"))


def test_rows_must_match_labels() -> None:
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        bar_chart(title="t", labels=["a"], series=SERIES)


@pytest.mark.parametrize("values", [[0.01, 0.09], [1e-7, 3.0], [2.0], [1000.0, 1000.0]])
def test_log_axis_holds_its_values_and_has_ticks(values) -> None:
    axis = Axis.log(values, 0, 100)
    places = [axis.position(value) for value in values]
    assert all(0 < place < 100 for place in places)
    assert 2 <= len(list(axis.ticks())) <= 8


def test_linear_axis_has_round_ticks() -> None:
    assert [text for _, text in Axis.from_zero([0, 36_864], 0, 1).ticks()] == [
        "0",
        "10 k",
        "20 k",
        "30 k",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (512, "512"),
        (999.7, "1 k"),
        (269_722, "270 k"),
        (1_096_160, "1.1 M"),
        (2e-6, "2e-06"),
    ],
)
def test_compact(value, text) -> None:
    assert compact(value) == text


def test_short_labels_drop_what_all_share() -> None:
    labels = ["/net/layer1/conv/Conv", "/net/layer2/conv/Conv"]
    assert short_labels(labels) == ["layer1", "layer2"]
    assert short_labels(["same/x", "same/x"]) == ["same/x", "same/x"]
    assert all(len(label) <= 16 for label in short_labels(["x" * 40, "y" * 40]))


def test_a_point_may_say_more_when_pointed_at() -> None:
    point = Point(x=1, y=2, label="7", tip="blocks=8 & more")
    text = scatter(title="t", clouds=[Cloud(name="c", points=[point])], x_label="x", y_label="y")
    assert "<title>c, blocks=8 &amp; more: 1, 2</title>" in text and ">7</text>" in text
