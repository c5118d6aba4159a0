"""A sweep: what is trained and in which order, what the table says, how it goes on."""

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

from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.training.series.planned_runs import mean_and_deviation

Command = Callable[..., tuple[int, str, str]]
Contents = Callable[[Path], dict[str, bytes]]

GRID = ("--grid", "training.learning_rate=1e-3,3e-3", "--seeds", "0,1,2")
NAMES = [f"learning_rate-{rate}-seed-{seed}" for rate in ("0.001", "0.003") for seed in (0, 1, 2)]


def mae(run: Path, split: str) -> float:
    table = pd.read_csv(run / f"predictions-{split}.csv")
    return float(np.abs(table["predicted_age_months"] - table["age_months"]).mean())


def test_every_setting_and_seed_is_trained_and_compared_by_validation(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    code, out, err = boneage("sweep", tiny_recipe, "--data", cohort, *GRID, "--out", "s")
    assert code == 0, err
    assert trainer.names() == NAMES
    assert "run 4 of 6: learning_rate-0.003-seed-0" in err
    for name in NAMES:
        recipe = Run(tmp_path / "s" / name).read_recipe()
        assert f"learning_rate-{recipe.training.learning_rate}-seed-{recipe.seed}" == name

    val = {name: mae(tmp_path / "s" / name, "val") for name in NAMES}
    test = {name: mae(tmp_path / "s" / name, "test") for name in NAMES}
    result = read_json(tmp_path / "s" / "sweep.json")
    order = sorted(NAMES, key=val.__getitem__)
    assert [row["run"] for row in result["rows"]] == order
    assert result["complete"] is True
    assert "test is reported beside it and selects nothing" in result["selected_by"]
    for row in result["rows"]:
        assert row["val"]["mae_months"]["value"] == pytest.approx(val[row["run"]])
        assert row["test"]["mae_months"]["value"] == pytest.approx(test[row["run"]])
        assert NAMES[row["index"] - 1] == row["run"]
    for line in result["settings"]:
        rate = line["setting"]["training.learning_rate"]
        mine = [name for name in NAMES if f"-{rate}-" in name]
        for split, values in (("val", val), ("test", test)):
            of = [values[name] for name in mine]
            assert line[split]["mean"] == pytest.approx(statistics.mean(of))
            assert line[split]["standard_deviation"] == pytest.approx(statistics.stdev(of))
            assert line[split]["n"] == 3
    means = [line["val"]["mean"] for line in result["settings"]]
    assert means == sorted(means)

    table = pd.read_csv(tmp_path / "s" / "sweep.csv")
    assert list(table["run"]) == order
    np.testing.assert_allclose(table["val_mae_months"], [val[name] for name in order])
    assert set(table["training.learning_rate"]) == {0.001, 0.003}
    assert f"{val[order[0]]:.2f} [" in out
    assert "selected by validation MAE" in out
    assert "image_id" not in json.dumps(result)
    assert str(cohort.parent) not in json.dumps(result), "a path of the machine"


def test_run_again_it_trains_nothing_and_leaves_every_run_as_it_is(
    boneage: Command,
    trainer: Any,
    cohort: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    contents: Contents,
) -> None:
    command = ("sweep", tiny_recipe, "--data", cohort, "--seeds", "0,1", "--out", "s")
    _, before, _ = boneage(*command)
    files = contents(tmp_path / "s" / "seed-0") | contents(tmp_path / "s" / "seed-1")
    code, after, err = boneage(*command)
    assert (code, len(trainer.asked)) == (0, 2)
    assert before == after
    assert "run 2 of 2: seed-1 is finished already" in err
    assert contents(tmp_path / "s" / "seed-0") | contents(tmp_path / "s" / "seed-1") == files


def test_one_of_a_job_array_trains_its_own_and_the_table_gathers(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    command = ("sweep", tiny_recipe, "--data", cohort, *GRID, "--out", "s")
    code, out, _ = boneage(*command, "--only", 5)
    assert code == 0
    assert trainer.names() == [NAMES[4]]
    assert "5 of 6 runs are not finished" in out
    code, out, _ = boneage(*command, "--table")
    assert (code, len(trainer.asked)) == (0, 1)
    rows = read_json(tmp_path / "s" / "sweep.json")["rows"]
    assert [row["run"] for row in rows] == [NAMES[4], *NAMES[:4], NAMES[5]]
    assert [row["state"] for row in rows] == ["finished", *["to do"] * 5]
    table = pd.read_csv(tmp_path / "s" / "sweep.csv")
    assert table["val_mae_months"].isna().sum() == 5
    for number in (0, 7):
        code, _, err = boneage(*command, "--only", number)
        assert code == 2
        assert f"--only {number}: there are 6 runs; expected 1 to 6" in err


def test_a_run_that_fails_is_told_and_the_others_are_trained(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    trainer.outcomes = {"seed-0": "refused", "seed-1": "diverged", "seed-2": "failed"}
    command = ("sweep", tiny_recipe, "--data", cohort, "--seeds", "0,1,2,3", "--out", "s")
    code, out, err = boneage(*command)
    assert code == 1
    assert trainer.names() == ["seed-0", "seed-1", "seed-2", "seed-3"]
    assert "error: 3 of 4 runs did not come to their end" in err
    assert "seed-0 failed: s/seed-0: an image can't be read" in err
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
    code, _, err = boneage(*command)
    assert code == 1, "one diverged, and would again"
    assert [asked[-2:] for asked in trainer.asked] == [
        ["--out", "s/seed-0"],
        ["--resume", "s/seed-2"],
    ]
    assert "error: 1 of 4 runs did not come to their end" in err


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 0)])
def test_a_signal_keeps_what_is_done_and_begins_nothing_more(
    boneage: Command,
    trainer: Any,
    cohort: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    name: str,
    code: int,
) -> None:
    trainer.outcomes = {"seed-1": name}
    command = ("sweep", tiny_recipe, "--data", cohort, "--seeds", "0,1,2", "--out", "s")
    ended, _, err = boneage(*command)
    assert ended == code
    assert trainer.names() == ["seed-0", "seed-1"]
    assert "the same command goes on with it" in err
    assert "Traceback" not in err
    trainer.outcomes = {}
    ended, _, err = boneage(*command)
    assert ended == 0
    assert trainer.names()[2:] == ["seed-1", "seed-2"]
    assert "run 2 of 3: seed-1 goes on (cut off)" in err


