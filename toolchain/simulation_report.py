"""``report.html`` of a simulation: one page that needs nothing else."""

from collections.abc import Sequence
from html import escape
from importlib import resources

from runtimes.accelerator.results import NetworkResult
from runtimes.accelerator.workload import HostOperation
from toolchain.report_parts import figure
from toolchain.simulation_comparison import ablations, compare, notes, totals
from toolchain.svg import Cloud, Point, Series, bar_chart, scatter


def render(
    model: str,
    results: Sequence[NetworkResult],
    changed: Sequence[tuple[str, NetworkResult]],
    host: Sequence[HostOperation],
    note: str,
) -> str:
    """The page.

    Args:
        model: name of the file.
        results: of every architecture; the first is shown in detail.
        changed: the first with one thing changed, by what was changed.
        host: operators beside the accelerator.
        note: where the input came from, and how close the arithmetic is to onnxruntime.
    """
    first = results[0]
    charts = [
        compare("Latency", "cycles of all layers", results, lambda each: each.cycles),
        compare("Energy", "µJ of all layers", results, lambda each: each.energy_pj / 1e6),
        compare("DRAM traffic", "bytes of all layers", results, lambda each: each.dram_bytes),
        ablations(first, changed),
    ]
    own = [_cycles(first), _energy(first), _utilisation(first), _traffic(first), _roofline(first)]
    return page(
        f"Simulation: {model}",
        f'<h1>{escape(model)}</h1><p class="soft">Simulated on '
        f"{escape(', '.join(each.architecture.name for each in results))}. {escape(note)}</p>"
        f"<h2>Architectures</h2>{totals(results)}"
        f'<p class="soft">{escape(notes(results))}</p>'
        f'<div class="charts">{"".join(charts)}</div>'
        f"<h2>Layers on {escape(first.architecture.name)}</h2>"
        f'<div class="charts">{"".join(own)}</div>'
        f"<h2>On the host</h2>{_host(host, first)}"
        f"<h2>Assumptions</h2>{''.join(_assumptions(each) for each in results)}",
    )


def page(title: str, body: str) -> str:
    """An HTML page with the style of the other reports."""
    style = resources.files("toolchain").joinpath("report.html").read_text(encoding="utf-8")
    style = style[style.index("<style>") : style.index("</style>") + len("</style>")]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>{style}</head><body><main>{body}</main></body></html>\n"
    )


def _names(result: NetworkResult) -> list[str]:
    return [each.layer.name for each in result.layers]


def _cycles(result: NetworkResult) -> str:
    series = [
        Series(name="in all", values=[each.total_cycles for each in result.layers]),
        Series(name="computing", values=[each.compute_cycles for each in result.layers]),
    ]
    chart = bar_chart(title="Cycles of each layer", labels=_names(result), series=series)
    return figure("Cycles of each layer", "the difference waits for memory", chart)


def _energy(result: NetworkResult) -> str:
    def part(each: dict[str, float], names: Sequence[str]) -> float:
        return sum(value for name, value in each.items() if name in names) / 1e3

    memories = ("input_sram", "weight_sram", "output_sram", "accumulator_sram")
    series = [
        Series(name="DRAM", values=[part({**e.energy_pj}, ["dram"]) for e in result.layers]),
        Series(name="SRAM", values=[part({**e.energy_pj}, memories) for e in result.layers]),
        Series(
            name="the rest",
            values=[
                part({**e.energy_pj}, [n for n in e.energy_pj if n not in ("dram", *memories)])
                for e in result.layers
            ],
        ),
    ]
    chart = bar_chart(title="Energy of each layer", labels=_names(result), series=series, unit="nJ")
    return figure("Energy of each layer", "nJ", chart)


def _utilisation(result: NetworkResult) -> str:
    values = [100 * each.utilisation for each in result.layers]
    series = [Series(name="multipliers", values=values)]
    chart = bar_chart(title="Utilisation", labels=_names(result), series=series, unit="%")
    return figure("Utilisation", "share of multiplier cycles while computing", chart)


def _traffic(result: NetworkResult) -> str:
    tensors = list(dict.fromkeys(t for each in result.layers for t in each.dram_bytes))
    tensors = [t for t in tensors if any(each.dram_bytes.get(t) for each in result.layers)]
    series = [
        Series(name=t, values=[each.dram_bytes.get(t, 0) for each in result.layers])
        for t in tensors
    ]
    chart = bar_chart(title="DRAM traffic", labels=_names(result), series=series, unit="B")
    return figure("DRAM traffic by tensor", "bytes", chart)


def _roofline(result: NetworkResult) -> str:
    architecture = result.architecture
    peak = architecture.array.multipliers
    ridge = peak / architecture.bytes_per_cycle
    points = [
        Point(
            x=(each.macs + each.macs_skipped) / sum(each.dram_bytes.values()),
            y=(each.macs + each.macs_skipped) / each.total_cycles,
            label="",
        )
        for each in result.layers
        if each.macs
    ]
    roof = [
        Point(x=ridge / 100, y=peak / 100, label=""),
        Point(x=ridge, y=peak, label="peak of the multipliers"),
        Point(x=ridge * 10, y=peak, label=""),
    ]
    chart = scatter(
        title="Roofline",
        clouds=[
            Cloud(name="roof without skipping", points=roof, line=True),
            Cloud(name="layers", points=points),
        ],
        x_label="MACs, skipped ones included, per byte of DRAM",
        y_label="MACs, skipped ones included, per cycle",
        x_log=True,
        y_log=True,
    )
    return figure("Roofline", "a layer above the roof gains from skipped zeros", chart)


def _host(host: Sequence[HostOperation], first: NetworkResult) -> str:
    if not host:
        return '<p class="soft">Every operator runs on the accelerator.</p>'
    rows = "".join(
        f'<tr><th scope="row">{escape(each.name)}</th><td>{escape(each.op_type)}</td>'
        f'<td class="number">{each.elements:,}</td><td>{escape(each.reason)}</td></tr>'
        for each in host
    )
    return (
        f'<p class="soft">{first.host_cycles:,} cycles, not counted above.</p>'
        '<div class="card scroll"><table><thead><tr><th>Node</th><th>Operator</th>'
        '<th class="number">Elements</th><th>Reason</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _assumptions(result: NetworkResult) -> str:
    architecture = result.architecture
    rows = "".join(
        f"<tr><td>{escape(what)}</td><td>{escape(source)}</td></tr>"
        for what, source in architecture.assumptions
    )
    return (
        f"<details><summary>{escape(architecture.name)}: {escape(architecture.summary)}</summary>"
        '<div class="card scroll"><table><thead><tr><th>What</th><th>Source</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )
