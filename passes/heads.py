"""`heads`: runs the heads of an attention apart where they differ in size.

Attention multiplies all its heads at once, so each is as large as the largest. In a model whose
lines training has made zero, head by head, that is far more than what is left of them. Here heads
of one size form an attention of their own, and the outputs add up (see `passes.channels.regions`);
`shrink` or `tprune` then cut each to its size. Nothing is lost: the result is exact.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.channels.graph import ChannelGraph
from passes.channels.groups import prunable
from passes.channels.layout import Ids
from passes.channels.plans import decide_layers, freeze_left_out, left_out
from passes.channels.records import Contraction
from passes.channels.regions import Region, find_regions, split_regions
from passes.channels.removal import format_indices, parse_indices
from passes.cost import layer_costs
from passes.framework import CompressionPass, ConfigError, LayerDecision, Plan, PlanError
from passes.shrink import ShrinkConfig, ShrinkPass
from passes.tprune_scores import weight_energies

Sizes = NDArray[np.int64]
Energies = NDArray[np.float64]
Parts = list[list[int]]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Options of the pass."""

    threshold: float = _option(
        0.0, "lines below this share of the mean energy of their kind count as zero"
    )
    saving: float = _option(0.1, "share of the lines of an attention that has to be saved")
    multiple: int = _option(8, "sizes of heads are told apart in steps of this")

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            ConfigError: an option makes no sense.
        """
        for name in ("threshold", "saving"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {value:g}, expected a share below 1")
        if self.multiple < 1:
            raise ConfigError(f"multiple is {self.multiple}, expected 1 or more")


class HeadsPass(CompressionPass):
    """Splits attention by the size of heads."""

    name: ClassVar[str] = "heads"
    summary: ClassVar[str] = "run heads of different sizes apart"
    exact: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True
    config_type: ClassVar[type] = HeadsConfig

    def followers(self) -> tuple[CompressionPass, ...]:
        """Cuts every part to its size."""
        config = ShrinkConfig(multiple=self.config.multiple)
        return (ShrinkPass(config, context=self.context),)

    def analyse(self, model: ir.Model) -> Plan:
        """Sizes of heads from the weights; a decision for the layer behind each attention."""
        graph = prunable(model)
        excluded = left_out(model, self.context)
        freeze_left_out(graph, excluded)
        energies = weight_energies(graph)
        reasons, parts = {}, {}
        for found in find_regions(model, graph):
            if isinstance(found, tuple):
                reasons[found[0]] = f"its attention stays: {found[1]}"
                continue
            name = found.closing.node.name or ""
            parts[name], reasons[name] = self._decide(graph, found, energies)
        before = layer_costs(model)
        layers = [
            _decision(each, parts.get(each.layer, []), {**reasons, **excluded})
            for each in decide_layers(model, {}, {}, before)
        ]
        return Plan(pass_name=self.name, config=asdict(self.config), layers=tuple(layers))

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Copies each attention, once for every size."""
        if plan.pass_name != self.name:
            raise PlanError(f"plan of {plan.pass_name}, not of {self.name}")
        regions = {
            found.closing.node.name: found
            for found in find_regions(model, prunable(model))
            if isinstance(found, Region)
        }
        chosen = []
        for layer in plan.applied:
            if layer.layer not in regions:
                raise PlanError(f"plan of {self.name}: no attention before layer '{layer.layer}'")
            region = regions[layer.layer]
            chosen.append((region, _read_parts(layer, len(region.heads))))
        split_regions(model, chosen)
        return plan

    def _decide(self, graph: ChannelGraph, region: Region, energies: Energies) -> tuple[Parts, str]:
        """Heads that run together, or none; and why."""
        sizes = self._sizes(graph, region, energies)  # (H, kinds)
        if (sizes == sizes[0]).all():
            return [], "its heads have one size"
        saved = 1 - sizes.sum() / (len(sizes) * sizes.max(axis=0).sum())
        if saved < self.config.saving:
            return (
                [],
                f"heads apart would save {saved:.0%} of its lines, saving={self.config.saving:g}",
            )
        kinds, which = np.unique(sizes, axis=0, return_inverse=True)
        parts = [np.flatnonzero(which.reshape(-1) == kind).tolist() for kind in range(len(kinds))]
        return parts, f"heads of {len(parts)} sizes, apart: {saved:.0%} of the lines saved"

    def _sizes(self, graph: ChannelGraph, region: Region, energies: Energies) -> Sizes:
        """Lines of every head that are not zero, of queries and keys, and of values; (H, 2)."""
        roots = graph.roots()
        summed = np.zeros(len(roots), bool)
        for step in graph.flow:
            if isinstance(step, Contraction):
                summed[roots[step.reads]] = True
        sizes = np.zeros((len(region.heads), 2), np.int64)
        for kind in (0, 1):
            lines = _lines(graph, roots, region.heads, summed if kind == 0 else ~summed)
            means = [energies[list(whole)].sum() for wholes in lines for whole in wholes.values()]
            limit = self.config.threshold * float(np.mean(means or [0.0]))
            for head, wholes in enumerate(lines):
                count = sum(energies[list(whole)].sum() > limit for whole in wholes.values())
                step = self.config.multiple
                sizes[head, kind] = min(len(wholes), -(-max(int(count), 1) // step) * step)
        return sizes


def _lines(
    graph: ChannelGraph, roots: Ids, heads: Ids, wanted: NDArray[np.bool_]
) -> list[dict[int, set[int]]]:
    """For every head its features of a kind, each with the channels that it is."""
    place = {int(root): i for i, root in enumerate(heads)}
    lines: list[dict[int, set[int]]] = [{} for _ in heads]
    for product in graph.products:
        parts = [roots[part] for part in product.parts]
        for whole, *mine in zip(roots[product.whole].tolist(), *parts, strict=True):
            owners = [place[int(root)] for root in mine if int(root) in place]
            features = [int(root) for root in mine if int(root) not in place]
            if len(owners) == 1 and len(features) == 1 and wanted[features[0]]:
                lines[owners[0]].setdefault(features[0], set()).add(whole)
    return lines


def _decision(layer: LayerDecision, parts: Parts, reasons: Mapping[str, str]) -> LayerDecision:
    """The decision about a layer that mixes channels."""
    reason = reasons.get(layer.layer, "no attention with free heads before it")
    if not parts:
        return replace(layer, reason=reason, settings={})
    settings = {"parts": "; ".join(format_indices(tuple(part)) for part in parts)}
    return replace(layer, action="apply", reason=reason, settings=settings, predicted_error=0.0)


def _read_parts(layer: LayerDecision, heads: int) -> Parts:
    """Heads that run together.

    Raises:
        PlanError: they are not all the heads, each once.
    """
    try:
        parts = [list(parse_indices(part)) for part in str(layer.settings["parts"]).split("; ")]
    except (KeyError, ValueError) as error:
        raise PlanError(f"plan of heads, layer '{layer.layer}': bad setting {error}") from error
    if sorted(head for part in parts for head in part) != list(range(heads)) or [] in parts:
        raise PlanError(f"plan of heads, layer '{layer.layer}': needs each of {heads} heads once")
    return parts
