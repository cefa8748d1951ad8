"""What the pass `penni` decides about one layer, as a `LayerDecision` and back."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args, get_type_hints

import onnx_ir as ir

from passes.conv import ConvLayer
from passes.cost import layer_name
from passes.framework import Cost, LayerDecision, PlanError, Setting, keep
from passes.mathematics.fit import LayerSetting
from passes.penni_config import PenniConfig
from passes.penni_plan import LayerPlan
from runtimes.operators.positions import entropy_bits

GRANULARITIES = get_args(get_type_hints(PenniConfig)["granularity"])
"""Those that the option of the pass may have."""


def decide(
    node: ir.Node,
    before: Cost,
    layer: ConvLayer | None,
    plan: LayerPlan | None,
    refusal: str | None,
) -> LayerDecision:
    """The decision about one convolution.

    Args:
        node: the convolution.
        before: its cost.
        layer: None where it is no candidate.
        plan: None where it stays dense.
        refusal: why it is no candidate.
    """
    decision = LayerDecision(
        layer=layer_name(node),
        op_type=node.op_type,
        action="keep",
        reason=refusal or "the budget leaves it dense: decomposing others costs less accuracy",
        before=before,
        after=before,
    )
    if layer is None or plan is None:
        return decision
    setting, (K, C) = _with_a_block(plan.setting), layer.weight.shape[:2]
    coefficients = K * C * setting.rank
    stored = coefficients if setting.keep is None else setting.keep
    after = _predicted_cost(layer, setting.rank, stored, setting.pair)
    if setting.threshold is None and after.parameters >= before.parameters:
        return keep(
            decision, f"does not pay: {after.parameters} factors, {layer.weight.size} weights"
        )
    density = stored / coefficients
    sparsity = (
        f"|c| ≥ {setting.threshold:g}·std"
        if setting.threshold is not None
        else f"{density:.1%} of its coefficients"
    )
    return replace(
        decision,
        action="apply",
        reason=f"{setting.rank} of {layer.kernel_size} basis kernels, {sparsity}",
        after=after,
        settings={
            "rank": setting.rank,
            "density": density,
            "coefficients": setting.keep,
            "granularity": "pair" if setting.pair else "element",
            "threshold": setting.threshold,
        },
        predicted_error=plan.predicted_error,
    )


def _with_a_block(setting: LayerSetting) -> LayerSetting:
    """Keeps a coefficient, or those of a pair, where a small share of them is less than one."""
    if setting.keep is None or setting.threshold is not None:
        return setting
    return replace(setting, keep=max(setting.keep, setting.rank if setting.pair else 1))


def _predicted_cost(layer: ConvLayer, rank: int, stored: int, pair: bool) -> Cost:
    """Parameters nnz + M·RS; MACs HoWo·(C·M·RS + nnz) (PENNI, official code); entropy bytes."""
    K, C = layer.weight.shape[:2]
    block = rank if pair else 1
    basis = rank * layer.kernel_size
    position_bytes = round(entropy_bits(stored // block, K * C * rank // block) / 8)
    positions = layer.output_positions
    return Cost(
        parameters=stored + basis,
        macs=None if positions is None else positions * (C * basis + stored),
        nbytes=4 * (stored + basis + K) + position_bytes,
    )


def read_settings(decision: LayerDecision, layers: Mapping[str, ConvLayer]) -> LayerSetting:
    """Settings of a planned layer.

    Raises:
        PlanError: the model has no such layer, or a setting is missing or out of range.
    """
    where = f"plan of penni, layer '{decision.layer}'"
    if decision.layer not in layers:
        raise PlanError(f"{where}: the model has no such convolution that can be decomposed")
    try:
        return _read(decision.settings, layers[decision.layer])
    except (KeyError, ValueError, OverflowError) as error:
        raise PlanError(f"{where}: bad setting {error}") from error


def _read(given: Mapping[str, Setting], layer: ConvLayer) -> LayerSetting:
    """What settings mean; an error of Python's says which one is missing or out of range."""
    rank, granularity, threshold = int(str(given["rank"])), given["granularity"], given["threshold"]
    setting = LayerSetting(
        rank=rank,
        pair=granularity == "pair",
        threshold=None if threshold is None else float(str(threshold)),
    )
    if not 1 <= rank <= layer.kernel_size or layer.geometry.group != 1:
        raise ValueError(f"rank {rank}: it does not fit a kernel of {layer.kernel_size}")
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity '{granularity}': expected {' or '.join(GRANULARITIES)}")
    if setting.threshold is not None and not 0 < setting.threshold < math.inf:
        raise ValueError(f"threshold {threshold}: expected more than 0")
    if setting.threshold is not None:
        return setting
    return replace(setting, keep=_read_count(given, layer.weight.size // layer.kernel_size * rank))


def _read_count(given: Mapping[str, Setting], total: int) -> int | None:
    """How many coefficients stay, given by number, by share or by both; None for all."""
    count, density = given.get("coefficients"), given.get("density")
    if density is None and count is None:
        raise KeyError("coefficients")
    share = total if density is None else round(float(str(density)) * total)
    keep = share if count is None else int(str(count))
    if not 0 <= keep <= total:
        raise ValueError(f"coefficients {keep}: the layer has {total}")
    if density is not None and share != keep:
        raise ValueError(
            f"density {density}: it is {share} of {total} coefficients, but coefficients is "
            f"{keep}; change both, leave one of them out, or take a plan of this model"
        )
    return keep if keep < total else None
