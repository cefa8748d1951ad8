"""A `Translator` that runs an encoder and a decoder file in onnxruntime."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samples.translation import DECODER, ENCODER, Array, Ids
from toolchain.runner import Runner


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxState:
    """Inputs of the decoder besides the token, by name."""

    source: dict[str, Array]
    past: dict[str, Array]


class OnnxTranslator:
    """Runs the files of `samples.networks.translation_files`, in whatever widths they have.

    Args:
        folder: that has ``encoder.onnx`` and ``decoder.onnx``.
        threads: of onnxruntime.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._encoder = Runner(folder / ENCODER, threads=threads)
        self._decoder = Runner(folder / DECODER, threads=threads)
        shapes = {each.name: each.shape for each in self._decoder.session.get_inputs()}
        self._pasts = {
            name: (shape[1], shape[3]) for name, shape in shapes.items() if name.startswith("past.")
        }

    def start(self, source: Ids) -> OnnxState:
        """Encodes sentences (N, S)."""
        past = {
            name: np.zeros((len(source), heads, 0, width), np.float32)
            for name, (heads, width) in self._pasts.items()
        }
        return OnnxState(source=self._encoder({"source": source}), past=past)

    def step(self, tokens: Ids, state: OnnxState) -> tuple[Array, OnnxState]:
        """Scores of what follows the latest tokens (N,)."""
        outputs = self._decoder({"token": tokens[:, None], **state.source, **state.past})
        past = {name: outputs[name.replace("past", "present")] for name in state.past}
        return outputs["scores"], OnnxState(source=state.source, past=past)

    def select(self, state: OnnxState, rows: Ids) -> OnnxState:
        """The state of some sentences."""
        if np.array_equal(rows, np.arange(len(state.source["mask"]))):
            return state
        source, past = (
            {name: array[rows] for name, array in each.items()}
            for each in (state.source, state.past)
        )
        return OnnxState(source=source, past=past)
