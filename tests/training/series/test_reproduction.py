import json
import shutil
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest

from boneage.cli import main as cli
from boneage.errors import InputError
from boneage.recipe import Augmentation, read_recipe
from boneage.run import Run
from boneage.training.series import reproduction
from boneage.training.series.reproduction import find_recipe, read_published_recipe, reproduce
from boneage.training.stop_signals import Stop, Terminated

PUBLISHED = """
[published]
source = "Halabi et al. & others"
test_mae_months = 40.0
test_interval_months = [1.0, 79.0]
test_images = 6
test_labels = "mean of six readings"
val_mae_months = 41.25
val_images = 1425
val_labels = "one reading"
"""


@pytest.fixture(scope="module")
def recipe_path(
    tiny_recipe: Path, tiny_network: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("published") / "tiny.toml"
    path.write_text(tiny_recipe.read_text().replace("mini_xception", "tiny") + PUBLISHED)
    return path


@pytest.fixture(scope="module")
def cut_off(official_tree: Path, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory):
    """A reproduction that was asked to stop in its first batch; what it said; the tree's copy."""
    folder = tmp_path_factory.mktemp("reproduction")
    tree = shutil.copytree(official_tree, folder / "rsna")
    stop, said = Stop(), list[str]()
    stop.asked = signal.SIGTERM
    recipe = read_published_recipe(recipe_path)
    with pytest.raises(Terminated):
        reproduce(
            recipe, recipe_path, tree, folder / "run", say=said.append, progress=False, stop=stop
        )
    return folder, said


@pytest.fixture
def boneage(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["boneage", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def no_timing(monkeypatch):
    """Nothing gets as far as timing steps."""

    def measure(*_):
        raise AssertionError("a fault was found only after steps were timed")

    monkeypatch.setattr("boneage.training.cost_estimate.measure_effort", measure)


def refused(result: tuple[int, str, str], *messages: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    for message in messages:
        assert message in err


def test_a_stopped_reproduction_goes_on_with_the_same_command_to_the_table(
    cut_off, recipe_path, boneage
):
    folder, said = cut_off
    run = Run(folder / "run")
    assert run.read_info()["stopped"] == "terminated"
    assert "48 images: 30 train, 12 val, 6 test" in said
    assert "note: Training, validation and test are the challenge's own." in said
    assert any("a step of 16 images (" in line for line in said)
    assert said.index("timing a few steps of it here") < said.index("checking every film")

    command = ("reproduce", recipe_path, "--data", folder / "rsna", "--out", run.folder)
    code, out, err = boneage(*command, "--json")
    assert code == 0, err
    assert "timing" not in err
    assert "checking" not in err
    document = json.loads(out)
    val, test = document["rows"]
    assert test["published"]["value"] == 40.0
    assert test["ours"]["n"] == 6
    assert test["difference_months"] == pytest.approx(test["ours"]["value"] - 40.0)
    assert test["intervals_overlap"] is True
    assert val["not_comparable"] == "12 validation images here, 1,425 there"
    assert document["effort"]["epochs"] == 2
    assert document["effort"]["store_bytes"] == 48 * 64 * 64
    assert document == json.loads((run.folder / "reproduction.json").read_text())
    assert run.read_info()["stopped"] == "finished"
    assert list(pd.read_csv(run.history_path)["epoch"]) == [1, 2]
    assert run.report_path.exists()
    assert "published" in run.report_path.read_text().lower()
    page = (run.folder / "reproduction.md").read_text()
    assert "| test | 6 | mean of six readings | 40.00 [1.00, 79.00] |" in page
    assert "The recipe as it stands." in page

    before = run.best_path.stat().st_mtime_ns
    code, out, err = boneage(*command)
    assert code == 0, err
    assert "evaluating" not in err  # nothing that is whole is made again
    assert run.best_path.stat().st_mtime_ns == before
    assert out.splitlines()[0].split() == [
        "images", "n", "labels", "published", "ours", "difference", "intervals", "overlap",
    ]  # fmt: skip
    assert "not comparable: 12 validation images here" in out


def test_other_data_than_it_was_begun_with_are_refused_and_nothing_is_changed(
    cut_off, recipe_path, boneage, tmp_path
):
    folder, _ = cut_off
    tree = shutil.copytree(folder / "rsna", tmp_path / "rsna")
    table = tree / "train.csv"
    table.write_text(table.read_text().replace("1400,", "1399,"))
    next(tree.rglob("1400.png")).rename(tree / "boneage-training-dataset" / "1399.png")
    manifest = folder / "run-data" / "manifest.csv"
    before = manifest.read_bytes()
    result = boneage("reproduce", recipe_path, "--data", tree, "--out", folder / "run")
    refused(result, "its images or labels are not those that", "was begun with")
    assert manifest.read_bytes() == before
    assert sorted(path.name for path in manifest.parent.glob("*.csv")) == ["manifest.csv"]


def timed(monkeypatch, **values) -> None:
    """Has the estimate come out like this, without timing anything."""
    from boneage.training.cost_estimate import Effort

    measured = {
        "device": "A GPU", "cores": 8, "load": 1.0, "images": 48, "parameters": 10**9,
        "batch_size": 16, "steps_timed": 3, "step_seconds": 0.1, "validation_step_seconds": 0.1,
        "film_seconds": 0.1, "epochs": 100, "epoch_seconds": 3600.0, "preparation_seconds": 60.0,
        "hours": 100.0, "store_bytes": 200_000, "run_bytes": 10**6,
    }  # fmt: skip
    effort = Effort(**(measured | values))
    monkeypatch.setattr("boneage.training.cost_estimate.measure_effort", lambda *_: effort)


def test_a_dry_run_estimates_and_leaves_nothing_behind(
    official_tree, recipe_path, boneage, tmp_path, monkeypatch
):
    timed(monkeypatch, load=17.0)
    out = tmp_path / "runs" / "tiny"
    code, printed, err = boneage(
        "reproduce", recipe_path, "--data", official_tree, "--out", out, "--dry-run",
        "--set", "training.epochs=7",
    )  # fmt: skip
    assert code == 0, err
    assert "not the recipe as it stands: training.epochs=7" in err
    assert "on A GPU, 8 cores: 100 ms a step of 16 images (3 timed), 60.0 minutes an epoch" in err
    assert "at most 100 epochs: at most 4.2 days" in err
    assert "disk: 0.2 MB for the framed radiographs, 1.0 MB for the run" in err
    assert "this machine is busy (load 17)" in err
    assert "40.00 [1.00, 79.00]  -" in printed
    assert list(tmp_path.iterdir()) == []


def test_no_room_on_the_disk_is_told_before_anything_is_made(
    official_tree, recipe_path, boneage, tmp_path, monkeypatch
):
    timed(monkeypatch, store_bytes=10**9, run_bytes=10**18)
    result = boneage("reproduce", recipe_path, "--data", official_tree, "--out", tmp_path / "run")
    refused(result, "1000000001.0 GB: 1.0 for the framed films", "set BONEAGE_CACHE")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run-data" / "manifest.store").exists()


def test_a_radiograph_that_can_not_be_read_is_named_before_any_training(
    official_tree, recipe_path, boneage, tmp_path, monkeypatch
):
    tree = shutil.copytree(official_tree, tmp_path / "rsna")
    radiograph = next(tree.rglob("1387.png"))
    radiograph.write_bytes(radiograph.read_bytes()[:200])
    monkeypatch.setattr(reproduction, "_effort", lambda *_, **__: None)
    result = boneage("reproduce", recipe_path, "--data", tree, "--out", tmp_path / "run")
    refused(result, "1 errors:", "1387", "boneage data check")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_timing")
def test_wrong_commands_are_refused_at_once(
    official_tree, tiny_recipe, recipe_path, boneage, tmp_path
):
    data = ("--data", official_tree, "--out", tmp_path / "run")
    refused(boneage("reproduce", tiny_recipe, *data), "there is no [published] in it")
    refused(boneage("reproduce", "rsna-exception", *data), "Did you mean 'rsna-xception'?")
    refused(boneage("reproduce", recipe_path, "--data", tmp_path / "absent"), "absent")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").touch()
    result = boneage("reproduce", recipe_path, "--data", official_tree, "--out", taken)
    refused(result, "there is something else in it", "Name another --out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_missing_imagenet_weights_are_told_before_anything_long(
    official_tree, boneage, tmp_path, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    result = boneage(
        "reproduce", "rsna-xception", "--data", official_tree, "--out", tmp_path / "run",
        "--set", "framing.size=96",
    )  # fmt: skip
    refused(result, "the weights file is not there", "--set model.weights=none")
    assert not (tmp_path / "run").exists()


def test_a_batch_too_large_is_told_before_anything_long(
    official_tree, recipe_path, boneage, tmp_path, monkeypatch
):
    monkeypatch.setattr("boneage.training.batch_memory.available_bytes", lambda: 1_000_000)
    result = boneage("reproduce", recipe_path, "--data", official_tree, "--out", tmp_path / "run")
    refused(result, "a batch of 16 needs about")
    assert not (tmp_path / "run").exists()


def test_recipes_are_found_by_name_by_folder_and_by_file(tmp_path, monkeypatch):
    by_name = find_recipe("rsna-xception")
    assert by_name.name == "recipe.toml"
    assert find_recipe(str(by_name)) == by_name
    assert find_recipe(str(by_name.parent)) == by_name
    with pytest.raises(InputError, match=r"there is no such recipe; .*rsna-16bit"):
        find_recipe("nothing of the kind")
    mine = tmp_path / "experiments" / "mine" / "recipe.toml"  # as in the Docker image's folder
    mine.parent.mkdir(parents=True)
    mine.touch()
    monkeypatch.chdir(tmp_path)
    assert find_recipe("mine") == Path("experiments/mine/recipe.toml")


@pytest.mark.parametrize(
    ("name", "backbone", "batch"),
    [("rsna-xception", "xception", 9), ("rsna-densenet169", "densenet169", 7)],
)
def test_the_lineage_s_recipes_are_the_lineage(name, backbone, batch):
    recipe = read_published_recipe(find_recipe(name))
    model, training = recipe.model, recipe.training
    assert recipe.augmentation == Augmentation()
    assert (recipe.framing.size, recipe.framing.crop) == (500, "film")
    assert recipe.framing.contrast_percentiles == (0.0, 100.0)
    assert (model.backbone, model.weights, model.pooling) == (backbone, "imagenet", "average")
    assert (model.gender_units, model.dense_units, model.dropout) == (32, (1000, 1000), 0.0)
    assert (model.age_centre_months, model.age_scale_months) == (120.0, 120.0)
    assert (training.batch_size, training.optimizer, training.learning_rate) == (
        batch,
        "adam",
        1e-4,
    )
    assert (training.schedule, training.plateau_factor, training.plateau_patience) == (
        "plateau", 0.75, 4,
    )  # fmt: skip
    assert (training.epochs, training.early_stop_patience) == (100, 25)


def test_the_winner_s_recipe_flattens_and_begins_from_random_weights():
    recipe = read_recipe(find_recipe("rsna-16bit"))
    assert recipe.model.weights == "none"
    assert recipe.model.pooling == "flatten"
    assert recipe.published.test_mae_months == 4.265
    assert recipe.published.test_interval_months is None
