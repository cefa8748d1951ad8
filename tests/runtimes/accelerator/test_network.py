"""Running a model node by node."""

import numpy as np

from runtimes.accelerator.network import run_network
from tests.helpers import parse_ir


def test_outputs_may_be_stored_values() -> None:
    w = np.ones((4, 3), np.float32)
    text = "g (float[N, 4] x) => (float[N, 3] y, float[4, 3] w) { [mm] y = MatMul (x, w) }"
    outputs = run_network(parse_ir(text, {"w": w}), {"x": np.ones((1, 4), np.float32)}).outputs
    np.testing.assert_array_equal(outputs["y"], np.full((1, 3), 4))
    np.testing.assert_array_equal(outputs["w"], w)
