"""``sweep.html``: latency of every point of a design space against what it costs."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from toolchain.report_parts import figure
from toolchain.simulation_report import page
from toolchain.svg import Cloud, Point, scatter

COSTS: Mapping[str, tuple[str, str, float]] = {
    "energy_pj": ("Energy", "energy, µJ", 1e-6),
    "area_mm2": ("Area", "area, mm², without control and wires", 1),
}
"""Costs that latency is shown against: caption, axis, factor of the axis."""


def render(
    title: str, entries: Sequence[Mapping[str, Any]], front: Mapping[str, Sequence[int]]
) -> str:
    """The page.

    Args:
        title: name of the sweep.
        entries: points, as in the JSON output; those that were refused have a reason.
        front: indices of the points that no other beats, by cost.
    """
    charts = [_chart(cost, entries, front[cost]) for cost in COSTS]
    refused = sum("refused" in entry for entry in entries)
    return page(
        f"Design space: {title}",
        f'<h1>{escape(title)}</h1><p class="soft">{len(entries)} points, {refused} refused.</p>'
        f'<div class="charts">{"".join(charts)}</div><h2>Points</h2>{_table(entries, front)}',
    )


def _chart(cost: str, entries: Sequence[Mapping[str, Any]], front: Sequence[int]) -> str:
    caption, axis, factor = COSTS[cost]

    def point(index: int, label: str) -> Point:
        entry = entries[index]
        settings = ", ".join(f"{name}={value}" for name, value in entry["settings"].items())
        tip = f"{index + 1}: {entry['model']}, {entry['architecture']}, {settings}"
        return Point(x=1e3 * entry["seconds"], y=factor * entry[cost], label=label, tip=tip)

    others = [
        point(index, "")
        for index, entry in enumerate(entries)
        if "refused" not in entry and index not in front
    ]
    first = {(entries[i]["seconds"], entries[i][cost]): i for i in reversed(front)}
    best = [point(i, str(i + 1) if i in first.values() else "") for i in front]  # one a place
    chart = scatter(
        title=f"Latency and {caption.lower()}",
        clouds=[
            Cloud(name="beaten by another point", points=others),
            Cloud(name="front", points=best, line=True),
        ],
        x_label="latency, ms",
        y_label=axis,
        x_log=True,
        y_log=True,
    )
    return figure(
        f"Latency and {caption.lower()}",
        "lower left is better; the numbers are those of the table",
        chart,
    )


def _table(entries: Sequence[Mapping[str, Any]], front: Mapping[str, Sequence[int]]) -> str:
    names = list(entries[0]["settings"])
    numbers = ("Cycles", "ms", "Energy, µJ", "DRAM, kB", "Multipliers", "SRAM, kB", "Area, mm²")
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in ("Architecture", *names))
    head += "".join(f'<th scope="col" class="number">{each}</th>' for each in numbers)
    rows = "".join(_row(entry, index, front) for index, entry in enumerate(entries))
    return (
        '<div class="card scroll"><table><thead><tr><th scope="col">#</th>'
        f'<th scope="col">Model</th>{head}'
        f'<th scope="col">On the front of</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _row(entry: Mapping[str, Any], index: int, front: Mapping[str, Sequence[int]]) -> str:
    texts = [entry["architecture"], *map(str, entry["settings"].values())]
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    if "refused" in entry:
        cells += f'<td colspan="8">refused: {escape(entry["refused"])}</td>'
    else:
        numbers = (
            f"{entry['cycles']:,}",
            f"{1e3 * entry['seconds']:.3f}",
            f"{entry['energy_pj'] / 1e6:,.1f}",
            f"{entry['dram_bytes'] / 1e3:,.0f}",
            f"{entry['multipliers']:,}",
            f"{entry['sram_bytes'] / 1e3:,.0f}",
            f"{entry['area_mm2']:.2f}",
        )
        cells += "".join(f'<td class="number">{text}</td>' for text in numbers)
        fronts = ", ".join(COSTS[cost][0].lower() for cost in COSTS if index in front[cost])
        cells += f"<td>{fronts}</td>"
    return f'<tr><th scope="row">{index + 1}</th><td>{escape(entry["model"])}</td>{cells}</tr>'
