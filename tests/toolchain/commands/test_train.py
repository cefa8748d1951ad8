import json

import pytest

from toolchain.cli import run

pytest.importorskip("torch")

RECIPE = """
version: 1
model: tests.toolchain.training.tiny:network
data: tests.toolchain.training.tiny:dataset
stages:
  - train: {epochs: 2, lr: 0.05, batch: 64}
  - prune: {rule: sparsity, value: 0.5}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_run_and_reported(recipe, capsys) -> None:
    assert run(["train", str(recipe), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "optc-train/1"
    [train, prune] = document["runs"][0]["stages"]
    assert train["epoch"] == 2 and prune["compression"] == pytest.approx(2, rel=0.01)
    assert (recipe.parent / "tiny" / "1-train" / "log.csv").exists()
    assert run(["train", str(recipe)]) == 0  # all done
    assert "top-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "what"),
    [
        ("version: 1\nstage: []", 2, "did you mean 'stages'"),
        ("version: [", 3, "recipe"),
        (RECIPE.replace("tiny:network", "tiny:nothing"), 3, "has no function"),
        (RECIPE + "  - train: {epochs: 1, distill: 0.5}", 2, "stage 3, train: distill: there is"),
        (RECIPE + "  - penni: {params: 0.01}", 2, "stage 3, penni: nothing to decompose"),
    ],
)
def test_mistakes_have_the_documented_exit_codes(recipe, capsys, text, code, what) -> None:
    recipe.write_text(text)
    assert run(["train", str(recipe)]) == code
    assert what in capsys.readouterr().err


def test_the_folder_is_no_file(recipe, capsys) -> None:
    assert run(["train", str(recipe), "--out", str(recipe)]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_missing_gpu_is_a_missing_component(recipe, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(["train", str(recipe), "--device", "cuda"]) == 7


def test_without_torch_the_extra_is_named(recipe, capsys, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["train", str(recipe)]) == 7
    assert "optc[torch]" in capsys.readouterr().err
