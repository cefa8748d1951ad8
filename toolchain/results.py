"""What `optc transform` found out, in the form that the report and ``--json`` show.

Everything here is plain data; `to_json` gives the documented ``optc-result`` schema.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from passes.framework import Plan
from passes.storage import StoragePart

SCHEMA = "optc-result/1"


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """One model file.

    Attributes:
        path: as given by the user.
        sha256: of the file (and of its external data, if any, in path order).
        nbytes: file size, external data included.
        parameters: nonzero elements of all floating-point initializers.
        macs: multiply-accumulates of Conv, Gemm, MatMul and optc operators for one sample; None
            where shapes are unknown.
    """

    path: str
    sha256: str
    nbytes: int
    parameters: int
    macs: int | None


@dataclass(frozen=True, kw_only=True)
class OutputFidelity:
    """How close one output tensor of two models is.

    Attributes:
        name: of the tensor.
        max_abs: max |y − ŷ|.
        relative_l2: ‖y − ŷ‖ / ‖y‖.
        sqnr_db: 20·log10(‖y‖ / ‖y − ŷ‖); None when equal.
        cosine: ⟨y, ŷ⟩ / (‖y‖·‖ŷ‖).
        top1_agreement: share of samples with the same argmax over the last axis; None where that
            axis has one element.
        samples: number of samples compared.
    """

    name: str
    max_abs: float
    relative_l2: float
    sqnr_db: float | None
    cosine: float
    top1_agreement: float | None
    samples: int


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked of the output model before it was written.

    Attributes:
        passed: whether every check held.
        exact: all applied passes are exact, so `tolerance` bounds the relative error.
        tolerance: largest accepted relative L2 error.
        data: "calibration" or "random".
        outputs: fidelity of every graph output.
        failures: one line for every check that failed.
    """

    passed: bool
    exact: bool
    tolerance: float | None
    data: str
    outputs: tuple[OutputFidelity, ...]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where calibration data came from."""

    path: str
    sha256: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class TransformResult:
    """Everything `optc transform` knows at its end.

    Attributes:
        input: the model read.
        output: the model written; its path ends in ``.rejected.onnx`` if a check failed; None
            after ``--dry-run`` and where no layer was changed.
        recipe: passes with their options, seed, globs: enough to repeat the run.
        plans: one per pass, with measured errors once applied.
        verification: None where no model was written.
        storage: every byte of the output file, by part.
        int8_nbytes: size of the input file if each of its weights took one byte.
        missed_gates: one line for every gate that was missed.
        calibration: None when data-free.
        seconds: wall time of each stage, by name, in order.
        environment: versions of python, optc, onnx, onnxruntime, numpy; cpu; threads.
    """

    input: ModelSummary
    output: ModelSummary | None
    recipe: Mapping[str, Any]
    plans: tuple[Plan, ...]
    verification: Verification | None
    calibration: Calibration | None
    seconds: Mapping[str, float]
    environment: Mapping[str, str]
    missed_gates: tuple[str, ...] = ()
    storage: tuple[StoragePart, ...] = ()
    int8_nbytes: int | None = None
    dry_run: bool = False
    schema: str = field(default=SCHEMA)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)
