"""`optc passes`: what can be given to ``--pass``, with all options."""

import dataclasses
import types
import typing
from typing import Any, Literal

import click

from passes import PASSES
from passes.framework import CompressionPass
from toolchain.commands.options import json_option
from toolchain.console import print_json, print_table, say
from toolchain.errors import UsageError
from toolchain.recipe import did_you_mean

SCHEMA = "optc-passes/1"


@click.command()
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the passes, or describe the options of one."""
    if name is not None and name not in PASSES:
        raise UsageError(f"unknown pass '{name}'{did_you_mean(name, PASSES)}")
    chosen = PASSES if name is None else {name: PASSES[name]}
    if as_json:
        print_json({"schema": SCHEMA, "passes": [describe(each) for each in chosen.values()]})
    elif name is None:
        rows = [[key, _exactness(each), each.summary] for key, each in PASSES.items()]
        print_table(("pass", "output", "what it does"), rows, text=(0, 1, 2))
        say()
        say("'optc passes NAME' lists the options of one.")
    else:
        _print_options(PASSES[name])


def describe(pass_type: type[CompressionPass]) -> dict[str, Any]:
    """A pass and its options, JSON-ready."""
    return {
        "name": pass_type.name,
        "summary": pass_type.summary,
        "exact": pass_type.exact,
        "options": options(pass_type.config_type),
    }


def options(config_type: type[Any]) -> list[dict[str, Any]]:
    """Name, type, default and help of every field of a configuration."""
    hints = typing.get_type_hints(config_type)
    return [
        {
            "name": field.name,
            "type": type_name(hints[field.name]),
            "default": None if field.default is dataclasses.MISSING else field.default,
            "help": field.metadata.get("help", ""),
        }
        for field in dataclasses.fields(config_type)
    ]


def type_name(hint: Any) -> str:
    """A type as a user would write its values: ``element|pair``, ``int``, ``number``."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return "|".join(type_name(each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return "|".join(str(value) for value in typing.get_args(hint))
    names = {float: "number", bool: "true|false", str: "text", type(None): "none"}
    return names.get(hint) or str(getattr(hint, "__name__", hint))


def _print_options(pass_type: type[CompressionPass]) -> None:
    say(f"{pass_type.name}: {pass_type.summary}", bold=True)
    say(f"The output is {_exactness(pass_type)}.")
    say()
    rows = [
        [option["name"], option["type"], str(option["default"]).lower(), option["help"]]
        for option in options(pass_type.config_type)
    ]
    if not rows:
        say("It has no options.")
        return
    print_table(("option", "value", "default", "meaning"), rows, text=(0, 1, 2, 3))
    first = rows[0]
    say()
    say(f"Example: optc transform model.onnx --pass {pass_type.name}:{first[0]}=…")


def _exactness(pass_type: type[CompressionPass]) -> str:
    return "exact" if pass_type.exact else "approximate"
