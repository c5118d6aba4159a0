"""A reproduction: the estimate, the refusals before an hour is spent, and the comparison."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from boneage.run import Run
from boneage.training.series.reproduction import read_published_recipe, reproduce
from boneage.training.stop_signals import Stop, Terminated

Command = Callable[..., tuple[int, str, str]]

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
COST = {
    "device": "A GPU", "parameters": 10**9, "batch_size": 16, "steps_timed": 3,
    "step_seconds": 0.1, "epochs": 100, "hours": 100.0, "store_bytes": 200_000_000,
    "run_bytes": 10**9,
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe_path(
    tiny_recipe: Path, tiny_network: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("published") / "tiny.toml"
    path.write_text(tiny_recipe.read_text().replace("mini_xception", "tiny") + PUBLISHED)
    return path


@pytest.fixture
def estimate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Replaces the timing of steps."""

    def replace(result: Any) -> None:
        monkeypatch.setattr("boneage.training.cost_estimate.estimate_cost", lambda *_: result)

    return replace


def refused(result: tuple[int, str, str], *messages: str) -> None:
    code, out, err = result
    assert (code, out) == (2, ""), err
    for message in messages:
        assert message in err


@pytest.mark.slow
def test_a_stopped_reproduction_continues_to_the_table(
    official_tree, recipe_path, boneage, tmp_path
):
    tree = shutil.copytree(official_tree, tmp_path / "rsna")
    run, stop, lines = Run(tmp_path / "run"), Stop(), list[str]()
    stop.asked = signal.SIGTERM  # in the first batch
    recipe = read_published_recipe(recipe_path)
    with pytest.raises(Terminated):
        reproduce(
            recipe, recipe_path, tree, run.folder, log=lines.append, progress=False, stop=stop
        )
    assert run.read_info()["stopped"] == "terminated"
    assert "48 images: 30 train, 12 val, 6 test" in lines
    assert any("per step of 16 images (" in line for line in lines)
    assert lines.index("timing a few training steps") < lines.index("checking every radiograph")

    other = shutil.copytree(tree, tmp_path / "other")
    table = other / "train.csv"
    table.write_text(table.read_text().replace("1400,", "1399,"))
    next(other.rglob("1400.png")).rename(other / "boneage-training-dataset" / "1399.png")
    code, _, err = boneage("reproduce", recipe_path, "--data", other, "--out", run.folder)
    assert (code, "manifest" in err) == (2, True), err

    command = ("reproduce", recipe_path, "--data", tree, "--out", run.folder)
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
    assert val["not_comparable"] == "12 validation images here, 1,425 in the published result"
    stored = json.loads((run.folder / "reproduction.json").read_text())
    assert stored.pop("files") == {"report": "report.html", "page": "reproduction.md"}
    assert document | stored == document
    assert str(tmp_path) not in json.dumps(stored)
    assert run.read_info()["stopped"] == "finished"
    assert document["data"]["split_digest"] == run.read_info()["manifest"]["split_digest"]
    assert list(pd.read_csv(run.history_path)["epoch"]) == [1, 2]
    assert run.report_path.exists()
    page = (run.folder / "reproduction.md").read_text()
    assert "| test | 6 | mean of six readings | 40.00 [1.00, 79.00] |" in page
    assert "Settings that differ from the recipe: none." in page

    written = run.best_path.stat().st_mtime_ns
    code, out, err = boneage(*command)
    assert code == 0, err
    assert "evaluating" not in err  # finished steps are not repeated
    assert run.best_path.stat().st_mtime_ns == written
    assert out.splitlines()[0].split()[-3:] == ["ours", "difference", "verdict"]
    assert "not comparable: 12 validation images here" in out
    assert "test: judged by two intervals, which is the weaker way" in out

    answers = tmp_path / "answers.csv"
    pd.read_csv(run.predictions_path("test"), dtype=str).to_csv(answers, index=False)
    refused(boneage(*command, "--published-answers", answers), "expected 40 as published")
    pd.read_csv(answers, dtype=str).iloc[:5].to_csv(answers, index=False)
    code, out, err = boneage(*command, "--published-answers", answers, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["answers"][0]["file"] == "answers.csv"
    paired = document["rows"][1]["paired"]
    assert (paired["n"], paired["value"], paired["is_shown"]) == (5, 0.0, True)  # our own answers
    page = (run.folder / "reproduction.md").read_text()
    assert "shown to be non-inferior" in page


def test_a_dry_run_estimates_and_leaves_nothing(
    official_tree, recipe_path, boneage, tmp_path, estimate
):
    estimate(COST)
    code, out, err = boneage(
        "reproduce", recipe_path, "--data", official_tree, "--out", tmp_path / "runs" / "tiny",
        "--dry-run", "--set", "training.epochs=7",
    )  # fmt: skip
    assert code == 0, err
    for line in (
        "settings that differ from the recipe: training.epochs=7",
        "note: Training, validation and test are the challenge's own.",
        "A GPU: 100 ms per step of 16 images (3 steps timed)",
        "100 epochs: at most 100.0 hours",
        "disk: 0.2 GB for the framed radiographs, 1.0 GB for the run",
    ):
        assert line in err
    assert "40.00 [1.00, 79.00]  -" in out
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_refused_before_anything_is_prepared(
    official_tree, recipe_path, boneage, tmp_path, estimate
):
    estimate(COST | {"store_bytes": 10**9, "run_bytes": 10**18})
    refused(
        boneage("reproduce", recipe_path, "--data", official_tree, "--out", tmp_path / "run"),
        " left, but 1.0 EB are needed",
        "set BONEAGE_CACHE",
    )
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run-data" / "manifest.store").exists()


def test_an_unreadable_radiograph_is_named_before_any_training(
    official_tree, recipe_path, boneage, tmp_path, estimate
):
    estimate(COST)
    tree = shutil.copytree(official_tree, tmp_path / "rsna")
    radiograph = next(tree.rglob("1387.png"))
    radiograph.write_bytes(radiograph.read_bytes()[:200])
    result = boneage("reproduce", recipe_path, "--data", tree, "--out", tmp_path / "run")
    refused(result, "1 errors:", "1387", "boneage data check")
    assert not (tmp_path / "run").exists()


def test_wrong_commands_are_refused_at_once(
    official_tree, tiny_recipe, recipe_path, boneage, tmp_path
):
    data = ("--data", official_tree, "--out", tmp_path / "run")
    refused(boneage("reproduce", tiny_recipe, *data), "no [published] section")
    refused(boneage("reproduce", "rsna-exception", *data), "Known names", "rsna-xception")
    refused(boneage("reproduce", recipe_path, "--data", tmp_path / "absent"), "absent")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").touch()
    result = boneage("reproduce", recipe_path, "--data", official_tree, "--out", taken)
    refused(result, "the folder holds something else", "Name another --out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_a_dry_run_estimates_without_the_weights_file_and_says_that_it_is_missing(
    official_tree, boneage, tmp_path, estimate, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    estimate(COST | {"run_bytes": 10**18})
    command = (
        "reproduce", "rsna-xception", "--data", official_tree, "--out", tmp_path / "run",
        "--dry-run",
    )  # fmt: skip
    code, _, err = boneage(*command)
    assert code == 0, err
    assert "A GPU: 100 ms per step" in err
    assert "missing: " in err
    assert "the file of the ImageNet weights does not exist. Copy xception" in err
    assert " left, but 1.0 EB are needed" in err
    code, out, _ = boneage(*command, "--json")
    assert code == 0
    assert len(json.loads(out)["missing"]) == 2
    assert list(tmp_path.iterdir()) == []
    refused(boneage(*command, "--set", "model.backbone=xeption"), "'xeption' is not known")


def test_missing_imagenet_weights_are_refused_before_anything_long(
    official_tree, boneage, tmp_path, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    result = boneage(
        "reproduce", "rsna-xception", "--data", official_tree, "--out", tmp_path / "run",
        "--set", "framing.size=96",
    )  # fmt: skip
    refused(result, "--set model.weights=none")
    assert not (tmp_path / "run").exists()
