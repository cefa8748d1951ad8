"""`optc join`: two models that share an interface as one, for passes that change both."""

from pathlib import Path

import click

from toolchain.commands.options import MODEL, json_option
from toolchain.console import print_json, say
from toolchain.errors import UsageError
from toolchain.joined import carried_names, join
from toolchain.model_io import ensure_targets, external_files, load_model, save_model

SCHEMA = "optc-join/1"


@click.command()
@click.argument("first", type=MODEL)
@click.argument("second", type=MODEL)
@click.option(
    "--carry",
    metavar="OUTPUT=INPUT",
    help="Words in names: present=past feeds present.0.key to past.0.key in the next run.",
)
@click.option("-o", "--output", type=MODEL, required=True, help="The model file to write.")
@json_option
def command(first: Path, second: Path, carry: str | None, output: Path, as_json: bool) -> None:
    """Join FIRST and SECOND, such as an encoder and a decoder with a cache.

    Outputs of FIRST are fed to the inputs of SECOND that have their names. What SECOND carries from
    one run to the next is written out: it runs twice. 'optc split' takes both out again.
    """
    models = load_model(first), load_model(second)
    read = [*external_files(first, models[0]), *external_files(second, models[1])]
    ensure_targets([output], [first, second, *read])
    carried = {}
    if carry is not None:
        word, equals, other = carry.partition("=")
        if not (word and equals and other):
            raise UsageError(f"--carry {carry}: expected OUTPUT=INPUT, such as present=past")
        carried = carried_names(models[1], word, other)
    save_model(join(*models, carried), output)
    if as_json:
        print_json({"schema": SCHEMA, "path": str(output), "carried": carried})
    else:
        say(f"{output}: {first} and {second}, {len(carried)} values carried")
