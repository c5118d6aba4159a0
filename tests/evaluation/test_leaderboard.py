import copy
import json
from pathlib import Path

import pytest

from boneage.errors import InputError
from boneage.evaluation.leaderboard import (
    BEGIN,
    END,
    leaderboard,
    read_results,
    write_leaderboard,
    written_leaderboard,
)

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def score(mae: float, guess: float, n: int = 150) -> dict:
    interval = {"value": mae, "low": mae - 1, "high": mae + 1}
    guessed = {"value": guess, "low": guess - 2, "high": guess + 2}
    return {"n": n, "mae_months": interval, "baseline": {"median_by_sex": {"mae_months": guessed}}}


def result(val: float, test: float, *, guess: float = 31.0, seed: int = 0, **recipe) -> dict:
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
def experiments(tmp_path):
    """A folder of experiments; `add(name, values)` commits a result to one of them."""
    folder = tmp_path / "experiments"
    for name in ("one", "other"):
        (folder / name / "results").mkdir(parents=True)
        (folder / name / "recipe.toml").write_text(f'name = "{name}"\n[framing]\ncrop = "film"\n')
    (folder / "README.md").write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")

    def add(experiment: str, name: str, values: dict) -> Path:
        (folder / experiment / "results" / f"{name}.json").write_text(json.dumps(values))
        return folder

    add("one", "crops", {"rows": []})  # of a script: no result of a run
    return add


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| `")]


def test_the_committed_page_is_what_the_committed_results_give():
    written = written_leaderboard(EXPERIMENTS / "README.md")
    assert written == leaderboard(EXPERIMENTS), "run `boneage leaderboard` and commit the page"


def test_the_committed_results_are_found():
    found = {(each.experiment, each.path.stem) for each in read_results(EXPERIMENTS)}
    assert {("phantom", "seed-0"), ("rsna-100px", "seed-0")} <= found
    assert ("framing-100px", "crops") not in found


def test_a_table_begins_with_guessing_and_goes_by_validation(experiments):
    experiments("one", "seed-0", result(9.0, 5.0))
    folder = experiments("other", "seed-0", result(7.0, 8.0))
    text = leaderboard(folder)
    assert "| median by sex, no image | | | 31.00 [29.00, 33.00] (150) |" in text
    assert [row.split("`")[1] for row in rows(text)] == ["other", "one"]
    assert "7.00 [6.00, 8.00] (150) | 8.00 [7.00, 9.00] (150) | 12,345 | 1.5 min" in text
    assert "| A GPU, 8 cores | 0123456 |" in text


def test_results_on_other_images_stand_in_another_table(experiments):
    other = copy.deepcopy(result(1.0, 1.0, guess=12.0))  # guessing tells them apart
    experiments("other", "seed-0", other)
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    assert leaderboard(folder).count("median by sex, no image") == 2


def test_settings_that_are_not_the_recipe_s_are_told_as_set_takes_them(experiments):
    changed = {"framing": {"crop": "hand"}, "training": {"epochs": 3, "workers": 7}}
    folder = experiments("one", "seed-0", result(9.0, 9.0, **changed))
    (found,) = read_results(folder)
    assert found.changed == ("framing.crop=hand", "training.epochs=3")
    assert "`framing.crop=hand`, `training.epochs=3`" in leaderboard(folder)


def test_a_result_from_before_crops_framed_the_radiograph(experiments):
    folder = experiments("one", "seed-0", result(9.0, 9.0, framing={"size": 299}))
    assert read_results(folder)[0].changed == ()


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"val": 7, "test": 0}, " (that knew 7 of the ids validated on and 0 of those tested on)"),
        (None, " (whether that knew any"),
    ],
)
def test_a_fine_tuned_row_says_what_it_began_with_and_what_that_knew(experiments, known, said):
    init = {"name": "first", "digest": "abc", "known_ids": known}
    folder = experiments("one", "seed-0", {**result(9.0, 9.0), "init": init})
    assert f"`--init first{said}" in leaderboard(folder)


def test_several_seeds_of_one_recipe_get_a_row_for_their_mean(experiments):
    for seed, mae in enumerate((9.0, 10.0, 8.0)):
        folder = experiments("one", f"seed-{seed}", result(mae, mae + 1, seed=seed))
    text = leaderboard(folder)
    assert "mean of 3 seeds | | 9.00, seeds 8.00 to 10.00 | 10.00, seeds 9.00 to 11.00" in text


def test_uncommitted_changes_are_told(experiments):
    values = result(9.0, 9.0)
    values["provenance"]["uncommitted_changes"] = True
    assert "| 0123456, changed |" in leaderboard(experiments("one", "seed-0", values))


def test_a_published_number_that_nobody_ran_is_listed_as_such(experiments):
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    recipe = folder / "other" / "recipe.toml"
    recipe.write_text('name = "other"\n[published]\nsource = "A paper"\ntest_mae_months = 4.265\n')
    assert "| `other` | test 4.265 | A paper | `boneage reproduce other --data DIR` |" in (
        leaderboard(folder)
    )


def test_writing_replaces_what_is_between_the_marks_only(experiments):
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    page = write_leaderboard(folder)
    text = page.read_text()
    assert text.startswith("# Before\n\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in text
    write_leaderboard(folder)
    assert page.read_text() == text
    assert written_leaderboard(page) == leaderboard(folder)


def test_a_page_without_marks_is_refused_and_left_alone(experiments):
    folder = experiments("one", "seed-0", result(9.0, 9.0))
    (folder / "README.md").write_text("# mine\n")
    with pytest.raises(InputError, match="the marks around the leaderboard are gone; expected"):
        write_leaderboard(folder)
    assert (folder / "README.md").read_text() == "# mine\n"
