"""Layers compared side by side against values taken from whole runs with onnxruntime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import toolchain.layer_fidelity
from passes.lower import LowerConfig, LowerPass
from runtimes.operators.decomposed_conv import DecomposedWeights
from tests.helpers import classifier, images, parse_ir, with_noise
from tests.passes.channel_models import Net, random_factors
from toolchain.data import Batch
from toolchain.errors import UnreadableError
from toolchain.layer_fidelity import LayerFidelity, compare_layers

PATHS = (Path("a.onnx"), Path("b.onnx"))


def batches(*sizes: int) -> Iterator[Batch]:
    for seed, size in enumerate(sizes):
        yield Batch(feeds={"input": images(size, seed)}, labels=None, samples=size)


def compare(first: ir.Model, second: ir.Model, **options: Any) -> tuple[LayerFidelity, ...]:
    return compare_layers(
        (PATHS[0], first),
        (PATHS[1], second),
        lambda: batches(3, 2),
        **{"batch_size": 3, **options},
    )


def value_of(model: onnx.ModelProto, name: str) -> Any:
    """One inner value for all samples."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(copy.SerializeToString())
    return np.concatenate([session.run([name], batch.feeds)[0] for batch in batches(3, 2)])


def relative(y: Any, z: Any) -> float:
    return float(np.linalg.norm(z.astype(float) - y) / np.linalg.norm(y.astype(float)))


@pytest.mark.parametrize("limit", [2**28, 1])
def test_errors_are_those_of_whole_runs(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(toolchain.layer_fidelity, "MEMORY_LIMIT", limit)
    first, second = classifier(), with_noise(classifier(), "conv_weight")
    done: list[tuple[int, int]] = []
    conv, fc = compare(
        ir.from_proto(first),
        ir.from_proto(second),
        progress=lambda index, total, _what: done.append((index, total)),
    )
    assert (conv.layer, conv.op_type, fc.layer, fc.op_type) == ("conv", "Conv", "fc", "Gemm")
    for result, name in ((conv, "a"), (fc, "logits")):
        expected = relative(value_of(first, name), value_of(second, name))
        assert expected > 1e-3
        assert result.fidelity.relative_l2 == pytest.approx(expected, rel=1e-3)
        assert result.fidelity.samples == 5
    assert done == ([(1, 1)] if limit > 1 else [(1, 2), (2, 2)])


def test_only_layers_behind_a_change_differ() -> None:
    conv, fc = compare(
        ir.from_proto(classifier()), ir.from_proto(with_noise(classifier(), "fc_bias"))
    )
    assert conv.fidelity.sqnr_db is None
    assert fc.fidelity.relative_l2 > 1e-3


def test_models_stay_as_they_are() -> None:
    models = [ir.from_proto(classifier()), ir.from_proto(classifier(1))]
    before = [ir.to_proto(model).SerializeToString(deterministic=True) for model in models]
    compare(*models)
    assert [ir.to_proto(m).SerializeToString(deterministic=True) for m in models] == before


@pytest.mark.parametrize("form", ["dense", "two-stage"])
def test_a_decomposed_layer_is_followed_into_its_lowered_form(form: Any) -> None:
    net = Net()
    basis, coefficients, bias = random_factors(net, 4, 3)
    weights = DecomposedWeights(basis=basis, coefficients=coefficients, bias=bias)
    x = net.input("N", 3, 8, 8, name="input")
    model = net.model(net.head(net.op("Relu", net.decomposed(x, weights, "layer")), 4))
    lowered = model.clone()
    LowerPass(LowerConfig(form=form))(lowered)
    results = compare(model, lowered)
    assert [(each.layer, each.op_type) for each in results] == [("layer", "Conv"), ("fc", "Gemm")]
    assert all(each.fidelity.relative_l2 < 1e-5 for each in results)


def test_layers_that_one_model_lacks_are_left_out() -> None:
    first = parse_ir(
        """g (float[N, 3, 8, 8] input) => (float[N, 4, 8, 8] y) {
            z = Conv (input, w)
            y = Conv (z, v)
        }""",
        {"w": np.ones((4, 3, 1, 1), "f"), "v": np.ones((4, 4, 1, 1), "f")},
    )
    second = parse_ir(
        "g (float[N, 3, 8, 8] input) => (float[N, 4, 8, 8] y) { y = Conv (input, u) }",
        {"u": np.full((4, 3, 1, 1), 4, "f")},
    )
    [only] = compare(first, second)
    assert only.layer == "y"
    assert only.fidelity.relative_l2 < 1e-6
    assert (
        compare(first, parse_ir("g (float[N, 3] input) => (float[N, 3] q) { q = Neg (input) }"))
        == ()
    )


def test_layers_of_another_shape_are_refused_by_name() -> None:
    def conv(size: int) -> ir.Model:
        return parse_ir(
            """g (float[N, 3, 8, 8] input) => (float[N, 2] y) {
                z = Conv (input, w)
                p = GlobalAveragePool (z)
                y = Flatten (p)
            }""",
            {"w": np.ones((2, 3, size, size), "f")},
        )

    with pytest.raises(UnreadableError, match=r"'z' has shape \(3, 2, 8, 8\)"):
        compare(conv(1), conv(3))
