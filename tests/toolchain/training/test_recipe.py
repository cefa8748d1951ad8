import json
from dataclasses import replace

import pytest
import torch

from tests.toolchain.training import tiny
from toolchain.errors import UnreadableError, UsageError
from toolchain.training.hooks import Penalty
from toolchain.training.penni_stages import DecomposeStage
from toolchain.training.pruning import PruneConfig
from toolchain.training.recipe import FunctionCall, load_training_recipe, parse_training_recipe
from toolchain.training.regularizers import Blocks
from toolchain.training.stages import ExportStage, Outcome, PruneStage, TrainStage
from toolchain.training.sweep import CurvePoint, curve_point, draw_curves, run_recipe

TEXT = """
version: 1
seed: 3
model: {function: "tests.toolchain.training.tiny:network", seed: 5}
teacher: tests.toolchain.training.tiny:network
data: tests.toolchain.training.tiny:dataset
strengths: [0.5, 4]
stages:
  - decompose: {rank: 4, exclude: "0"}
  - train:
      epochs: 2
      lr: 1e-2
      alternate: 1
      distill: 0.5
      batch: 64
      penalties:
        - regularizer: hoyer-square
          strength: 1e-3
          groups: [pair, {rows: 1, columns: 2}, [0, 2]]
          parameters: ["*.coefficients"]
  - prune: {rule: deviation, value: 0.5, groups: pair, parameters: "*.coefficients"}
  - export
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT)
    return file


def test_a_recipe_becomes_typed_stages(path) -> None:
    recipe = load_training_recipe(path)
    decompose, train, prune, export = recipe.stages
    assert isinstance(decompose, DecomposeStage) and decompose.config.exclude == ("0",)
    assert isinstance(train, TrainStage) and isinstance(export, ExportStage)
    assert recipe.teacher == FunctionCall(
        function="tests.toolchain.training.tiny:network", arguments={}
    )
    assert (train.config.lr, train.config.seed, train.batch) == (0.01, 3, 64)
    groups = ("pair", Blocks(rows=1, columns=2), (0, 2))
    assert train.penalties == (
        Penalty(
            regularizer="hoyer-square",
            strength=1e-3,
            groups=groups,
            parameters=("*.coefficients",),
        ),
    )
    assert prune == PruneStage(
        config=PruneConfig(
            rule="deviation", value=0.5, groups=("pair",), parameters=("*.coefficients",)
        )
    )


def test_a_seed_from_outside_replaces_that_of_the_recipe(path) -> None:
    recipe = load_training_recipe(path, seed=7)
    assert recipe.seed == recipe.stages[1].config.seed == 7


def test_a_sweep_makes_a_run_for_each_strength_and_a_curve(path, tmp_path) -> None:
    out = tmp_path / "out"
    weak, strong = (o for _, o in run_recipe(load_training_recipe(path), out, torch.device("cpu")))
    assert strong.nonzero < weak.nonzero
    assert [stage["stage"] for stage in weak.stages] == ["decompose", "train", "prune", "export"]
    assert (out / "strength-4" / "model.onnx").exists()
    assert "×0.5" in (out / "curve.svg").read_text()
    stored = json.loads((out / "strength-0.5" / "result.json").read_text())
    assert stored["stages"][2]["nonzero"] == weak.nonzero


def test_a_curve_needs_its_metric(path, tmp_path, monkeypatch) -> None:
    calls = []

    def without_metric(model, batches) -> dict[str, float]:
        calls.append(model)
        return {"accuracy": 1.0}

    data = replace(tiny.dataset(), measure=without_metric)
    monkeypatch.setattr(tiny, "dataset", lambda: data)
    with pytest.raises(UsageError, match=r"metric is 'top1', measured are accuracy"):
        run_recipe(load_training_recipe(path), tmp_path / "out", torch.device("cpu"))
    assert len(calls) == 1
    with pytest.raises(UsageError, match="no stage measures 'top1'"):
        curve_point("×1", Outcome(stages=({"stage": "export"},), sparsity=()))


def test_a_folder_is_kept_for_its_recipe(path, tmp_path) -> None:
    device = torch.device("cpu")
    run_recipe(load_training_recipe(path), tmp_path / "out", device)
    with pytest.raises(UsageError, match="another recipe"):
        run_recipe(load_training_recipe(path, seed=9), tmp_path / "out", device)


def test_curves_are_drawn_in_the_order_of_compression() -> None:
    points = [CurvePoint(label=str(c), compression=c, quality=98) for c in (50.0, 10.0, 20.0)]
    svg = draw_curves({"l1": points, "hoyer-square": points[:1]})
    assert svg.index(">10.0<") < svg.index(">20.0<") < svg.index(">50.0<")
    assert "hoyer-square" in svg


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("version: 1", "version: 2", "version is 2"),
        ("seed: 3", "sed: 3", "unknown option 'sed', did you mean 'seed'"),
        ("- prune:", "- prun:", "unknown stage 'prun', did you mean 'prune'"),
        ("epochs: 2", "epoch: 2", "stage train: unknown option 'epoch', did you mean 'epochs'"),
        ("      epochs: 2\n", "", "stage train: 'epochs' is missing"),
        ("lr: 1e-2", "lr: fast", "lr is 'fast', expected float"),
        ("distill: 0.5", "distill: 5", "distill is 5"),
        ("regularizer: hoyer-square", "regularizer: hoyer2", "known are l1"),
        ("strength: 1e-3", "strenght: 1", "did you mean 'strength'"),
        ("groups: [pair,", "groups: [pairs,", "unknown groups 'pairs', did you mean 'pair'"),
        ("{rows: 1,", "{rows: 0,", "expected 1×1 or more"),
        ("rule: deviation", "rule: std", "rule is 'std', expected one of"),
        ("data: tests", "date: tests", "did you mean 'data'"),
        ("seed: 3", "seed: -3", "seed is -3"),
        ("strengths: [0.5, 4]", "strengths: []", "strengths is empty"),
        ("teacher: tests", "teacher: [3] #", "teacher is 'module:function'"),
    ],
)
def test_mistakes_are_one_line_that_names_them(old, new, what, path) -> None:
    assert old in TEXT
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(UsageError, match=what.replace("'", ".")):
        load_training_recipe(path)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ([], "a recipe is a mapping"),
        ({"version": 1}, "'model' is missing"),
        ({"version": 1, "model": 3, "data": "a:b", "stages": ["export"]}, "'module:function'"),
        ({"version": 1, "model": "a:b", "data": "a:b", "stages": "export"}, "stages is a list"),
        ({"version": 1, "model": "a:b", "data": "a:b", "stages": [{"a": 1, "b": 2}]}, "each entry"),
        ({"version": 1, "model": "a:b", "data": "a:b", "stages": [{"export": 3}]}, "no. a mapping"),
    ],
)
def test_documents_of_another_form_are_refused(document, what) -> None:
    with pytest.raises(UsageError, match=what.replace("no. a", "not a")):
        parse_training_recipe(document, "file")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("tiny:network", "tiny:net", "has no function 'net'"),
        ("seed: 5}", "sead: 5}", "failed with TypeError"),
        ("tiny:dataset", "tiny:data", "returns no Dataset"),
        ('tiny:network", seed: 5', 'tiny:data", seed: 5', "returns no nn.Module"),
        ("tiny:network\ndata", "tiny:data\ndata", "returns no nn.Module"),
    ],
)
def test_functions_of_the_user_that_fail_are_named(old, new, what, path, tmp_path) -> None:
    assert old in TEXT
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(UnreadableError, match=what):
        run_recipe(load_training_recipe(path), tmp_path / "out", torch.device("cpu"))


def test_what_functions_of_the_user_print_goes_to_stderr(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "chatty.py").write_text("def dataset():\n    print('reading')\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    assert FunctionCall(function="chatty:dataset", arguments={})() == 3
    assert capsys.readouterr() == ("", "reading\n")
