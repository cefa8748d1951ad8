"""`--optimize-for latency`: what is fastest for every layer, if the whole is faster with it.

A layer by itself is timed without its neighbours, which it may hand its result to in another
memory layout. So the whole model has the last word: layer by layer, all native, or all in the form
that onnxruntime runs densely: portable, and int8 where quantised.
"""

from dataclasses import replace

import onnx_ir as ir

from passes.framework import Context, Plan, keep
from passes.select import SelectConfig, SelectPass, forms_of
from passes.select_prediction import Form
from toolchain.bench import BenchConfig
from toolchain.layer_timing import FormTimer

WHOLE = BenchConfig(rounds=30)
WHOLE_FORMS: tuple[Form, ...] = ("native", "portable", "int8")
LAYER_BY_LAYER = "layer by layer"


def select_fastest(model: ir.Model, context: Context, timer: FormTimer) -> tuple[ir.Model, Plan]:
    """Returns the model in its fastest form, and the plan that leads there."""
    context = replace(context, timer=timer)
    configs = {
        LAYER_BY_LAYER: SelectConfig(form="fastest"),
        **{
            f"all {form}": SelectConfig(form=form)
            for form in WHOLE_FORMS
            if any(form in forms_of(node) for node in model.graph)
        },
    }
    models, plans = {}, {}
    for name, config in configs.items():
        step = SelectPass(config, context)
        plans[name] = step.analyse(model)
        models[name] = model.clone()
        step.apply(models[name], plans[name])
    times = timer(models, WHOLE)
    best = min(times, key=lambda name: times[name])
    listed = ", ".join(f"{name} {milliseconds:.3g} ms" for name, milliseconds in times.items())
    runs = "native kernels" if timer.native is not None else "operator bodies, no native library"
    notes = (f"whole model, {timer.threads} thread(s), {runs}: {listed}; chosen: {best}",)
    chosen = replace(plans[best], notes=notes)
    if best != LAYER_BY_LAYER:  # show what was measured all the same
        measured = {layer.layer: layer.settings for layer in plans[LAYER_BY_LAYER].layers}
        layers = tuple(
            replace(layer, settings={**measured[layer.layer], **layer.settings})
            for layer in chosen.layers
        )
        chosen = replace(chosen, layers=layers)
    return models[best], chosen


def keep_if_faster(
    before: ir.Model, after: ir.Model, plan: Plan, timer: FormTimer
) -> tuple[ir.Model, Plan]:
    """The rewritten model and its plan, or the model as it was where that is not slower."""
    times = timer({"before": before, "after": after}, WHOLE)
    measured = (
        f"whole model, {timer.threads} thread(s): {times['after']:.3g} ms after {plan.pass_name}, "
        f"{times['before']:.3g} ms before"
    )
    plan = replace(plan, notes=(*plan.notes, measured))
    if times["after"] < times["before"]:
        return after, plan
    layers = [
        keep(each, f"measured slower as a whole: {measured}") if each.applies else each
        for each in plan.layers
    ]
    return before, replace(plan, layers=tuple(layers))
