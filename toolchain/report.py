"""Reports of a transform: ``report.json`` for machines and ``report.html`` for people.

The page is one file that needs nothing else: charts are inline SVG and nothing is loaded. The
same result gives the same bytes.
"""

import json
import tempfile
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import yaml

from passes.framework import Plan
from toolchain import report_parts as parts
from toolchain.console import finite
from toolchain.errors import UsageError
from toolchain.report_storage import storage
from toolchain.results import TransformResult
from toolchain.svg import Series, bar_chart, dot_plot

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
VERDICTS = {
    "passed": "✓ Passed",
    "rejected": "✗ Rejected",
    "dry": "Dry run",
    "nothing": "Nothing applied",
}


def write_report(result: TransformResult, directory: Path) -> list[Path]:
    """Writes ``report.json`` and ``report.html``, creating the directory if need be.

    Both are complete on disk before either takes its name, so an earlier report stays whole when
    writing fails.

    Returns:
        The files written.

    Raises:
        UsageError: the directory cannot be written to.
    """
    contents = {REPORT_JSON: render_json(result), REPORT_HTML: render_html(result)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".report-") as aside:
            for name, text in contents.items():
                (Path(aside) / name).write_text(text, encoding="utf-8", newline="\n")
            for name in contents:
                (Path(aside) / name).replace(directory / name)
    except OSError as error:
        raise UsageError(f"report directory {directory}: {error.strerror or error}") from error
    return [directory / name for name in contents]


def render_json(result: TransformResult) -> str:
    """The result as JSON text; numbers that are not finite become null."""
    return json.dumps(finite(result.to_json()), indent=2, allow_nan=False) + "\n"


def render_html(result: TransformResult) -> str:
    """The result as one self-contained page."""
    template = resources.files("toolchain").joinpath("report.html").read_text(encoding="utf-8")
    verdict = _verdict(result)
    name = Path(result.input.path).name
    passes = ", ".join(plan.pass_name for plan in result.plans) or "no pass"
    return Template(template).substitute(
        title=escape(f"{VERDICTS[verdict]}: {name}"),
        verdict=VERDICTS[verdict],
        verdict_class=verdict,
        heading=escape(name),
        subtitle=escape(_subtitle(result, passes)),
        callout=_callout(result),
        tiles=parts.tiles(result),
        plans="".join(_plan(plan) for plan in result.plans),
        verification=parts.verification(result.verification) if result.verification else "",
        storage=storage(result),
        recipe=escape(_recipe(result)),
        seconds=f"{sum(result.seconds.values()):.2f} s in all",
        stages=_stages(result.seconds),
        provenance=parts.provenance(result),
    )


def _verdict(result: TransformResult) -> str:
    if result.verification is None:
        return "dry" if result.dry_run else "nothing"
    return "passed" if result.verification.passed and not result.missed_gates else "rejected"


def _subtitle(result: TransformResult, passes: str) -> str:
    if result.output is not None:
        return f"Compressed with {passes}, written to {result.output.path}"
    if result.dry_run:
        return f"Plan of {passes}. Nothing was written; what comes after is predicted."
    return f"{passes} changed no layer. Nothing was written; the table says why."


def _callout(result: TransformResult) -> str:
    failures = result.verification.failures if result.verification is not None else ()
    lines = "".join(f"<li>{escape(line)}</li>" for line in (*failures, *result.missed_gates))
    return f'<div class="callout rejected"><ul>{lines}</ul></div>' if lines else ""


def _plan(plan: Plan) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in plan.notes)
    options = ", ".join(f"{key}={value}" for key, value in plan.config.items() if value is not None)
    return "".join(
        [
            f"<h2>Pass {escape(plan.pass_name)}</h2>",
            f'<p class="soft">{escape(options)}</p>' if options else "",
            f'<ul class="notes">{notes}</ul>' if notes else "",
            parts.layer_table(plan),
            f'<div class="charts">{_parameters_chart(plan)}{_errors_chart(plan)}</div>',
        ]
    )


def _parameters_chart(plan: Plan) -> str:
    if all(layer.before.parameters == layer.after.parameters for layer in plan.layers):
        return ""
    chart = bar_chart(
        title=f"Parameters of each layer before and after {plan.pass_name}",
        labels=[layer.layer for layer in plan.layers],
        series=[
            Series(name="before", values=[layer.before.parameters for layer in plan.layers]),
            Series(name="after", values=[layer.after.parameters for layer in plan.layers]),
        ],
    )
    return parts.figure("Parameters of each layer", "weights that are not zero", chart)


def _errors_chart(plan: Plan) -> str:
    layers = [layer for layer in plan.applied if layer.predicted_error or layer.measured_error]
    if not layers:
        return ""
    chart = dot_plot(
        title=f"Error of each layer rewritten by {plan.pass_name}, predicted and measured",
        labels=[layer.layer for layer in layers],
        series=[
            Series(name="predicted", values=[layer.predicted_error for layer in layers]),
            Series(name="measured", values=[layer.measured_error for layer in layers]),
        ],
        log=True,
    )
    return parts.figure("Error of each rewritten layer", "relative error, logarithmic axis", chart)


def _stages(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return '<p class="soft">Not recorded.</p>'
    values = Series(name="wall time", values=list(seconds.values()))
    title = "Seconds spent in each stage"
    return bar_chart(title=title, labels=list(seconds), series=[values], unit="s")


def _recipe(result: TransformResult) -> str:
    plain = json.loads(json.dumps(result.recipe))
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return text
