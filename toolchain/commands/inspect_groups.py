"""`optc inspect --groups`: which lines of weights can only be removed together."""

from typing import Any

from passes.channels.groups import Group, channel_groups, prunable
from passes.cleanup import OpsetError, prepare
from toolchain.commands.options import OpenedModel
from toolchain.console import print_json, print_table, say
from toolchain.errors import UnreadableError

SCHEMA = "optc-groups/1"
SHOWN = 4
"""Members of a group that the table names; JSON has them all."""


def show_groups(opened: OpenedModel, as_json: bool) -> None:
    """Prints the groups of a model as it is after the preparation that every pass has.

    Raises:
        UnreadableError: the model cannot be prepared.
    """
    try:
        model = prepare(opened.model.clone())
    except OpsetError as error:
        raise UnreadableError(f"{opened.path}: {error}") from error
    groups = channel_groups(prunable(model))
    if as_json:
        document = {"schema": SCHEMA, "model": opened.to_json()}
        print_json({**document, "groups": [_to_json(group) for group in groups]})
        return
    rows = [
        [group.name, group.kind, str(len(group.units)), group.frozen or "free", _members(group)]
        for group in groups
    ]
    print_table(("group", "of", "size", "state", "lines of a unit"), rows, text=(0, 1, 3, 4))
    free = sum(group.frozen is None for group in groups)
    say()
    say(f"{free} of {len(groups)} groups can be pruned; a line is one index along an axis.")


def _to_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "kind": group.kind,
        "size": len(group.units),
        "members": [
            {"initializer": name, "axis": axis, "lines": lines}
            for name, axis, lines in group.members
        ],
        "frozen": group.frozen,
    }


def _members(group: Group) -> str:
    """Such as ``up.weight[:,1] down.weight[1]``: how many lines on which axis."""
    shown = [f"{name}[{':,' * axis}{lines}]" for name, axis, lines in group.members[:SHOWN]]
    more = len(group.members) - SHOWN
    return " ".join([*shown, f"and {more} more"] if more > 0 else shown)
