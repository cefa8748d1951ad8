"""What every compression pass shares: configuration, plan, context and the pass itself.

A pass works in two steps. `analyse` reads the model and returns a `Plan`: one `LayerDecision`
for every candidate layer, applied or kept, with the reason and the predicted effect. `apply`
executes a plan, its own or one read from a file, and decides nothing.
"""

import fnmatch
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import onnx_ir as ir

from passes.layerwise import LayerTimer, LayerwiseCalibration

T = TypeVar("T")
Setting = str | int | float | bool | None
Progress = Callable[[int, int, str], None]
"""Called with (layers done, layers in all, what is being worked on)."""


class ConfigError(ValueError):
    """An option of a pass has a value that makes no sense; the message names both."""


class PlanError(ValueError):
    """A plan does not fit the model or the pass it is applied with."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a layer costs.

    Attributes:
        parameters: stored weight elements that are not zero (bias not counted).
        macs: multiply-accumulates for one sample; None where a shape is unknown.
        nbytes: bytes of the layer's initializers in the file.
    """

    parameters: int
    macs: int | None
    nbytes: int


def sum_costs(costs: Iterable[Cost]) -> Cost:
    """The total; its work is unknown if that of any part is."""
    parts = list(costs)
    macs = [part.macs for part in parts if part.macs is not None]
    return Cost(
        parameters=sum(part.parameters for part in parts),
        macs=sum(macs) if len(macs) == len(parts) else None,
        nbytes=sum(part.nbytes for part in parts),
    )


@dataclass(frozen=True, kw_only=True)
class LayerDecision:
    """What a pass does with one candidate layer, and why.

    Attributes:
        layer: name of the node.
        op_type: its operator.
        action: "apply" or "keep".
        reason: one line for a person; names the numbers that decided.
        settings: per-layer settings, e.g. ``{"rank": 5, "density": 0.3}``.
        before: cost in the input model.
        after: predicted cost, equal to `before` when kept; measured once applied.
        predicted_error: relative error of the layer output, ‖Δy‖/‖y‖ (of the weight, ‖ΔW‖/‖W‖,
            when there is no calibration data); None when kept.
        measured_error: the same, measured on calibration data after apply.
    """

    layer: str
    op_type: str
    action: Literal["apply", "keep"]
    reason: str
    before: Cost
    after: Cost
    settings: Mapping[str, Setting] = field(default_factory=dict)
    predicted_error: float | None = None
    measured_error: float | None = None

    @property
    def applies(self) -> bool:
        """Whether the layer is rewritten."""
        return self.action == "apply"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every decision of one pass about one model.

    Attributes:
        pass_name: the pass that made it.
        config: the pass's configuration.
        layers: decisions in graph order.
        notes: what a person should know, e.g. that no calibration data was given.
    """

    pass_name: str
    config: Mapping[str, Setting]
    layers: tuple[LayerDecision, ...]
    notes: tuple[str, ...] = ()

    @property
    def applied(self) -> tuple[LayerDecision, ...]:
        """The layers that are rewritten."""
        return tuple(layer for layer in self.layers if layer.applies)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """Reads a plan written by `to_json`.

        Raises:
            PlanError: a field is missing, unknown or of the wrong type.
        """
        try:
            layers = tuple(_decision_from_json(layer) for layer in data["layers"])
            notes = tuple(data.get("notes", ()))
            return _checked(cls, {**data, "layers": layers, "notes": notes})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"not a plan written by optc: {error}") from error


def _decision_from_json(data: Mapping[str, Any]) -> LayerDecision:
    where = f"layer '{data['layer']}'"
    costs = {key: _checked(Cost, data[key], f"{where}, {key}") for key in ("before", "after")}
    return _checked(LayerDecision, {**data, **costs}, where)


def _checked(kind: type[T], data: Any, where: str = "") -> T:
    """An object of a dataclass, every field of which has the type that it declares.

    Raises:
        TypeError: a field is missing, unknown or of the wrong type.
    """
    if not isinstance(data, dict):
        raise TypeError(f"{where} is {data!r}, expected a mapping")
    hints = typing.get_type_hints(kind)
    for key, value in data.items():
        if key in hints and not _is_of(value, hints[key]):
            place = f"{where}: " if where else ""
            raise TypeError(f"{place}{key} is {value!r}, expected {_describe(hints[key])}")
    return kind(**data)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type; JSON has no other number for 1.0 than 1."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in parts
    if origin is types.UnionType:
        return any(_is_of(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(each, parts[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_is_of(each, parts[1]) for each in value.values())
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(f"'{part}'" for part in parts)
    if origin is types.UnionType:
        return " or ".join(_describe(part) for part in parts)
    if origin is Mapping:
        return f"a mapping to {_describe(parts[1])}"
    if origin is tuple:
        return f"a list of {_describe(parts[0])}"
    return "null" if hint is types.NoneType else str(hint.__name__)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a pass may use besides the model.

    Attributes:
        calibration: forward activations of unlabelled samples, or None.
        timer: measures forms of a layer, or None.
        include: node-name globs; only matching layers are candidates.
        exclude: node-name globs that are left alone.
        seed: of everything random.
        progress: called as layers are finished.
    """

    calibration: LayerwiseCalibration | None = None
    timer: LayerTimer | None = None
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    seed: int = 0
    progress: Progress = lambda done, total, label: None

    def exclusion(self, layer: str) -> str | None:
        """Why the user's globs leave a layer out, or None."""
        if not any(fnmatch.fnmatchcase(layer, glob) for glob in self.include):
            return f"not matched by --include {' '.join(self.include)}"
        for glob in self.exclude:
            if fnmatch.fnmatchcase(layer, glob):
                return f"matched by --exclude {glob}"
        return None


