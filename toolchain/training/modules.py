"""Modules of a network, chosen and replaced by name."""

import fnmatch
from collections.abc import Sequence
from typing import Any

from torch import nn

from passes.framework import ConfigError


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts a module in the place of the one with this dotted name.

    Raises:
        ConfigError: it is the model itself.
    """
    parent, _, own = name.rpartition(".")
    if not own:
        raise ConfigError("the model is a single layer; wrap it in nn.Sequential")
    setattr(model.get_submodule(parent), own, new)


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a name is like one of the globs."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def wrap_strings(options: Any, *fields: str) -> None:
    """Makes a list of one of every field of a frozen dataclass that is a single string."""
    for field in fields:
        value = getattr(options, field)
        if isinstance(value, str):
            object.__setattr__(options, field, (value,))
