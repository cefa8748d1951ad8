"""Times a layer and its splits by themselves, as small models."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from passes.layerwise import LayerTimer
from passes.linear import LinearLayer, LinearUse, Sizes
from passes.split import Split, dense_shapes, make_nodes

Key = tuple[object, ...]


@dataclass(kw_only=True)
class SplitTimes:
    """Measures each geometry once.

    Attributes:
        timer: that measures.
        opset: of the small models.
    """

    timer: LayerTimer
    opset: int
    _known: dict[Key, dict[Split | None, float]] = field(default_factory=dict)

    def of(self, layer: LinearLayer, splits: Sequence[Split]) -> dict[Split | None, float] | None:
        """Milliseconds of each split, and at None of the layer as it is, over all uses.

        None where a shape is unknown.
        """
        total: dict[Split | None, float] = dict.fromkeys([None, *splits], 0.0)
        for use in layer.uses:
            if use.input is None or use.output is None:
                return None
            key = (use.op_type, use.geometry, use.input, layer.shape, tuple(splits))
            if key not in self._known:
                self._known[key] = self._measure(layer, use, splits)
            for split in total:
                total[split] += self._known[key][split]
        return total

    def _measure(
        self, layer: LinearLayer, use: LinearUse, splits: Sequence[Split]
    ) -> dict[Split | None, float]:
        forms: dict[Split | None, ir.Model] = {
            split: self._model(layer, use, split) for split in (None, *splits)
        }
        times = self.timer({_label(split): model for split, model in forms.items()})
        return {split: times[_label(split)] for split in forms}

    def _model(self, layer: LinearLayer, use: LinearUse, split: Split | None) -> ir.Model:
        assert use.input is not None and use.output is not None
        x = ir.Value(
            name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(list(use.input))
        )
        bias = None if use.op_type == "MatMul" else _weight("bias", (layer.outputs,))
        if split is None:
            weight = _weight("weight", layer.shape if layer.is_conv else layer.shape[::-1])
            weights = [weight]
            inputs = [x, weight] if bias is None else [x, weight, bias]
            nodes = [ir.Node("", use.op_type, inputs, _dense_attributes(use), name=use.name)]
        else:
            one, two = dense_shapes(layer, split)
            weights = [_weight("first", one), _weight("second", two)]
            nodes = make_nodes(use, x, split, (weights[0], weights[1]), bias)
        y = nodes[-1].outputs[0]
        y.name, y.type = "y", x.type
        graph = ir.Graph(
            [x],
            [y],
            nodes=nodes,
            initializers=weights if bias is None else [*weights, bias],
            opset_imports={"": self.opset},
            name="layer",
        )
        return ir.Model(graph, ir_version=8)


def _label(split: Split | None) -> str:
    return "dense" if split is None else f"{split.form} {split.rank}"


def _dense_attributes(use: LinearUse) -> list[ir.Attr]:
    if use.geometry is None:
        return []
    keys = ("strides", "pads", "dilations")
    return [ir.AttrInt64s(key, list(getattr(use.geometry, key))) for key in keys]


def _weight(name: str, shape: Sizes) -> ir.Value:
    """Random numbers: time does not depend on them, zeros and denormals aside."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(shape), const_value=tensor
    )
