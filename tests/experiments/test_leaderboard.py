from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boneage.errors import InputError
from experiments.leaderboard import (
    BEGIN,
    END,
    make_leaderboard,
    read_leaderboard,
    read_results,
    write_leaderboard,
)

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

Add = Callable[[str, str, dict[str, Any]], Path]


def score(mae: float, guess: float, n: int = 150) -> dict[str, Any]:
    interval = {"value": mae, "low": mae - 1, "high": mae + 1}
    guessed = {"value": guess, "low": guess - 2, "high": guess + 2}
    return {"n": n, "mae_months": interval, "baseline": {"median_by_sex": {"mae_months": guessed}}}


def result(
    val: float, test: float, *, guess: float = 31.0, seed: int = 0, **recipe: Any
) -> dict[str, Any]:
    return {
        "name": "one",
        "seed": seed,
        "seconds": {"fit": 90.0},
        "model": {"parameters": 12345},
        "provenance": {
            "device": "A GPU",
            "cores": 8,
            "commit": "0123456789abcdef",
            "uncommitted_changes": False,
        },
        "manifest": {
            "digest": "f" * 64,
            "counts": {"train": 1200, "val": 150, "test": 150},
            "source": "phantom",
        },
        "recipe": {"name": "one", "seed": seed, **recipe},
        "metrics": {"val": score(val, guess), "test": score(test, guess)},
    }


@pytest.fixture
def experiments(tmp_path: Path) -> Add:
    """A folder of experiments. `add(name, values)` commits a result to one of them."""
    folder = tmp_path / "experiments"
    for name in ("one", "other"):
        (folder / name / "results").mkdir(parents=True)
        (folder / name / "recipe.toml").write_text(f'name = "{name}"\n')
    (folder / "README.md").write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")

    def add(experiment: str, name: str, values: dict[str, Any]) -> Path:
        values["recipe"].setdefault("framing", {"crop": "hand"})
        (folder / experiment / "results" / f"{name}.json").write_text(json.dumps(values))
        return folder

    (folder / "one" / "results" / "crops.json").write_text('{"rows": []}')  # no result of a run
    return add


def test_the_committed_page_matches_the_committed_results():
    written = read_leaderboard(EXPERIMENTS / "README.md")
    assert written == make_leaderboard(EXPERIMENTS), "run experiments/leaderboard.py"
    found = {(each.experiment, each.path.stem) for each in read_results(EXPERIMENTS)}
    assert {("phantom", "seed-0"), ("rsna-100px", "seed-0")} <= found
    assert ("framing-100px", "crops") not in found


def test_a_table_starts_with_the_baseline_and_is_ordered_by_validation(experiments):
    changed = result(9.0, 5.0)
    changed["provenance"]["uncommitted_changes"] = True
    experiments("one", "seed-0", changed)
    folder = experiments("other", "seed-0", result(7.0, 8.0))
    text = make_leaderboard(folder)
    assert "| median by sex, no image | | | 31.00 [29.00, 33.00] (150) |" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["other", "one"]
    assert "7.00 [6.00, 8.00] (150) | 8.00 [7.00, 9.00] (150) | 12,345 | 1.5 min" in text
    assert "| A GPU, 8 cores | 0123456 |" in text
    assert "| 0123456, changed |" in text


def test_results_on_other_images_get_another_table(experiments):
    experiments("other", "seed-0", result(1.0, 1.0, guess=12.0))  # another baseline: other images
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    assert make_leaderboard(folder).count("median by sex, no image") == 2


def test_settings_that_differ_from_the_recipe_are_shown_as_set_takes_them(experiments):
    changed = {"framing": {"crop": "hand", "size": 96}, "training": {"epochs": 3, "workers": 7}}
    folder = experiments("one", "seed-0", result(9.0, 9.0, **changed))
    assert "`framing.size=96`, `training.epochs=3`" in make_leaderboard(folder)


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ({"val": 7, "test": 0}, " (had seen 7 of the validation ids and 0 of the test ids)"),
        (None, " (whether it had seen these images is not recorded)"),
    ],
)
def test_a_fine_tuned_row_names_the_initial_run(experiments, known, shown):
    init = {"name": "first", "digest": "abc", "known_ids": known}
    folder = experiments("one", "seed-0", {**result(9.0, 9.0), "init": init})
    assert f"`--init first{shown}" in make_leaderboard(folder)


def test_an_initial_release_says_at_most(experiments):
    known = {"known_ids": {"val": 7, "test": 2}, "known_ids_by_chance": 0.01}
    init = {"name": "first", "digest": "abc", **known}
    folder = experiments("one", "seed-0", {**result(9.0, 9.0), "init": init})
    shown = "(had seen at most 7 of the validation ids and 2 of the test ids)"
    assert shown in make_leaderboard(folder)


def test_a_table_says_how_often_its_test_split_was_scored_and_what_its_splits_are(experiments):
    scored = "Its test split was scored at least"
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    assert f"(manifest ffffffff).\n{scored} once." in make_leaderboard(folder)
    more = result(8.0, 8.0, seed=1) | {"test_scorings": 4}
    more["manifest"] |= {"split_digest": "a" * 64}
    experiments("one", "seed-1", more)
    experiments("one", "another", result(7.0, 7.0))
    text = make_leaderboard(folder)
    assert f"(manifest ffffffff; splits aaaaaaaa).\n{scored} 6 times." in text


def test_several_seeds_of_a_recipe_get_a_row_for_their_mean(experiments):
    for seed, mae in enumerate((9.0, 10.0, 8.0)):
        folder = experiments("one", f"seed-{seed}", result(mae, mae + 1, seed=seed))
    text = make_leaderboard(folder)
    assert "mean of 3 seeds | | 9.00, seeds 8.00 to 10.00 | 10.00, seeds 9.00 to 11.00" in text


def test_a_published_number_without_a_result_is_listed(experiments):
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    recipe = folder / "other" / "recipe.toml"
    recipe.write_text('name = "other"\n[published]\nsource = "A paper"\ntest_mae_months = 4.265\n')
    row = "| `other` | test 4.265 | A paper | `boneage reproduce other --data DIR` |"
    assert row in make_leaderboard(folder)


def test_the_script_writes_between_the_marks_only_and_checks(experiments):
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    script = [sys.executable, str(EXPERIMENTS / "leaderboard.py"), str(folder)]
    check = subprocess.run([*script, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert "out of date" in check.stderr
    subprocess.run(script, check=True)
    text = (folder / "README.md").read_text()
    assert text.startswith("# Before\n\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in text
    assert subprocess.run([*script, "--check"], check=False).returncode == 0


def test_a_page_without_marks_is_refused_and_not_changed(experiments):
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    (folder / "README.md").write_text("# mine\n")
    with pytest.raises(InputError, match="the marks around the leaderboard are missing"):
        write_leaderboard(folder)
    assert (folder / "README.md").read_text() == "# mine\n"
