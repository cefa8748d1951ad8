"""The files of one training run of translation: as trained, and in 8 bits.

A run whose lines were pruned has zeros in their place; the two files are joined, compacted by
`optc transform --pass tprune:threshold=0`, and split again.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnxruntime.quantization import QuantType, quantize_dynamic

from samples.networks.transformer import Transformer
from samples.networks.translation_files import export_translation
from samples.networks.vocabulary import Vocabulary, with_vocabulary
from samples.translation import DECODER, ENCODER
from toolchain.training.checkpoint import load_state

FILES = (ENCODER, DECODER)
TABLES = ("embedding", "positions")


@dataclass(frozen=True, kw_only=True)
class Form:
    """One pair of files.

    Attributes:
        method: how the run was trained, e.g. "shs".
        bits: 32 or 8.
        folder: that has both files.
    """

    method: str
    bits: int
    folder: Path

    @property
    def nbytes(self) -> int:
        """Of both files."""
        return sum((self.folder / name).stat().st_size for name in FILES)

    @property
    def parameters(self) -> int:
        """Weights of both files, without the tables of tokens and positions."""
        return sum(_count(ir.load(self.folder / name)) for name in FILES)


def make_forms(method: str, run: Path, work: Path, vocabulary: Vocabulary) -> Iterator[Form]:
    """Exports, compacts and quantises what a folder of `optc train` holds.

    Args:
        method: how the run was trained.
        run: its folder.
        work: gets a folder for each form.
        vocabulary: of the files.
    """
    model = with_vocabulary(load_run(run), vocabulary)
    dense = Form(method=method, bits=32, folder=work / method)
    small = Form(method=method, bits=8, folder=work / f"{method}.int8")
    for form in (dense, small):
        form.folder.mkdir(parents=True, exist_ok=True)
    export_translation(model, dense.folder)
    if "prune-lines" in (run / "recipe.json").read_text():
        compact(dense.folder)
    for name in FILES:
        plain = onnx.load(dense.folder / name)
        quantize_dynamic(plain, small.folder / name, weight_type=QuantType.QInt8)
    yield from (dense, small)


def load_run(run: Path) -> Transformer:
    """The model at the end of the last stage that trained."""
    recipe = json.loads((run / "recipe.json").read_text())
    sizes = {key: v for key, v in recipe["model"]["arguments"].items() if key != "weights"}
    last = max(run.glob("*-train"), key=lambda path: int(path.name.partition("-")[0]))
    model = Transformer(**sizes)
    model.load_state_dict(load_state(last / "checkpoint.pt")["model"])
    return model.eval()


def compact(folder: Path) -> None:
    """Takes lines of zeros out of both files."""
    paths = [folder / name for name in FILES]
    with tempfile.TemporaryDirectory() as place:
        joined, pruned = Path(place, "joined.onnx"), Path(place, "pruned.onnx")
        _optc("join", *paths, "--carry", "present=past", "-o", joined)
        _optc("transform", joined, "--pass", "tprune:threshold=0,multiple=1", "-o", pruned)
        _optc("split", pruned, *paths)


def _optc(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "toolchain.cli", *map(str, arguments), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _count(model: ir.Model) -> int:
    """Elements of floating-point or 8-bit initializers, tables of tokens and positions left out."""
    kinds = (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8)
    return sum(
        value.const_value.size
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.dtype in kinds
        if not any(table in name for table in TABLES)
    )