def test_a_run_killed_in_its_first_moment_begins_anew(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    command = ("sweep", tiny_recipe, "--data", cohort, "--seeds", "0", "--out", "s")
    boneage(*command, "--table")
    run = tmp_path / "s" / "seed-0"
    run.mkdir()
    shutil.copy(tmp_path / "s" / "recipe.json", run)
    code, _, _ = boneage(*command)
    assert (code, trainer.names()) == (0, ["seed-0"])


def test_another_series_in_the_same_folder_is_refused_with_all_that_differs(
    boneage: Command,
    trainer: Any,
    cohort: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    contents: Contents,
) -> None:
    boneage("sweep", tiny_recipe, "--data", cohort, *GRID, "--out", "s")
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
    assert "s: training.epochs is 7 now; expected 2, as series.json in it records" in err
    assert 's: grid is [{"training.learning_rate": 0.001}] now' in err
    assert "s: seeds is [0, 1] now; expected [0, 1, 2]" in err
    assert "s: manifest is" in err
    assert err.count("error: ") == 4
    assert (contents(tmp_path / "s"), len(trainer.asked)) == (before, 6)


def test_a_folder_with_something_else_in_it_is_refused(
    boneage: Command,
    trainer: Any,
    cohort: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    contents: Contents,
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("precious")
    code, _, err = boneage("sweep", tiny_recipe, "--data", cohort, "--out", "s")
    assert code == 2
    assert "s: the folder is not empty; expected a new folder, or that of the same series" in err
    assert list(contents(tmp_path / "s")) == ["thesis.txt"]


def test_a_plan_that_was_spoilt_is_refused(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    command = ("sweep", tiny_recipe, "--data", cohort, "--out", "s", "--table")
    boneage(*command)
    (tmp_path / "s" / "series.json").write_text('{"recipe": 3}')
    code, _, err = boneage(*command)
    assert code == 2
    assert "s/series.json: it tells of no recipe" in err


def test_a_run_of_another_recipe_under_a_planned_name_is_refused(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    command = ("sweep", tiny_recipe, "--data", cohort, "--seeds", "0,1", "--out", "s")
    boneage(*command, "--only", 1)
    path = tmp_path / "s" / "seed-0" / "recipe.json"
    recipe = read_json(path)
    recipe["training"]["epochs"] = 50
    write_json(path, recipe)
    code, _, err = boneage(*command)
    assert (code, len(trainer.asked)) == (2, 1)
    assert "training.epochs is 50 in this run; expected 2, as the series has it" in err


def test_predictions_that_are_not_what_was_scored_are_refused(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    command = ("sweep", tiny_recipe, "--data", cohort, "--seeds", "0", "--out", "s")
    boneage(*command)
    path = tmp_path / "s" / "seed-0" / "predictions-val.csv"
    path.write_text(path.read_text().replace(",F,", ",M,"))
    code, _, err = boneage(*command)
    assert code == 2
    assert "the file is not what was scored" in err
    assert "boneage evaluate s/seed-0 --split val" in err


def test_nothing_is_begun_before_the_grid_is_right(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    code, _, err = boneage(
        "sweep", tiny_recipe, "--data", cohort, "--grid", "training.learning_rat=1e-3",
        "--seeds", "0,0", "--out", "s",
    )  # fmt: skip
    assert code == 2
    assert err.count("error: ") == 2
    assert "Did you mean 'learning_rate'?" in err
    assert not (tmp_path / "s").exists()
    assert not trainer.asked


def test_options_of_a_training_are_handed_on_and_each_trains_alone(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path
) -> None:
    command = ("sweep", tiny_recipe, "--data", cohort, "--out", "s", "--set", "training.epochs=1")
    trainer.outcomes = {"seed-3": "failed"}
    boneage(*command, "--require-gpu")
    trainer.outcomes = {}
    code, _, err = boneage(*command, "--deterministic")
    assert code == 0, err
    first, second = trainer.asked
    assert "--require-gpu" in first
    assert {"--deterministic", "--resume"} <= {*second}
    assert "--require-gpu" not in second
    for asked in trainer.asked:
        assert asked[asked.index("--hosts") + 1] == "none"


def test_json_is_the_whole_of_standard_output(
    boneage: Command, trainer: Any, cohort: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    code, out, _ = boneage("sweep", tiny_recipe, "--data", cohort, "--out", "s", "--json")
    assert code == 0
    assert json.loads(out) == read_json(tmp_path / "s" / "sweep.json")


def test_mean_and_deviation_are_of_all_values_or_none() -> None:
    assert mean_and_deviation([2.0, 4.0, 9.0]) == {
        "n": 3,
        "mean": 5.0,
        "standard_deviation": pytest.approx(np.std([2, 4, 9], ddof=1)),
    }
    assert mean_and_deviation([7.0]) == {"n": 1, "mean": 7.0, "standard_deviation": None}
    for values in ([], [1.0, None]):
        assert mean_and_deviation(values)["mean"] is None
