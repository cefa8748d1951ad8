"""`optc export`: a torch module as ONNX, checked against torch."""

from pathlib import Path
from types import ModuleType

import click

from toolchain.commands.options import MODEL, json_option
from toolchain.console import print_json, say
from toolchain.data_sources import find_function
from toolchain.errors import MissingComponentError, VerificationError
from toolchain.model_io import (
    ensure_targets,
    load_model,
    model_summary,
    publish,
    save_model,
    staged_model,
)
from toolchain.pipeline import rejected_path

SCHEMA = "optc-export/1"


@click.command()
@click.argument("source", metavar="MODULE:FACTORY")
@click.option("--state", type=MODEL, metavar="FILE", help="State dictionary, by torch.save.")
@click.option(
    "--input",
    "shapes",
    multiple=True,
    required=True,
    metavar="[NAME=]SIZE,...[:DTYPE]",
    help="Sizes of one sample, without the batch: image=3,224,224, or ids=LENGTH:int64; repeats.",
)
@click.option("--output-name", "names", multiple=True, help="Of an output; repeats, in order.")
@click.option("-o", "--output", type=MODEL, required=True, help="The model file to write.")
@json_option
def command(
    source: str,
    state: Path | None,
    shapes: tuple[str, ...],
    names: tuple[str, ...],
    output: Path,
    as_json: bool,
) -> None:
    """Export a torch module, or what a function without arguments returns.

    Batches of any size can be fed to the result, and a size that has a name is free as well. It is
    run in onnxruntime and compared with torch before it gets its name.
    """
    torch_export = _exporter()
    ensure_targets((output, rejected_path(output)), [] if state is None else [state])
    inputs = [torch_export.parse_input(text, index) for index, text in enumerate(shapes)]
    module = torch_export.build_module(source, find_function(source), state)
    model = torch_export.export(module, inputs, names)
    with staged_model(model, output) as staged:
        deviation = torch_export.deviation(module, staged, inputs)
        accepted = deviation <= torch_export.TOLERANCE
        target = output if accepted else rejected_path(output)
        summary = model_summary(staged, load_model(staged))
        if accepted:
            publish(staged, target)
        else:
            save_model(model, target)
    if not accepted:
        raise VerificationError(
            f"{output}: onnxruntime and torch differ by {deviation:.2g} (relative); the model is "
            f"kept as {target}"
        )
    if as_json:
        size = {"nbytes": summary.nbytes, "sha256": summary.sha256}
        print_json({"schema": SCHEMA, "path": str(target), "deviation": deviation, **size})
    else:
        say(f"{target}: same as torch to {deviation:.1e} (relative), at any batch size")


def _exporter() -> ModuleType:
    """The part that needs torch.

    Raises:
        MissingComponentError: torch is not installed.
    """
    try:
        from toolchain import torch_export
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"export needs {error.name}; install it with: pip install 'optc[torch]'"
        ) from error
    return torch_export
