import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from passes import PASSES
from passes.framework import Context
from toolchain.cli import run
from toolchain.commands.passes import options
from toolchain.recipe import build_pass, parse_pass


@dataclass(frozen=True)
class Config:
    rank: int | None = field(default=None, metadata={"help": "basis kernels"})
    density: float = 0.5
    granularity: Literal["element", "pair"] = "element"
    refine: bool = True
    path: str = "x"


def test_the_list_goes_to_stderr_and_has_every_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["passes"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    rows = {line.split()[0]: line for line in captured.err.splitlines()[1:] if line}
    for name, pass_type in PASSES.items():
        assert rows[name].endswith(pass_type.summary)
        assert ("exact" in rows[name].split()[1]) == pass_type.exact


def test_json_describes_options_that_the_recipe_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["passes", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(captured.out)
    assert document["schema"] == "optc-passes/1"
    assert [each["name"] for each in document["passes"]] == list(PASSES)
    for each in document["passes"]:
        defaults = ",".join(f"{o['name']}={o['default']}" for o in each["options"])
        built = build_pass(parse_pass(f"{each['name']}:{defaults}"), Context())
        assert built.config == PASSES[each["name"]].config_type()
        assert all(option["help"] for option in each["options"])


@pytest.mark.parametrize("name", PASSES)
def test_one_pass_shows_all_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["passes", name]) == 0
    words = capsys.readouterr().err.split()
    assert {option["name"] for option in options(PASSES[name].config_type)} <= set(words)


def test_types_are_written_as_a_user_types_them() -> None:
    described = {each["name"]: each for each in options(Config)}
    assert {name: each["type"] for name, each in described.items()} == {
        "rank": "int|none",
        "density": "number",
        "granularity": "element|pair",
        "refine": "true|false",
        "path": "text",
    }
    assert described["rank"]["help"] == "basis kernels"


@pytest.mark.parametrize(("word", "hint"), [("shrnk", "did you mean 'shrink'?"), ("zz", "known: ")])
def test_an_unknown_pass_names_the_nearest(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["passes", word]) == 2
    assert hint in capsys.readouterr().err
