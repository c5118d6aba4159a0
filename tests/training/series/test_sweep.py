"""A sweep: the grid, what is trained in which order, the tables, and how a sweep continues."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from boneage.errors import InputError
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.training.series.sweep import name_settings, read_grid

Command = Callable[..., tuple[int, str, str]]
Contents = Callable[[Path], dict[str, bytes]]

GRID = ("--grid", "training.learning_rate=1e-3,3e-3", "--seeds", "0,1,2")
NAMES = [f"learning_rate-{rate}-seed-{seed}" for rate in ("0.001", "0.003") for seed in (0, 1, 2)]


@pytest.fixture
def sweep(boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path) -> Command:
    """Runs `boneage sweep` into the folder s, with the stand-in for trainings."""

    def run(*options: object) -> tuple[int, str, str]:
        return boneage("sweep", tiny_recipe, "--data", cohort, "--out", "s", *options)

    return run


# --- The grid.


def refused(recipe: Path, *grid: str, seeds: str | None = None, sets: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as error:
        read_grid(recipe, sets, grid, seeds)
    return str(error.value)


def test_a_grid_is_every_combination_the_first_key_slowest(tiny_recipe):
    grid = ("training.learning_rate=1e-3,3e-3", "model.dense_units=[8],[16, 8]")
    recipe, settings, seeds = read_grid(tiny_recipe, ["training.epochs=1"], grid, "0,2")
    assert seeds == [0, 2]
    assert recipe.training.epochs == 1
    rates = [setting.recipe.training.learning_rate for setting in settings]
    assert rates == [1e-3, 1e-3, 3e-3, 3e-3]
    assert [setting.recipe.model.dense_units for setting in settings] == [(8,), (16, 8)] * 2
    assert {setting.recipe.training.epochs for setting in settings} == {1}
    assert name_settings(settings) == [
        "learning_rate-0.001-dense_units-8",
        "learning_rate-0.001-dense_units-16-8",
        "learning_rate-0.003-dense_units-8",
        "learning_rate-0.003-dense_units-16-8",
    ]


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ([], [""]),
        (["framing.size=64", "phantom.size=80"], ["framing.size-64-phantom.size-80"]),
        ([f"model.dense_units=[{','.join(['1000'] * 30)}],[8]"], ["setting-1", "setting-2"]),
        (['model.weights="a, b",c'], ["weights-a-b", "weights-c"]),
    ],
)
def test_names_are_short_and_unique(tiny_recipe, grid, names):
    assert name_settings(read_grid(tiny_recipe, (), grid, None)[1]) == names


def test_values_that_depend_on_each_other_are_checked_together(tiny_recipe):
    grid = ("training.optimizer=adamw", "training.weight_decay=0.01,0.02")
    assert len(read_grid(tiny_recipe, (), grid, None)[1]) == 2
    message = refused(tiny_recipe, "training.optimizer=adam,adamw", grid[1])
    assert "weight_decay 0.02 needs optimizer = 'adamw'" in message


def test_all_faults_are_listed_at_once(tiny_recipe):
    message = refused(
        tiny_recipe,
        "training.learnin_rate=1e-3",
        "training.batch_size=8,many",
        "training.epochs",
        "model.dropout=0.1,,0.2",
        seeds="0,-1,0,x",
    )
    assert len(message.splitlines()) == 6
    for part in (
        "--seeds 0,-1,0,x: '-1', 'x' can't be a seed",
        "a seed is given twice",
        "unknown key 'training.learnin_rate'",
        "Did you mean 'learning_rate'?",
        "--grid: training.batch_size is 'many'",
        "--grid training.epochs: a key or a value is missing",
        "--grid model.dropout=0.1,,0.2: a key or a value is missing",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["training.learning_rate=1e-3,0.001"], "0.001 is the same as training.learning_rate=1e-3"),
        (["model.dropout=0.1", "model.dropout=0.2"], "model.dropout is given twice"),
        (["training.epochs=1,2"], "training.epochs is given twice"),
        (["seed=0,1"], "Write --seeds 0,1,2."),
    ],
)
def test_repetitions_are_refused(tiny_recipe, grid, message):
    assert message in refused(tiny_recipe, *grid, sets=("training.epochs=3",))


# --- The sweep.


def test_every_setting_and_seed_is_trained_and_compared_by_validation(
    sweep, trainer, cohort, tmp_path
):
    code, out, err = sweep(*GRID, "--test")
    assert code == 0, err
    assert trainer.names() == NAMES
    assert "run 4 of 6: learning_rate-0.003-seed-0" in err
    maes: dict[str, dict[str, float]] = {"val": {}, "test": {}}
    for name in NAMES:
        recipe = Run(tmp_path / "s" / name).read_recipe()
        assert f"learning_rate-{recipe.training.learning_rate}-seed-{recipe.seed}" == name
        for split in maes:
            table = pd.read_csv(tmp_path / "s" / name / f"predictions-{split}.csv")
            errors = table["predicted_age_months"] - table["age_months"]
            maes[split][name] = float(errors.abs().mean())

    result = read_json(tmp_path / "s" / "sweep.json")
    order = sorted(NAMES, key=maes["val"].__getitem__)
    assert [row["run"] for row in result["rows"]] == order
    for line in result["settings"]:
        rate = line["setting"]["training.learning_rate"]
        for split, values in maes.items():
            mine = [values[name] for name in NAMES if f"-{rate}-" in name]
            assert line[split]["mean"] == pytest.approx(statistics.mean(mine))
            assert line[split]["standard_deviation"] == pytest.approx(statistics.stdev(mine))
    means = [line["val"]["mean"] for line in result["settings"]]
    assert means == sorted(means)
    table = pd.read_csv(tmp_path / "s" / "sweep.csv")
    np.testing.assert_allclose(table["val_mae_months"], [maes["val"][name] for name in order])
    assert f"{maes['val'][order[0]]:.2f} [" in out
    assert "image_id" not in json.dumps(result)
    assert str(cohort.parent) not in json.dumps(result), "a path of the machine"


def test_the_test_split_is_scored_only_when_asked(sweep, trainer, tmp_path):
    code, out, err = sweep("--seeds", "0,1")
    assert code == 0, err
    assert all("--no-test" in asked for asked in trainer.asked)
    result = read_json(tmp_path / "s" / "sweep.json")
    assert all("val" in row and "test" not in row for row in result["rows"])
    assert "test" not in out
    assert not [name for name in pd.read_csv(tmp_path / "s" / "sweep.csv") if "test" in name]
    assert not Run(tmp_path / "s" / "seed-0").metrics_path("test").exists()

    trainer.asked.clear()
    code, out, err = sweep("--seeds", "0,1", "--test")  # once a setting is chosen
    assert code == 0, err
    assert len(trainer.asked) == 2
    assert all("--resume" in asked and "--no-test" not in asked for asked in trainer.asked)
    assert all("test" in row for row in read_json(tmp_path / "s" / "sweep.json")["rows"])


def test_a_repeated_command_trains_nothing_and_changes_no_run(sweep, trainer, tmp_path, contents):
    _, before, _ = sweep("--seeds", "0,1")
    files = contents(tmp_path / "s" / "seed-0") | contents(tmp_path / "s" / "seed-1")
    code, after, err = sweep("--seeds", "0,1")
    assert (code, len(trainer.asked)) == (0, 2)
    assert before == after
    assert "run 2 of 2: seed-1 is already finished" in err
    assert contents(tmp_path / "s" / "seed-0") | contents(tmp_path / "s" / "seed-1") == files


def test_a_task_of_a_job_array_trains_its_run_and_the_table_collects(sweep, trainer, tmp_path):
    code, out, _ = sweep(*GRID, "--only", 5)
    assert code == 0
    assert trainer.names() == [NAMES[4]]
    assert "5 of 6 runs are not finished" in out
    code, out, _ = sweep(*GRID, "--table", "--json")
    assert (code, len(trainer.asked)) == (0, 1)
    result = read_json(tmp_path / "s" / "sweep.json")
    assert json.loads(out) == result
    assert [row["run"] for row in result["rows"]] == [NAMES[4], *NAMES[:4], NAMES[5]]
    assert [row["state"] for row in result["rows"]] == ["finished", *["to do"] * 5]
    assert pd.read_csv(tmp_path / "s" / "sweep.csv")["val_mae_months"].isna().sum() == 5
    for number in (0, 7):
        code, _, err = sweep(*GRID, "--only", number)
        assert code == 2
        assert f"--only {number}: the series has 6 runs" in err


def test_a_failed_run_is_reported_and_the_others_are_trained(sweep, trainer, tmp_path):
    trainer.outcomes = {"seed-0": "refused", "seed-1": "diverged", "seed-2": "failed"}
    code, out, err = sweep("--seeds", "0,1,2,3")
    assert code == 1
    assert trainer.names() == ["seed-0", "seed-1", "seed-2", "seed-3"]
    assert "error: 3 of 4 runs did not finish" in err
    assert "seed-0 failed: the process ended with exit code 2" in err
    assert "3 of 4 runs are not finished" in out
    result = read_json(tmp_path / "s" / "sweep.json")
    assert {row["run"]: row["state"] for row in result["rows"]} == {
        "seed-3": "finished",
        "seed-0": "to do",
        "seed-1": "diverged",
        "seed-2": "cut off",
    }
    assert result["settings"][0]["val"]["n"] == 1

    trainer.outcomes = {}
    trainer.asked.clear()
    code, _, err = sweep("--seeds", "0,1,2,3")
    assert code == 1, "the diverged run would diverge again"
    assert trainer.names() == ["seed-0", "seed-2"]
    assert "--resume" not in trainer.asked[0]
    assert "--resume" in trainer.asked[1]
    assert "error: 1 of 4 runs did not finish" in err


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_keeps_finished_runs_and_starts_no_other(sweep, trainer, name, code):
    trainer.outcomes = {"seed-1": name}
    ended, _, err = sweep("--seeds", "0,1,2")
    assert ended == code
    assert trainer.names() == ["seed-0", "seed-1"]
    assert "Repeat the command to continue." in err
    assert "Traceback" not in err
    trainer.outcomes = {}
    ended, _, err = sweep("--seeds", "0,1,2")
    assert ended == 0
    assert trainer.names()[2:] == ["seed-1", "seed-2"]
    assert "run 2 of 3: seed-1 continues (it was cut off)" in err


def test_a_run_killed_at_its_start_starts_again(sweep, trainer, tmp_path):
    sweep("--seeds", "0", "--table")
    (tmp_path / "s" / "seed-0").mkdir()
    shutil.copy(tmp_path / "s" / "recipe.json", tmp_path / "s" / "seed-0")
    code, _, _ = sweep("--seeds", "0")
    assert (code, trainer.names()) == (0, ["seed-0"])


def test_an_edited_recipe_of_the_series_is_not_trained(sweep, tmp_path):
    sweep("--seeds", "0", "--table")
    path = tmp_path / "s" / "recipe.json"
    recipe = read_json(path)
    recipe["training"]["epochs"] = 50
    write_json(path, recipe)
    code, _, err = sweep("--seeds", "0")
    assert code == 0, err
    assert Run(tmp_path / "s" / "seed-0").read_recipe().training.epochs == 2


def test_another_series_in_the_folder_is_refused_with_all_differences(
    boneage, sweep, cohort, tiny_recipe, tmp_path, contents
):
    sweep(*GRID)
    before = contents(tmp_path / "s")
    other = tmp_path / "other.csv"
    table = pd.read_csv(cohort, dtype=str)
    table["image"] = [str(cohort.parent / name) for name in table["image"]]
    table.to_csv(other, index=False)
    code, _, err = boneage(
        "sweep", tiny_recipe, "--data", other, "--grid", "training.learning_rate=1e-3",
        "--seeds", "0,1", "--set", "training.epochs=7", "--out", "s",
    )  # fmt: skip
    assert code == 2
    assert "s: training.epochs is 7, but series.json records 2" in err
    assert 's: grid is [{"training.learning_rate": 0.001}], but' in err
    assert "s: seeds is [0, 1], but series.json records [0, 1, 2]" in err
    assert "s: manifest is" in err
    assert err.count("error: ") == 4
    assert contents(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("thesis.txt", "precious", "s: the folder is not empty and holds no series"),
        (
            "series.json",
            '{"verb": "cross-validate", "manifest": "", "recipe": {}}',
            "s: it holds the series of boneage cross-validate. Name another --out.",
        ),
        ("series.json", '{"recipe": 3}', "s/series.json: recipe is 3; expected a valid dictionary"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused(
    sweep, tmp_path, contents, file, text, message
):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / file).write_text(text)
    code, _, err = sweep()
    assert (code, message in err) == (2, True), err
    assert list(contents(tmp_path / "s")) == [file]


def test_a_file_in_place_of_the_folder_is_refused(sweep, tmp_path):
    (tmp_path / "s").touch()
    code, _, err = sweep()
    assert (code, "s: no file can be written to this folder" in err) == (2, True), err


def test_changed_runs_are_refused(sweep, trainer, tmp_path):
    sweep("--seeds", "0,1", "--only", 1)
    path = tmp_path / "s" / "seed-0" / "predictions-val.csv"
    path.write_text(path.read_text().replace(",F,", ",M,"))
    code, _, err = sweep("--seeds", "0,1", "--only", 1)
    assert code == 2
    assert "the predictions are missing or have changed" in err
    assert "boneage evaluate s/seed-0 --split val" in err

    path = tmp_path / "s" / "seed-0" / "recipe.json"
    recipe = read_json(path)
    recipe["training"]["epochs"] = 50
    write_json(path, recipe)
    code, _, err = sweep("--seeds", "0,1")
    assert (code, len(trainer.asked)) == (2, 1)
    assert "training.epochs is 50, and the series has 2" in err


def test_options_are_passed_on_and_each_run_trains_alone(sweep, trainer):
    trainer.outcomes = {"seed-3": "failed"}
    sweep("--require-gpu")
    trainer.outcomes = {}
    code, _, err = sweep("--deterministic")
    assert code == 0, err
    first, second = trainer.asked
    assert "--require-gpu" in first
    assert {"--deterministic", "--resume"} <= {*second}
    assert "--require-gpu" not in second
    for asked in trainer.asked:
        assert asked[asked.index("--hosts") + 1] == "none"
