"""The table of `optc transform`: every layer before and after, totals last."""

from passes.framework import Cost, LayerDecision, Plan, sum_costs
from toolchain.console import (
    UNKNOWN,
    format_bytes,
    format_count,
    format_seconds,
    format_share,
    note,
    print_table,
    say,
)
from toolchain.report_storage import ratios
from toolchain.results import TransformResult

HEADERS = ("layer", "params", "", "MACs", "", "bytes", "", "predicted", "measured", "decision")


def print_result(result: TransformResult) -> None:
    """Prints a table of the passes that were asked for, and a line for those that follow up."""
    asked = {name for entry in result.recipe["passes"] for name in entry}
    for plan in result.plans:
        if plan.pass_name in asked:
            say(f"pass {plan.pass_name}", bold=True)
            rows = [*map(_row, plan.layers), _total(plan)]
            print_table(HEADERS, rows, text=(0, 9))
        else:
            say(f"pass {plan.pass_name}: {_rewritten(plan)}", bold=True)
        for line in plan.notes:
            note(line)
    say()
    _print_totals(result)
    _print_checks(result)
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    say(f"{format_seconds(sum(result.seconds.values()))}: {spent}")


def _row(layer: LayerDecision) -> list[str]:
    decision = layer.reason if layer.applies else f"kept: {layer.reason}"
    errors = (_error(layer.predicted_error), _error(layer.measured_error))
    return [layer.layer, *_costs(layer.before, layer.after), *errors, decision]


def _total(plan: Plan) -> list[str]:
    before = sum_costs(layer.before for layer in plan.layers)
    after = sum_costs(layer.after for layer in plan.layers)
    return ["total", *_costs(before, after), "", "", _rewritten(plan)]


def _rewritten(plan: Plan) -> str:
    return f"{len(plan.applied)} of {len(plan.layers)} layers rewritten"


def _costs(before: Cost, after: Cost) -> list[str]:
    cells = []
    for key in ("parameters", "macs"):
        cells += [format_count(getattr(before, key)), format_count(getattr(after, key))]
    return [*cells, format_bytes(before.nbytes), format_bytes(after.nbytes)]


def _error(error: float | None) -> str:
    return UNKNOWN if error is None else f"{error:.3g}"


def _print_totals(result: TransformResult) -> None:
    before, after = result.input, result.output
    if after is None:
        return
    rows = [
        [
            name,
            format_bytes(model.nbytes),
            format_count(model.parameters),
            format_count(model.macs),
        ]
        for name, model in ((before.path, before), (after.path, after))
    ]
    rows.append(
        [
            "share left",
            format_share(after.nbytes / before.nbytes, 1),
            format_share(after.parameters / before.parameters if before.parameters else None, 1),
            format_share(after.macs / before.macs if before.macs and after.macs else None, 1),
        ]
    )
    print_table(("model", "size", "nonzero params", "MACs"), rows)
    _print_storage(result, after.nbytes)


def _print_storage(result: TransformResult, nbytes: int) -> None:
    """Where the bytes of the output go, where it is packed."""
    if not any(entry.bound < entry.nbytes for entry in result.storage):
        return
    rows = [
        [
            entry.part,
            format_bytes(entry.nbytes),
            format_share(entry.nbytes / nbytes, 1),
            format_bytes(entry.bound),
        ]
        for entry in result.storage
    ]
    bound = sum(entry.bound for entry in result.storage)
    rows.append(["file", format_bytes(nbytes), format_share(1.0, 1), format_bytes(bound)])
    print_table(("stored", "bytes", "share", "entropy bound"), rows)
    if compared := ratios(result):
        say(compared)


def _print_checks(result: TransformResult) -> None:
    check = result.verification
    if check is None:
        return
    for output in check.outputs:
        sqnr = "equal" if output.sqnr_db is None else f"SQNR {output.sqnr_db:.1f} dB"
        same = output.top1_agreement
        agreement = "" if same is None else f", same top-1 for {same:.1%}"
        say(
            f"output '{output.name}': {sqnr}, cosine {output.cosine:.4f}{agreement} "
            f"({output.samples} {check.data} samples)"
        )
    if check.data == "random":
        note("compared on random inputs; give --calib, and 'optc eval' for the accuracy")