class CompressionPass(ir.passes.InPlacePass, ABC):
    """Base of all passes that `optc transform` offers.

    Class attributes:
        name: as typed by the user.
        summary: one line for `optc passes`.
        exact: the output is numerically that of the input model.
        idempotent: a second run changes nothing.
        timed: uses the context's timer; where there is one, the whole model has the last word.
        config_type: frozen dataclass of options; raises `ConfigError` on bad values.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    exact: ClassVar[bool]
    idempotent: ClassVar[bool]
    timed: ClassVar[bool] = False
    config_type: ClassVar[type]

    def __init__(self, config: Any = None, context: Context | None = None) -> None:
        """Takes the pass's configuration (defaults when None) and context."""
        super().__init__()
        self.config = self.config_type() if config is None else config
        self.context = Context() if context is None else context

    @abstractmethod
    def analyse(self, model: ir.Model) -> Plan:
        """Decides about every candidate layer; leaves the model as it is."""

    @abstractmethod
    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        """Rewrites the model in place as planned.

        Returns:
            The plan with predicted costs and errors replaced by what was measured.

        Raises:
            PlanError: the plan names a layer that the model does not have, or cannot be applied.
        """

    def leaders(self, model: ir.Model) -> tuple["CompressionPass", ...]:
        """Passes that bring a model into the form that this one needs; none by default."""
        return ()

    def followers(self) -> tuple["CompressionPass", ...]:
        """Passes that clean up what this one leaves behind; none by default."""
        return ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Analyses and applies, leaders first: the `onnx_ir` entry point."""
        led = [leader(model).modified for leader in self.leaders(model)]
        plan = self.analyse(model)
        if not plan.applied:
            return ir.passes.PassResult(model, modified=any(led))
        self.apply(model, plan)
        return ir.passes.PassResult(model, modified=True)


def keep(decision: LayerDecision, reason: str) -> LayerDecision:
    """The decision turned into "keep", with its reason."""
    return replace(
        decision,
        action="keep",
        reason=reason,
        after=decision.before,
        predicted_error=None,
        measured_error=None,
        settings={},
    )
