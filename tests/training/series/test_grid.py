"""What a sweep is asked for: every combination once, and everything wrong with it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from boneage.errors import InputError
from boneage.training.series.grid import read_grid, setting_names


def refused(recipe: Path, *grid: str, seeds: str | None = None, sets: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as error:
        read_grid(recipe, sets, grid, seeds)
    return str(error.value)


def test_a_grid_is_every_combination_the_first_key_slowest(tiny_recipe: Path) -> None:
    grid = ("training.learning_rate=1e-3,3e-3", "model.dense_units=[8],[16, 8]")
    recipe, settings, seeds = read_grid(tiny_recipe, ["training.epochs=1"], grid, "0,2")
    assert seeds == [0, 2]
    assert recipe.training.epochs == 1
    assert [setting.recipe.training.learning_rate for setting in settings] == [1e-3] * 2 + [
        3e-3
    ] * 2
    assert [setting.recipe.model.dense_units for setting in settings] == [(8,), (16, 8)] * 2
    assert {setting.recipe.training.epochs for setting in settings} == {1}
    assert setting_names(settings) == [
        "learning_rate-0.001-dense_units-8",
        "learning_rate-0.001-dense_units-16-8",
        "learning_rate-0.003-dense_units-8",
        "learning_rate-0.003-dense_units-16-8",
    ]


def test_without_a_grid_there_is_one_setting_and_the_recipe_s_seed(tiny_recipe: Path) -> None:
    recipe, settings, seeds = read_grid(tiny_recipe, (), (), None)
    assert (setting_names(settings), seeds) == ([""], [3])
    assert settings[0].recipe == recipe


def test_keys_of_one_name_are_told_whole_and_long_names_are_numbers(tiny_recipe: Path) -> None:
    grid = ("framing.size=64,96", "phantom.size=80")
    assert setting_names(read_grid(tiny_recipe, (), grid, None)[1])[0] == (
        "framing.size-64-phantom.size-80"
    )
    long = f"model.dense_units=[{','.join(['1000'] * 30)}],[8]"
    assert setting_names(read_grid(tiny_recipe, (), [long], None)[1]) == ["setting-1", "setting-2"]


def test_a_comma_in_quotes_is_no_separator(tiny_recipe: Path) -> None:
    _, settings, _ = read_grid(tiny_recipe, (), ['name="a, b",c'], None)
    assert [setting.recipe.name for setting in settings] == ["a, b", "c"]


def test_values_that_only_go_together_are_taken_together(tiny_recipe: Path) -> None:
    grid = ("training.optimizer=adamw", "training.weight_decay=0.01,0.02")
    assert len(read_grid(tiny_recipe, (), grid, None)[1]) == 2
    message = refused(tiny_recipe, "training.optimizer=adam,adamw", grid[1])
    assert "--grid training.optimizer=adam --grid training.weight_decay=0.01: " in message
    assert "weight_decay 0.02 takes optimizer = 'adamw'" in message


def test_everything_wrong_is_told_at_once(tiny_recipe: Path) -> None:
    message = refused(
        tiny_recipe,
        "training.learnin_rate=1e-3",
        "training.batch_size=8,many",
        "training.epochs",
        "model.dropout=0.1,,0.2",
        seeds="0,-1,0,x",
    )
    lines = message.splitlines()
    assert len(lines) == 7
    assert "'-1' is no seed; expected whole numbers from 0" in message
    assert "--seeds 0,-1,0,x: 0 is given twice" in message
    assert "unknown key 'training.learnin_rate'" in message
    assert "Did you mean 'learning_rate'?" in message
    assert "--grid training.batch_size=8,many: training.batch_size is 'many'" in message
    assert "--grid training.epochs: there is no '=' behind a key in it" in message
    assert "a value in it is empty" in message


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["training.learning_rate=1e-3,0.001"], "0.001 is the same value as 1e-3"),
        (["model.gender=true,true"], "true is given twice"),
        (["model.dropout=0.1", "model.dropout=0.2"], "model.dropout is given before"),
        (["training.epochs=1,2"], "training.epochs is given before"),
        (["seed=0,1"], "seeds are no grid; expected --seeds"),
    ],
)
def test_what_is_given_twice_is_refused(tiny_recipe: Path, grid: list[str], message: str) -> None:
    assert message in refused(tiny_recipe, *grid, sets=("training.epochs=3",))


def test_what_is_wrong_with_the_recipe_is_not_blamed_on_the_grid(tiny_recipe: Path) -> None:
    message = refused(tiny_recipe, "model.dropout=0.1", sets=("training.epoch=1",))
    assert message.startswith(f"{tiny_recipe}: unknown key 'training.epoch'")
