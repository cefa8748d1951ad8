"""Charts as SVG text: bars and dots with one row a label, and scatter plots with labelled points.

Each function is pure and returns one ``<svg>`` element for a page or a file of its own. Text takes
the colour of its surroundings, series take ``--series-0`` ... where a style sheet defines them.
Every mark carries its exact value as a tooltip.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from toolchain.svg_labels import Place, place_labels
from toolchain.svg_scale import Axis, compact, short_labels

WIDTH = 480
SCATTER_HEIGHT = 320
LABEL_WIDTH = 118
PLOT_RIGHT = WIDTH - 44
LEGEND_HEIGHT = 26
AXIS_HEIGHT = 24
ROW_GAP = 7
BAR_HEIGHT = 7
COLOURS = ("#9aa5b4", "#2166d1", "#c2570c", "#2a7d4f", "#8449b8")

Mark = Callable[[Axis, float, Sequence[float | None], str], str]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one colour, one for each label; None, NaN and infinity leave gaps."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a scatter plot.

    Attributes:
        x: horizontal.
        y: vertical.
        label: written beside it.
        tip: shown in the place of the label when pointed at.
    """

    x: float
    y: float
    label: str
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of one colour, in the order in which a line would join them."""

    name: str
    points: Sequence[Point]
    line: bool = False


def bar_chart(
    *,
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    unit: str = "",
    log: bool = False,
) -> str:
    """Horizontal bars, grouped by label; the values are written out where there is one series.

    Args:
        title: read out by screen readers.
        labels: one a row; long ones are shortened, the tooltip has them in full.
        series: each with as many values as there are labels.
        unit: of the values, shown at the axis.
        log: logarithmic axis.
    """

    def draw(axis: Axis, top: float, values: Sequence[float | None], label: str) -> str:
        marks = []
        for index, value in enumerate(values):
            if value is None:
                continue
            width = max(axis.position(value) - axis.low, 1)
            y = top + index * BAR_HEIGHT
            marks.append(
                f'<rect x="{axis.low}" y="{y:g}" width="{width:.1f}" height="{BAR_HEIGHT - 1}" '
                f'rx="1.5" style="fill:{_colour(index, len(series))}">'
                f"{_tip(label, series[index].name, value, unit)}</rect>"
            )
            if len(series) == 1:
                marks.append(_text(axis.low + width + 5, y + 6.5, compact(value)))
        return "".join(marks)

    height = BAR_HEIGHT * len(series)
    scale = Axis.log if log else Axis.from_zero
    return _row_chart(title, labels, series, scale, unit, height, draw)


def dot_plot(
    *,
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    unit: str = "",
    log: bool = False,
) -> str:
    """One row a label with a dot for each series, joined by a line that shows their distance.

    Takes what `bar_chart` takes; zeros lie on the left end of a logarithmic axis.
    """

    def draw(axis: Axis, top: float, values: Sequence[float | None], label: str) -> str:
        y = top + BAR_HEIGHT / 2
        places = [axis.position(value) for value in values if value is not None]
        joint = ""
        if len(places) > 1:
            joint = (
                f'<path d="M{min(places):.1f} {y:g}H{max(places):.1f}" '
                'style="stroke:currentColor;stroke-opacity:.3;stroke-width:1.5"/>'
            )
        dots = [
            f'<circle cx="{axis.position(value):.1f}" cy="{y:g}" r="{4 if index == 0 else 3}" '
            f'style="fill:{_colour(index, len(series))}">'
            f"{_tip(label, series[index].name, value, unit)}</circle>"
            for index, value in enumerate(values)
            if value is not None
        ]
        return joint + "".join(dots)

    scale = Axis.log if log else Axis.from_zero
    return _row_chart(title, labels, series, scale, unit, BAR_HEIGHT, draw)


def scatter(
    *,
    title: str,
    clouds: Sequence[Cloud],
    x_label: str,
    y_label: str,
    x_log: bool = False,
    y_log: bool = False,
) -> str:
    """Labelled points in two dimensions, each cloud optionally joined by a line (a Pareto front).

    Args:
        title: read out by screen readers.
        clouds: drawn in this order.
        x_label: quantity and unit of the horizontal axis.
        y_label: quantity and unit of the vertical axis.
        x_log: logarithmic horizontal axis.
        y_log: logarithmic vertical axis.
    """
    points = [point for cloud in clouds for point in cloud.points]
    top, bottom = LEGEND_HEIGHT + 22, SCATTER_HEIGHT - 36
    x_axis = (Axis.log if x_log else Axis.span)([point.x for point in points], 46, WIDTH - 24)
    y_axis = (Axis.log if y_log else Axis.span)([point.y for point in points], bottom, top)
    parts = [_legend([cloud.name for cloud in clouds], 0)]
    for x, text in x_axis.ticks():
        parts += [_line(x, top, x, bottom), _text(x, bottom + 15, text, "middle")]
    for y, text in y_axis.ticks():
        parts += [_line(46, y, WIDTH - 24, y), _text(40, y + 3.5, text, "end")]
    parts += [_text(WIDTH - 24, SCATTER_HEIGHT - 5, x_label, "end"), _text(0, top - 10, y_label)]
    named: dict[tuple[Place, str], None] = {}  # a label that two points share stands once
    for index, cloud in enumerate(clouds):
        places = [(x_axis.position(each.x), y_axis.position(each.y)) for each in cloud.points]
        parts.append(_cloud(cloud, places, _colour(index, len(clouds))))
        named |= dict.fromkeys(zip(places, (each.label for each in cloud.points), strict=True))
    for label, (_, text) in zip(place_labels(list(named), x_axis.low, WIDTH), named, strict=True):
        parts.append(_text(label.x, label.y, text, label.anchor))
    return _svg(title, SCATTER_HEIGHT, parts)


def _cloud(cloud: Cloud, places: Sequence[Place], colour: str) -> str:
    parts = []
    if cloud.line and len(places) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" style="fill:none;stroke:{colour};stroke-width:1.5"/>')
    for (x, y), point in zip(places, cloud.points, strict=True):
        tip = escape(f"{cloud.name}, {point.tip or point.label}: {point.x:.6g}, {point.y:.6g}")
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:{colour}">'
            f"<title>{tip}</title></circle>"
        )
    return "".join(parts)


def _row_chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    scale: Callable[[Iterable[float], float, float], Axis],
    unit: str,
    row_height: int,
    draw: Mark,
) -> str:
    rows = list(zip(*([_drawable(value) for value in each.values] for each in series), strict=True))
    if len(rows) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows of values")
    present = [value for row in rows for value in row if value is not None]
    axis = scale(present, LABEL_WIDTH, PLOT_RIGHT)
    top = AXIS_HEIGHT + (LEGEND_HEIGHT if len(series) > 1 else 0)
    step = max(row_height, 11) + ROW_GAP
    bottom = top + step * len(rows)
    parts = [_legend([each.name for each in series], LABEL_WIDTH) if len(series) > 1 else ""]
    for x, text in axis.ticks():
        parts += [_line(x, top - 4, x, bottom), _text(x, top - 9, text, "middle")]
    parts.append(_text(WIDTH, top - 9, unit, "end"))
    for index, (row, short) in enumerate(zip(rows, short_labels(labels), strict=True)):
        y = top + index * step + ROW_GAP / 2
        tip = f"<title>{escape(labels[index])}</title>"
        parts.append(_text(LABEL_WIDTH - 8, y + row_height / 2 + 3.5, short, "end", tip))
        parts.append(draw(axis, y, row, labels[index]))
    return _svg(title, bottom + 4, parts)


def _drawable(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _svg(title: str, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        'font-family="system-ui, sans-serif" font-size="11">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _legend(names: Sequence[str], x: float) -> str:
    parts = []
    for index, name in enumerate(names):
        parts.append(
            f'<rect x="{x:g}" y="4" width="10" height="10" rx="2" '
            f'style="fill:{_colour(index, len(names))}"/>' + _text(x + 15, 13, name)
        )
        x += 15 + 6.4 * len(name) + 16
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str = "", extra: str = "") -> str:
    place = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{place} fill="currentColor">{escape(text)}{extra}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" '
        'style="stroke:currentColor;stroke-opacity:.14"/>'
    )


def _tip(label: str, name: str, value: float, unit: str) -> str:
    return f"<title>{escape(f'{label}, {name}: {value:.6g} {unit}'.rstrip())}</title>"


def _colour(index: int, count: int) -> str:
    # The first of several series is the reference (before, predicted) and stays grey.
    index = (index if count > 1 else 1) % len(COLOURS)
    return f"var(--series-{index}, {COLOURS[index]})"
