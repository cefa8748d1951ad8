import copy
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtimes.accelerator.architecture import ArchitectureError
from runtimes.accelerator.architecture_file import (
    NO_SOURCE,
    load_file,
    load_shipped,
    override,
    parse_architecture,
    shipped_names,
    to_json,
)


def content(name: str = "escalate") -> Any:
    folder = resources.files("runtimes.accelerator.architectures")
    return yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_ones_have_equal_multipliers_and_name_every_source(name: str) -> None:
    architecture = load_shipped(name)
    assert architecture.name == name
    assert architecture.array.multipliers == 1024
    shown = to_json(architecture)
    assert all(entry["source"] != NO_SOURCE for entry in shown["parameters"].values())
    assert shown["assumptions"]


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_ones_differ_in_the_array_only(name: str) -> None:
    architecture, other = load_shipped(name), load_shipped("escalate")
    for part in ("buffers", "dram", "words", "host", "clock_hz", "energy_table"):
        assert getattr(architecture, part) == getattr(other, part)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("array", "block"), 3, "unknown key 'block', did you mean 'blocks'?"),
        (("buffer",), {}, "unknown key 'buffer', did you mean 'buffers'?"),
        (("kind",), "escalat", "unknown kind 'escalat', did you mean 'escalate'?"),
        (("kind",), ["escalate"], "unknown kind '['escalate']'"),
        (("array", "fifo_depth"), 10**25, "array.fifo_depth is 1e+25, expected at most"),
        (("host", "operations_per_cycle"), 10**400, "expected float"),
        (("dram", "bytes_per_second"), 0, "dram.bytes_per_second is 0, expected a positive"),
        (("array", "blocks"), -1, "array.blocks is -1, expected a positive number"),
        (("array", "blocks"), 2.5, "array.blocks is 2.5, expected int"),
        (("array", "blocks"), {"value": 4}, "expected a value and its source"),
        (("array", "balance"), "none", "expected one of greedy, round-robin"),
        (("buffers", "input_bytes"), 64, "half of it, 32 bytes, does not hold one tile of 128"),
        (("clock_hz",), float("inf"), "clock_hz is inf, expected int"),
        (("clock_hz",), float("nan"), "clock_hz is nan, expected int"),
        (("clock_hz",), "fast", "clock_hz is 'fast', expected int"),
        (("version",), 2, "version is 2, this optc reads 1"),
        (("assumptions",), ["x"], "expected a mapping with the keys what, source"),
    ],
)
def test_wrong_files_are_refused_in_one_line(
    path: tuple[str, ...], value: Any, message: str
) -> None:
    data = copy.deepcopy(content())
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ArchitectureError, match=re.escape(message)) as caught:
        parse_architecture(data, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["array", "dram", "kind", "clock_hz"])
def test_missing_keys_are_named(key: str) -> None:
    data = content()
    del data[key]
    with pytest.raises(ArchitectureError, match=f"'{key}' is missing"):
        parse_architecture(data, "my.yaml")


def test_a_file_of_ones_own_may_leave_sources_out(tmp_path: Path) -> None:
    data = content("dense-ws")
    data["array"] = {"height": 8, "width": 4, "dataflow": "os"}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(data))
    architecture = load_file(path)
    assert architecture.array.multipliers == 32
    assert to_json(architecture)["parameters"]["array.height"]["source"] == NO_SOURCE


@pytest.mark.parametrize("text", ["{", "[" * 2000])
def test_files_that_are_no_yaml_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ArchitectureError, match="not YAML"):
        load_file(path)


def test_override_changes_one_parameter() -> None:
    old = load_shipped("escalate")
    new = override(old, {"array.blocks": 128, "dram.bytes_per_second": 1e9})
    assert (new.array.multipliers, new.bytes_per_cycle) == (512, 1.0)
    assert old.array.multipliers == 1024
    with pytest.raises(ArchitectureError, match="did you mean 'blocks'"):
        override(old, {"array.blokcs": 1})
