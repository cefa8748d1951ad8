from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx_ir as ir
import pytest

import passes
from passes.framework import CompressionPass, ConfigError, Context, Plan
from toolchain.errors import UnreadableError, UsageError
from toolchain.recipe import (
    PassSpec,
    Recipe,
    build_pass,
    load_plans,
    load_recipe,
    parse_pass,
    parse_recipe,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    rank: int | None = None
    density: float = 1.0
    granularity: Literal["element", "pair"] = "element"
    refine: bool = field(default=True)

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ConfigError(f"density is {self.density}, expected above 0, at most 1")


class MadeUpPass(CompressionPass):
    name: ClassVar[str] = "squash"
    summary: ClassVar[str] = "for tests"
    config_type: ClassVar[type] = Config

    def analyse(self, model: ir.Model) -> Plan:
        raise NotImplementedError

    def apply(self, model: ir.Model, plan: Plan) -> Plan:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def made_up_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes.PASSES, MadeUpPass.name, MadeUpPass)


def config_of(text: str) -> Any:
    return build_pass(parse_pass(text), Context()).config


YAML = """
version: 1
seed: 7
passes:
  - squash: {rank: 5, density: 0.3, granularity: pair}
  - shrink
include: ["layer*"]
exclude: ["layer1.0.*", "fc"]
lower: standard
"""

TOML = """
version = 1
seed = 7
include = ["layer*"]
exclude = ["layer1.0.*", "fc"]
lower = "standard"
[[passes]]
squash = {rank = 5, density = 0.3, granularity = "pair"}
[[passes]]
shrink = {}
"""

EXPECTED = Recipe(
    passes=(
        PassSpec(name="squash", options={"rank": 5, "density": 0.3, "granularity": "pair"}),
        PassSpec(name="shrink", options={}),
    ),
    seed=7,
    include=("layer*",),
    exclude=("layer1.0.*", "fc"),
    lower="standard",
)


@pytest.mark.parametrize(("name", "text"), [("r.yaml", YAML), ("r.yml", YAML), ("r.toml", TOML)])
def test_yaml_and_toml_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert load_recipe(path) == EXPECTED


def test_what_is_written_reads_back() -> None:
    assert parse_recipe(EXPECTED.to_json(), "here") == EXPECTED


def test_everything_but_version_and_passes_has_a_default() -> None:
    recipe = parse_recipe({"version": 1, "passes": ["shrink"]}, "here")
    assert recipe == Recipe(passes=(PassSpec(name="shrink", options={}),))
    assert (recipe.seed, recipe.include, recipe.exclude, recipe.lower) == (0, ("*",), (), "optc")


def test_command_line_and_file_configure_a_pass_alike() -> None:
    [spec, _] = EXPECTED.passes
    expected = Config(rank=5, density=0.3, granularity="pair")
    assert build_pass(spec, Context()).config == expected
    assert config_of("squash:rank=5,density=0.3,granularity=pair") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("squash", Config()),
        ("squash:", Config()),
        ("squash: rank = 3 , density=1", Config(rank=3)),
        ("squash:rank=none", Config(rank=None)),
        ("squash:density=5e-1", Config(density=0.5)),
        ("squash:refine=no", Config(refine=False)),
        ("squash:refine=TRUE", Config(refine=True)),
    ],
)
def test_values_on_the_command_line(text: str, expected: Config) -> None:
    assert config_of(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sqash", "unknown pass 'sqash', did you mean 'squash'?"),
        ("zzz", "unknown pass 'zzz' (known: "),
        ("squash:rank", "--pass squash:rank: 'rank' is not key=value"),
        ("squash:rnk=3", "pass squash: unknown option 'rnk', did you mean 'rank'?"),
        ("squash:rank=three", "pass squash: rank is 'three', expected int"),
        ("squash:rank=3.7", "pass squash: rank is '3.7', expected int"),
        ("squash:rank=", "pass squash: rank is '', expected int"),
        ("squash:density=much", "pass squash: density is 'much', expected float"),
        ("squash:density=0", "pass squash: density is 0.0, expected above 0"),
        ("squash:density=nan", "pass squash: density is nan, expected above 0"),
        ("squash:granularity=pairs", "granularity is 'pairs', expected one of element, pair"),
        ("squash:refine=maybe", "refine is 'maybe', expected true or false"),
    ],
)
def test_mistakes_on_the_command_line_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(text)
    assert message in str(caught.value)


