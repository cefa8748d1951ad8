"""`optc split`: the two models that `optc join` made one of."""

from pathlib import Path

import click

from toolchain.commands.options import MODEL, json_option
from toolchain.console import print_json, say
from toolchain.errors import UnreadableError
from toolchain.joined import split
from toolchain.model_io import ensure_targets, external_files, load_model, save_model

SCHEMA = "optc-split/1"


@click.command()
@click.argument("model", type=MODEL)
@click.argument("first", type=MODEL)
@click.argument("second", type=MODEL)
@json_option
def command(model: Path, first: Path, second: Path, as_json: bool) -> None:
    """Write the parts of MODEL, which 'optc join' made, to FIRST and SECOND."""
    joined = load_model(model)
    ensure_targets((first, second), [model, *external_files(model, joined)])
    try:
        parts = split(joined)
    except UnreadableError as error:
        raise UnreadableError(f"{model}: {error}") from error
    for part, path in zip(parts, (first, second), strict=True):
        save_model(part, path)
    if as_json:
        print_json({"schema": SCHEMA, "paths": [str(first), str(second)]})
    else:
        say(f"wrote {first} and {second}")
