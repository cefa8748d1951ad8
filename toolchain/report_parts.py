"""The building blocks of the report page: tiles, tables and figures as HTML text.

All text that comes from a model, a path or a recipe is escaped here.
"""

from collections.abc import Iterable, Sequence
from html import escape

from passes.framework import Cost, LayerDecision, Plan, Setting, sum_costs
from toolchain.results import ModelSummary, TransformResult, Verification
from toolchain.svg_scale import compact

NONE = '<span class="soft" aria-label="not known">–</span>'
HEADINGS = ("Layer", "Op", "Decision")
COSTS = ("Parameters", "MACs", "Bytes")


def cost_after(result: TransformResult) -> Cost:
    """What the model costs in the end, from its file or, in a dry run, from the plans."""
    before = _cost(result.input)
    if result.output is not None:
        return _cost(result.output)
    layers = [layer for plan in result.plans for layer in plan.layers]
    old = sum_costs(layer.before for layer in layers)
    new = sum_costs(layer.after for layer in layers)
    known = before.macs is not None and old.macs is not None and new.macs is not None
    return Cost(
        parameters=before.parameters - old.parameters + new.parameters,
        macs=(before.macs or 0) - (old.macs or 0) + (new.macs or 0) if known else None,
        nbytes=before.nbytes - old.nbytes + new.nbytes,
    )


def tiles(result: TransformResult) -> str:
    """The headline numbers."""
    before, after = _cost(result.input), cost_after(result)
    applied = len({layer.layer for plan in result.plans for layer in plan.applied})
    candidates = len({layer.layer for plan in result.plans for layer in plan.layers})
    kept = f"{candidates - applied} kept as they were" if candidates > applied else "none kept"
    return "".join(
        [
            _change("Parameters", before.parameters, after.parameters, ""),
            _change("MACs", before.macs, after.macs, ""),
            _change("File size", before.nbytes, after.nbytes, "B"),
            _fidelity_tiles(result.verification),
            _tile("Layers rewritten", f"{applied} of {candidates}", kept),
        ]
    )


def layer_table(plan: Plan) -> str:
    """Every decision of a pass, sortable, with totals."""
    if not plan.layers:
        return '<p class="soft">The pass found no candidate layers.</p>'
    settings = _setting_names(plan.layers)
    numbers = [*settings, *(f"{cost} {side}" for cost in COSTS for side in ("before", "after"))]
    numbers += ["Predicted error", "Measured error"]
    head = "".join(_heading(name) for name in HEADINGS)
    head += "".join(_heading(name, number=True) for name in numbers) + _heading("Reason")
    rows = "".join(f"<tr>{_layer_row(layer, settings)}</tr>" for layer in plan.layers)
    before = sum_costs(layer.before for layer in plan.layers)
    after = sum_costs(layer.after for layer in plan.layers)
    foot = (
        f'<th scope="row">Total</th><td colspan="{len(HEADINGS) - 1 + len(settings)}"></td>'
        f'{_cost_cells(before, after)}<td colspan="3"></td>'
    )
    return (
        '<div class="card scroll" tabindex="0" role="region" aria-label="Layers">'
        '<table class="layers">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        f"<tfoot><tr>{foot}</tr></tfoot></table></div>"
    )


