"""The part of a simulation's report that compares: architectures, and one with changes."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

from runtimes.accelerator.area import load_table
from runtimes.accelerator.arrays import EscalateArray, ScnnArray, SpartenArray, SystolicArray
from runtimes.accelerator.results import NetworkResult
from toolchain.report_parts import figure
from toolchain.svg import Series, bar_chart

PUBLISHED: Mapping[type, tuple[float, float]] = {
    SystolicArray: (17.9, 8.3),
    ScnnArray: (2.16, 3.77),
    SpartenArray: (2.16, 3.77),
}
"""Latency and energy of dense and of sparse accelerators relative to ESCALATE, see `NOTE`."""
NOTE = (
    "Published are averages over four models (Li et al., MICRO 2021; recalled, unverified). "
    "Nothing here is fitted to them: this model is built from the abstract, and network, sparsity, "
    "array, buffers, DRAM and energies are not those of the paper. Weights are as the architecture "
    "stores them; a baseline that skips zeros gains only if the kernels of this file, multiplied "
    "out where they are decomposed, have any."
)


def totals(results: Sequence[NetworkResult]) -> str:
    """A table of all architectures."""
    head = "".join(
        f'<th scope="col" class="number">{name}</th>'
        for name in (
            *("Cycles", "ms", "Energy, µJ", "DRAM, kB", "Weights, kB", "Area, mm²"),
            *("Latency ratio", "published", "Energy ratio", "published"),
        )
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(each.architecture.name)}</th>'
        + "".join(f'<td class="number">{text}</td>' for text in _total(each, results[0]))
        + "</tr>"
        for each in results
    )
    return (
        '<div class="card scroll"><table><thead><tr><th scope="col">Architecture</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _total(each: NetworkResult, base: NetworkResult) -> Sequence[str]:
    """Numbers of an architecture, next to what is published of its kind against ESCALATE."""
    published = ("", "")
    if isinstance(base.architecture.array, EscalateArray):
        known = PUBLISHED.get(type(each.architecture.array))
        published = (f"{known[0]}×", f"{known[1]}×") if known else published
    return (
        f"{each.cycles:,}",
        f"{1e3 * each.cycles / each.architecture.clock_hz:.3f}",
        f"{each.energy_pj / 1e6:,.1f}",
        f"{each.dram_bytes / 1e3:,.0f}",
        f"{each.stored_weight_bytes / 1e3:,.0f}",
        f"{sum(each.area_mm2.values()):.2f}",
        f"{each.cycles / base.cycles:.2f}×",
        published[0],
        f"{each.energy_pj / base.energy_pj:.2f}×",
        published[1],
    )


def notes(results: Sequence[NetworkResult]) -> str:
    """What the published numbers are, where areas come from, and what they leave out."""
    tables = {each.architecture.area_table: None for each in results}
    texts = [
        f"Area at {table.node_nm} nm: {table.source}. Not counted: {table.not_counted}."
        for table in map(load_table, tables)
    ]
    return " ".join([NOTE, *texts])


def compare(
    caption: str,
    unit: str,
    results: Sequence[NetworkResult],
    value: Callable[[NetworkResult], float],
) -> str:
    """A bar for every architecture, "" for a single one."""
    if len(results) < 2:
        return ""
    labels = [each.architecture.name for each in results]
    series = [Series(name=caption, values=[value(each) for each in results])]
    return figure(caption, unit, bar_chart(title=caption, labels=labels, series=series))


def ablations(first: NetworkResult, changed: Sequence[tuple[str, NetworkResult]]) -> str:
    """Cycles and energy of the first architecture with one thing changed, "" for none."""
    if not changed:
        return ""
    shown = [("as described", first), *changed]
    chart = bar_chart(
        title="Cycles and energy with one mechanism changed",
        labels=[name for name, _ in shown],
        series=[
            Series(name="cycles", values=[each.cycles / first.cycles for _, each in shown]),
            Series(name="energy", values=[each.energy_pj / first.energy_pj for _, each in shown]),
        ],
    )
    return figure("Ablations", "relative to the architecture as described", chart)
