"""What a pass cannot compute is one line that names it."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from passes.framework import CompressionPass, Plan
from passes.shrink import ShrinkConfig
from toolchain.errors import UnreadableError
from toolchain.pass_runs import _analyse, _apply

PLAN = Plan(pass_name="squash", config={}, layers=())


class SingularPass(CompressionPass):
    name: ClassVar[str] = "squash"
    config_type: ClassVar[type] = ShrinkConfig

    def analyse(self, model: ir.Model) -> Plan:
        raise np.linalg.LinAlgError("SVD did not converge")

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        raise np.linalg.LinAlgError("SVD did not converge")


@pytest.mark.parametrize("applied", [False, True])
def test_numbers_that_are_too_large_are_told(applied: bool) -> None:
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    with pytest.raises(UnreadableError, match=r"m\.onnx: pass squash: .* are too large"):
        if applied:
            _apply(SingularPass(), model, PLAN, Path("m.onnx"))
        else:
            _analyse(SingularPass(), model, Path("m.onnx"))