def verification(check: Verification) -> str:
    """How close every output is to that of the input model."""
    names = ("Max abs error", "Relative L2", "SQNR, dB", "Cosine", "Top-1 agreement", "Samples")
    head = '<th scope="col">Output</th>'
    head += "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    rows = [
        f'<tr><th scope="row">{escape(output.name)}</th>'
        + _number(output.max_abs, "{:.3g}")
        + _number(output.relative_l2, "{:.3g}")
        + (
            _number(output.sqnr_db, "{:.2f}")
            if output.relative_l2
            else '<td class="number">equal</td>'
        )
        + _number(output.cosine, "{:.6f}")
        + _number(output.top1_agreement, "{:.2%}")
        + _number(output.samples, "{:,}")
        + "</tr>"
        for output in check.outputs
    ]
    kind = "exact" if check.exact else "lossy"
    limit = "" if check.tolerance is None else f", relative error at most {check.tolerance:g}"
    return (
        f'<h2>Outputs compared</h2><p class="soft">On {escape(check.data)} data; the passes are '
        f'{kind}{limit}.</p><div class="card scroll" tabindex="0" role="region" '
        f'aria-label="Outputs"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def provenance(result: TransformResult) -> str:
    """Files with their hashes, versions and stage times as table rows."""
    facts = [("Input", _file(result.input.path, result.input.sha256))]
    if result.output is not None:
        facts.append(("Output", _file(result.output.path, result.output.sha256)))
    if result.calibration is not None:
        data = result.calibration
        facts.append(("Calibration", f"{data.samples:,} samples, {_file(data.path, data.sha256)}"))
    else:
        facts.append(("Calibration", "none: data-free"))
    facts += [(name, escape(str(value))) for name, value in result.environment.items()]
    facts += [(f"Seconds: {stage}", f"{spent:.3f}") for stage, spent in result.seconds.items()]
    rows = (f'<tr><th scope="row">{escape(name)}</th><td>{fact}</td></tr>' for name, fact in facts)
    return f"<tbody>{''.join(rows)}</tbody>"


def figure(caption: str, explanation: str, chart: str) -> str:
    """A chart with its caption."""
    return (
        f'<figure class="card"><figcaption>{escape(caption)}<span>{escape(explanation)}</span>'
        f'</figcaption><div class="chart">{chart}</div></figure>'
    )


def _fidelity_tiles(check: Verification | None) -> str:
    if check is None or not check.outputs:
        return ""
    worst = max(check.outputs, key=lambda output: output.relative_l2)
    where = f"{worst.name}\n{worst.samples:,} samples"
    sqnr = "equal" if not worst.relative_l2 else _or_dash(worst.sqnr_db, "{:.1f} dB")
    html = _tile("Output SQNR", sqnr, where) + _tile("Output cosine", f"{worst.cosine:.4f}", where)
    if worst.top1_agreement is not None:
        html += _tile("Top-1 agreement", f"{worst.top1_agreement:.1%}", "with the input model")
    return html


def _change(name: str, before: int | None, after: int | None, unit: str) -> str:
    if before is None or after is None:
        return _tile(name, NONE, "a shape is not known")
    detail = f"from {compact(before)}{unit}\n{_ratio(before, after)}"
    share = 100 * min(after / before, 1) if before else 100
    meter = f'<dd class="meter"><i style="width:{share:.1f}%"></i></dd>'
    return _tile(name, f"{compact(after)}{unit}", detail, meter)


def _tile(name: str, value: str, detail: str, extra: str = "") -> str:
    return (
        f'<div class="card tile"><dt>{name}</dt><dd class="value">{value}</dd>'
        f'<dd class="unit">{escape(detail)}</dd>{extra}</div>'
    )


def _ratio(before: int, after: int) -> str:
    if before == after:
        return "unchanged"
    if 0 < after < before:
        return f"{before / after:.2f}× smaller"
    return f"{after / before:.2f}× as large" if after > before > 0 else "changed"


def _layer_row(layer: LayerDecision, settings: Sequence[str]) -> str:
    word = "applied" if layer.applies else "kept"
    return "".join(
        [
            f'<th scope="row" data-value="{escape(layer.layer)}">{escape(layer.layer)}</th>',
            _cell(layer.op_type),
            f'<td class="{layer.action}" data-value="{word}">{word}</td>',
            *(_setting(layer.settings.get(name)) for name in settings),
            _cost_cells(layer.before, layer.after),
            _number(layer.predicted_error, "{:.3g}"),
            _number(layer.measured_error, "{:.3g}"),
            _cell(layer.reason, "reason"),
        ]
    )


def _setting_names(layers: Iterable[LayerDecision]) -> list[str]:
    """What a pass decides for each layer, in the order it names them; all-empty ones are left."""
    names: dict[str, None] = {}
    for layer in layers:
        names |= dict.fromkeys(key for key, value in layer.settings.items() if value is not None)
    return list(names)


def _cost_cells(before: Cost, after: Cost) -> str:
    pairs = zip(_figures(before), _figures(after), strict=True)
    return "".join(_number(value, "{:,}") for pair in pairs for value in pair)


def _figures(cost: Cost) -> tuple[int | None, ...]:
    return cost.parameters, cost.macs, cost.nbytes


def _cost(model: ModelSummary) -> Cost:
    return Cost(parameters=model.parameters, macs=model.macs, nbytes=model.nbytes)


def _heading(name: str, number: bool = False) -> str:
    kind = ' class="number"' if number else ""
    label = name[0].upper() + name[1:]
    return f'<th scope="col"{kind}><button type="button">{escape(label)}</button></th>'


def _cell(text: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<td{style} data-value="{escape(text)}">{escape(text)}</td>'


def _setting(value: Setting) -> str:
    if value is None or isinstance(value, str | bool):
        return _number(None, "") if value is None else _cell(str(value), "number")
    return _number(value, "{:.4g}" if isinstance(value, float) else "{:,}")


def _number(value: float | None, form: str) -> str:
    text = _or_dash(value, form)
    return f'<td class="number" data-value="{"" if value is None else value}">{text}</td>'


def _or_dash(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def _file(path: str, sha256: str) -> str:
    return f"{escape(path)}<br><code>sha256 {escape(sha256)}</code>"