BAD = {
    "not a mapping": ("[1, 2]", "a recipe is a mapping"),
    "empty": ("", "a recipe is a mapping"),
    "unknown key": (f"{YAML}\nsede: 1", "unknown option 'sede', did you mean 'seed'?"),
    "no version": ("passes: [shrink]", "version is None, this optc reads 1"),
    "other version": ("version: 2\npasses: [shrink]", "version is 2, this optc reads 1"),
    "no passes": ("version: 1", "no passes"),
    "unknown pass": ("version: 1\npasses: [shrnk]", "unknown pass 'shrnk', did you mean 'shrink'?"),
    "pass that is a number": ("version: 1\npasses: [{5: {}}]", "unknown pass '5'"),
    "passes that are one name": ("version: 1\npasses: shrink", "passes is a list"),
    "passes that are a mapping": ("version: 1\npasses: {squash: {rank: 1}}", "passes is a list"),
    "passes that are a number": ("version: 1\npasses: 3", "passes is a list"),
    "two passes in one entry": (
        "version: 1\npasses: [{shrink: {}, squash: {}}]",
        "each entry of passes is 'name' or 'name: {key: value}'",
    ),
    "options that are a list": ("version: 1\npasses: [{squash: [rank]}]", "are not a mapping"),
    "seed that is text": ("version: 1\npasses: [shrink]\nseed: x", "seed is 'x', expected an int"),
    "seed that is true": ("version: 1\npasses: [shrink]\nseed: yes", "seed is True, expected"),
    "negative seed": ("version: 1\npasses: [shrink]\nseed: -1", "seed is -1, expected"),
    "globs that are text": ("version: 1\npasses: [shrink]\ninclude: a", "are lists of node-name"),
    "globs of numbers": ("version: 1\npasses: [shrink]\nexclude: [1]", "are lists of node-name"),
    "lowering": ("version: 1\npasses: [shrink]\nlower: onnx", "lower is 'onnx', expected one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_in_a_file_are_named_with_the_file(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3.7", "rank is '3.7', expected int"),
        (".inf", "rank is 'inf', expected int"),
        ("true", "rank is 'True', expected int"),
        ("[3]", "rank is '[3]', expected int"),
    ],
)
def test_a_value_of_another_type_is_refused_not_rounded(
    tmp_path: Path, value: str, message: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"version: 1\npasses: [squash: {{rank: {value}}}]")
    [spec] = load_recipe(path).passes
    with pytest.raises(UsageError, match="pass squash") as caught:
        build_pass(spec, Context())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.yaml", b"version: 1\npasses: [shrink"),
        ("r.yaml", b"version: 1\nseed: 2020-99-99\npasses: [shrink]"),
        ("r.yaml", b"version: \xff\xfe"),
        ("r.yaml", b"!!python/object:os.system {}"),
        ("r.yaml", b"[" * 3000),
        ("r.toml", b"version = "),
    ],
)
def test_files_that_cannot_be_read_are_named_in_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"^recipe ") as caught:
        load_recipe(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "recursion"),
        ('{"plans": []}', "no plans in it"),
        ('{"plans": [5]}', "not a plan"),
        ('{"plans": [{"pass_name": ["squash"], "config": {}, "layers": []}]}', "pass_name is"),
    ],
)
def test_files_without_plans_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(UnreadableError, match=rf"p\.json: .*{message}"):
        load_plans(path)


def test_a_plan_of_an_unknown_pass_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"plans": [{"pass_name": "squish", "config": {}, "layers": []}]}')
    with pytest.raises(UsageError, match="unknown pass 'squish', did you mean 'squash'"):
        load_plans(path)


def test_missing_file() -> None:
    with pytest.raises(UnreadableError, match=r"recipe none\.yaml: .*No such file"):
        load_recipe(Path("none.yaml"))
