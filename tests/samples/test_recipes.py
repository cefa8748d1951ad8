"""Every recipe can be read, and names models and data that exist."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from toolchain.data_sources import find_function
from toolchain.training.recipe import load_training_recipe

RECIPES = sorted((Path(__file__).parents[2] / "samples" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_read(path) -> None:
    if path.stem.startswith("translation"):
        pytest.importorskip("sentencepiece", reason="translation needs optc[samples]")
    recipe = load_training_recipe(path, seed=5)
    assert recipe.seed == 5
    assert callable(find_function(recipe.model.function))
    assert callable(find_function(recipe.data.function))
    assert path.read_text().startswith("# ")


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8
