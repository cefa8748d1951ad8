"""What decomposed models are compared with: onnxruntime's int8, and OpenVINO."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from toolchain.runner import Feeds

Array = NDArray[Any]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration samples one by one."""

    def __init__(self, name: str, samples: Iterable[Array]) -> None:
        """Takes the input's name and samples without a batch axis."""
        self._name, self._samples = name, iter(samples)

    def get_next(self) -> dict[str, Array] | None:
        """The next sample as feeds."""
        sample = next(self._samples, None)
        return None if sample is None else {self._name: np.asarray(sample)[None]}


def quantise(model: Path, samples: Iterable[Array], output: Path, *, name: str = "input") -> None:
    """Static int8 quantisation by onnxruntime at its best settings for speed on x86.

    QDQ, weights per channel, unsigned activations: with signed ones, the default, onnxruntime 1.32
    is slower in int8 than in fp32 on the processors we measured.
    """
    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(output),
        Reader(name, samples),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class OpenVino:
    """A model in OpenVINO, for one size of input; raises ImportError where it is not installed."""

    def __init__(self, path: Path, feeds: Feeds, *, threads: int) -> None:
        """Compiles the model in fp32 for the shapes of `feeds`."""
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def __call__(self, feeds: Feeds) -> None:
        """Runs it once."""
        self._request.infer(dict(feeds), share_inputs=True, share_outputs=True)
