"""Made-up results of transforms for the tests of the report."""

from dataclasses import replace

from passes.framework import Cost, LayerDecision, Plan, keep
from toolchain.results import (
    Calibration,
    ModelSummary,
    OutputFidelity,
    TransformResult,
    Verification,
)


def decision(index: int, layers: int) -> LayerDecision:
    """An applied layer; widths grow with depth as in a residual network."""
    width = 16 * 2 ** (3 * index // layers)
    before = Cost(parameters=9 * width**2, macs=9 * width**2 * 1024, nbytes=36 * width**2)
    after = Cost(parameters=2 * width**2, macs=3 * width**2 * 1024, nbytes=9 * width**2)
    return LayerDecision(
        layer=f"/layer{3 * index // layers + 1}/layer.{index}/conv1/Conv",
        op_type="Conv",
        action="apply",
        reason="rank 5 of 9 keeps 99.1 % of the energy; budget params=0.3",
        before=before,
        after=after,
        settings={"rank": 5, "density": 0.31 + index / 1000, "granularity": "element"},
        predicted_error=0.012 * (1 + index % 7),
        measured_error=0.010 * (1 + index % 9),
    )


def plan(layers: int, kept: int = 0) -> Plan:
    """A plan whose first `kept` layers are left alone."""
    decisions = [decision(index, layers) for index in range(layers)]
    for index in range(kept):
        decisions[index] = keep(decisions[index], "a measurement says that it would be slower")
    return Plan(
        pass_name="penni",
        config={"params": 0.3, "rank": None, "granularity": "element"},
        layers=tuple(decisions),
        notes=("errors are measured on 512 calibration samples",),
    )


def result(layers: int = 20, kept: int = 2) -> TransformResult:
    """A transform that passed its checks."""
    fidelity = OutputFidelity(
        name="logits",
        max_abs=0.8123,
        relative_l2=0.0412,
        sqnr_db=27.7,
        cosine=0.99915,
        top1_agreement=0.978515625,
        samples=512,
    )
    return TransformResult(
        input=ModelSummary(
            path="models/resnet20.onnx",
            sha256="1f" * 32,
            nbytes=1_096_160,
            parameters=269_722,
            macs=40_551_040,
        ),
        output=ModelSummary(
            path="out/resnet20_penni.onnx",
            sha256="2e" * 32,
            nbytes=352_004,
            parameters=81_204,
            macs=14_210_048,
        ),
        recipe={
            "version": 1,
            "seed": 0,
            "passes": [{"penni": {"params": 0.3}}],
            "include": ["*"],
            "exclude": [],
            "lower": "optc",
        },
        plans=(plan(layers, kept),),
        verification=Verification(
            passed=True, exact=False, tolerance=None, data="calibration", outputs=(fidelity,)
        ),
        calibration=Calibration(path="out/calib.npz", sha256="3d" * 32, samples=512),
        seconds={"load": 0.08, "analyse": 6.31, "apply": 3.2, "verify": 0.9, "write": 0.02},
        environment={"python": "3.11.2", "onnxruntime": "1.32.0", "cpu": "x86-64", "threads": "2"},
    )


def rejected() -> TransformResult:
    """A transform whose output failed a check."""
    passed = result()
    assert passed.verification is not None and passed.output is not None
    return replace(
        passed,
        output=replace(passed.output, path="out/resnet20_penni.rejected.onnx"),
        verification=replace(
            passed.verification, passed=False, failures=("logits: output holds NaN",)
        ),
    )


def dry_run() -> TransformResult:
    """A data-free plan; some costs are not known."""
    passed = result()
    layers = tuple(replace(layer, measured_error=None) for layer in passed.plans[0].layers)
    unknown = replace(layers[3], before=replace(layers[3].before, macs=None))
    planned = replace(passed.plans[0], layers=(*layers[:3], unknown, *layers[4:]))
    return replace(
        passed,
        output=None,
        verification=None,
        calibration=None,
        plans=(planned,),
        seconds={},
        dry_run=True,
    )
