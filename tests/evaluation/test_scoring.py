from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest, write_manifest
from boneage.errors import InputError
from boneage.evaluation.scoring import (
    evaluate_predictions,
    evaluate_run,
    impossible_answers,
    read_predictions,
)
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest

HEADER = "image_id,age_months,sex,predicted_age_months\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "predictions.csv"
    path.write_text(text, encoding="utf-8")
    return path


def faults(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_predictions(write(folder, text))
    return str(caught.value)


def test_predictions_are_read_and_scored_with_the_name_of_their_file(tmp_path: Path) -> None:
    text = (
        "note,image_id,age_months,sex,predicted_age_months\nx,0012,120, F ,118.5\ny,NA,130,M,-2\n"
    )
    path = write(tmp_path, text)
    table = read_predictions(path)
    assert list(table.columns) == ["image_id", "age_months", "sex", "predicted_age_months"]
    assert table["image_id"].tolist() == ["0012", "NA"]
    assert table["sex"].tolist() == ["F", "M"]
    assert table["predicted_age_months"].tolist() == [118.5, -2.0]
    metrics = evaluate_predictions(path)
    assert metrics["n"] == 2
    assert metrics["mae_months"]["value"] == pytest.approx((1.5 + 132) / 2)
    assert metrics["predictions"] == {"file": "predictions.csv", "digest": file_digest(path)}


def test_predictions_as_spreadsheets_save_them_are_read_as_they_are(tmp_path: Path) -> None:
    header = "image_id,age_months,sex,predicted_age_months"
    text = "\n".join([header, "1,100.5,F,104.5", "2,90,M,88.5", "3,120.5,M,121"])
    kept = read_predictions(write(tmp_path, text))
    for other in (
        text.replace(",", ";"),
        text.replace(",", "\t"),
        text.replace(",", ";").replace(".", ","),
        "Answers, by us, and you, in May\n" + text,
        "\n".join(f"{line};;" for line in text.replace(",", ";").splitlines()),
    ):
        pd.testing.assert_frame_equal(read_predictions(write(tmp_path, other)), kept)
    kept.to_excel(tmp_path / "a.xlsx", index=False)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "a.xlsx"), kept)
    with pd.ExcelWriter(tmp_path / "b.xlsx") as book:
        kept.to_excel(book, sheet_name="answers", index=False)
        pd.DataFrame({"metric": ["MAE", "n"], "value": [7, 2]}).to_excel(book, sheet_name="scores")
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "b.xlsx"), kept)
    with pytest.raises(InputError, match="is 'n.b.'; expected .* a decimal comma, like 2 other"):
        read_predictions(
            write(tmp_path, text.replace(",", ";").replace(".", ",").replace("121", "n.b."))
        )


def test_every_fault_of_a_table_is_reported_at_once(tmp_path: Path) -> None:
    rows = ["a,100,F,106", "a,140,M,138", "c,abc,F,nan", "d,150,male,150", ",300,F,12", "f,,F,inf"]
    message = faults(tmp_path, HEADER + "\n".join(rows) + "\n")
    for fault in (
        "row 3 (image_id a): image_id a is already in row 2",
        "row 4 (image_id c): age_months is 'abc'",
        "row 4 (image_id c): predicted_age_months is 'nan'",
        "row 5 (image_id d): sex is 'male'; expected F or M",
        "row 6: image_id is empty",
        "row 6: age_months is 300; expected months from 0 to 240",
        "row 7 (image_id f): age_months is empty",
        "row 7 (image_id f): predicted_age_months is 'inf'",
    ):
        assert fault in message
    assert len(message.splitlines()) == 8
    message = faults(tmp_path, "id,age_month,sex,predicted\na,100,F,100\n")
    for words in ("no column 'image_id'", "mean 'age_month'?", "mean 'predicted'?"):
        assert words in message


def test_years_are_not_taken_for_months(tmp_path: Path) -> None:
    text = HEADER + "a,10.5,F,11\nb,14.1,M,13\n"
    assert "Is it in years? Multiply age_months" in faults(tmp_path, text)
    for answers, words in (
        (("8.5", "11"), "Is it in years? Multiply predicted_age_months by 12."),
        (("0.4", "0.6"), "The ages are probably scaled to 0 to 1."),
    ):
        scaled = HEADER + "a,100,F,{}\nb,140,M,{}\n".format(*answers)
        assert words in faults(tmp_path, scaled)
    assert len(read_predictions(write(tmp_path, text), own=True)) == 2  # a run's own: infants


# --- A run, with a rule in place of the network.

AGES = [40.0, 80.0, 120.0, 160.0, 200.0, 60.0, 100.0, 140.0]
SEXES = ["F", "M", "F", "M", "F", "M", "F", "M"]
SPLITS = ["train"] * 4 + ["val"] * 2 + ["test"] * 2


def make_manifest(folder: Path, *, offset: float = 0.0, name: str = "manifest.csv") -> Manifest:
    folder.mkdir(exist_ok=True)
    count, generator = len(AGES), np.random.default_rng(0)
    for row in range(count):
        image = generator.integers(0, 255, (40, 40), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{row}.png"), image)
    names = {
        "image_id": [f"i{n}" for n in range(count)],
        "image": [f"{n}.png" for n in range(count)],
    }
    labels = {"age_months": np.add(AGES, offset), "sex": SEXES, "split": SPLITS}
    return write_manifest(pd.DataFrame(names | labels), folder / name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    manifest = make_manifest(tmp_path / "data")
    opened = Run(tmp_path / "run")
    opened.folder.mkdir()
    recipe = Recipe(name="small", framing=Framing(size=32))
    write_json(opened.recipe_path, recipe.model_dump(mode="json"))
    recorded = {"path": str(manifest.path), "digest": manifest.digest}
    write_json(opened.info_path, {"name": "small", "manifest": recorded})
    return opened


class BySex:
    """An engine that answers 120 months for girls and 130 for boys."""

    def predict(self, images: Any, gender: Any) -> Any:
        assert images.shape[1:] == (32, 32, 1)
        return 120.0 + 10.0 * gender[:, 0].astype(float)


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boneage.evaluation.scoring.load_engine", lambda run: BySex())


def test_evaluates_a_split_and_writes_what_it_returns(run: Run) -> None:
    metrics = evaluate_run(run, progress=False)
    table = read_predictions(run.predictions_path("test"))
    assert table["image_id"].tolist() == ["i6", "i7"]
    assert table["predicted_age_months"].tolist() == [120.0, 130.0]
    assert metrics["mae_months"]["value"] == pytest.approx(15.0)
    # medians of the training images: girls 80, boys 120, so 20 and 20 months off
    assert metrics["baseline"]["median_by_sex"]["mae_months"]["value"] == pytest.approx(20.0)
    assert (metrics["split"], metrics["manifest"]["external"]) == ("test", False)
    assert metrics["predictions"]["digest"] == file_digest(run.predictions_path("test"))
    assert read_json(run.metrics_path("test")) == metrics


def test_another_number_of_views_than_the_recipe_s_does_not_replace_its_scores(run: Run) -> None:
    evaluate_run(run, progress=False)
    metrics = evaluate_run(run, views=1, progress=False)
    assert metrics["predictions"]["file"] == "predictions-test.csv"
    before = run.metrics_path("test").read_bytes()
    metrics = evaluate_run(run, views=6, progress=False)
    assert (metrics["views"], metrics["manifest"]["external"]) == (6, False)
    assert read_json(run.metrics_path("test-6-views")) == metrics
    assert run.metrics_path("test").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"), [("changed", "changed since the run"), (None, r"is gone.*--data")]
)
def test_a_manifest_that_changed_or_is_gone_is_refused(
    run: Run, content: str | None, message: str
) -> None:
    path = Path(run.read_info()["manifest"]["path"])
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        evaluate_run(run, progress=False)
    assert not list(run.folder.glob("*-test.*"))


def test_another_manifest_is_an_external_test_beside_the_own_one(run: Run, tmp_path: Path) -> None:
    evaluate_run(run, progress=False)
    own = run.metrics_path("test").read_text()
    other = make_manifest(tmp_path / "other", offset=5.0, name="hospital.csv")
    metrics = evaluate_run(run, data=other.path, progress=False)
    assert metrics["manifest"]["digest"] == other.digest
    assert metrics["manifest"]["external"] is True
    # the baseline stays what the run was trained on: 120 for boys, 80 for girls
    assert metrics["baseline"]["median_by_sex"]["mae_months"]["value"] == pytest.approx(25.0)
    assert run.metrics_path("test").read_text() == own
    assert run.predictions_path(f"test-hospital-{other.digest[:8]}").exists()


@pytest.mark.parametrize("content", [None, b"changed", b"\xff"])
def test_external_test_without_the_own_manifest_has_no_baseline(
    run: Run, tmp_path: Path, content: bytes | None
) -> None:
    other = make_manifest(tmp_path / "other", offset=5.0)
    info = run.read_info()
    path = Path(info["manifest"]["path"])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    if content == b"\xff":  # unchanged, but no table
        info["manifest"]["digest"] = file_digest(path)
        write_json(run.info_path, info)
    metrics = evaluate_run(run, data=other.path, progress=False)
    baseline = metrics["baseline"]["median_by_sex"]
    assert baseline["mae_months"] is None
    assert "gone or changed" in baseline["note"]
    assert metrics["manifest"]["overlap"] is None


def test_the_own_manifest_named_with_data_is_no_external_test(run: Run, tmp_path: Path) -> None:
    path, results = Path(run.read_info()["manifest"]["path"]), Run(tmp_path / "results")
    metrics = evaluate_run(run, data=path, out=results.folder, progress=False)
    assert metrics["manifest"]["external"] is False
    assert read_json(results.metrics_path("test")) == metrics
    assert not run.metrics_path("test").exists()


def test_external_test_counts_the_images_that_the_run_was_trained_on(
    run: Run, tmp_path: Path
) -> None:
    own = pd.read_csv(run.read_info()["manifest"]["path"])
    (tmp_path / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    seen = own.assign(image="../link/" + own["image"], split="test").iloc[1:]
    (tmp_path / "other").mkdir()
    other = write_manifest(seen, tmp_path / "other" / "manifest.csv")
    metrics = evaluate_run(run, data=other.path, progress=False)
    assert metrics["manifest"]["overlap"] == {"train": 3, "val": 2}
    assert "overlap" not in evaluate_run(run, progress=False)["manifest"]
    another = make_manifest(tmp_path / "another", offset=5.0)
    for image in (tmp_path / "data").glob("*.png"):
        image.unlink()
    metrics = evaluate_run(run, data=another.path, progress=False)  # needs no image of the run
    assert metrics["baseline"]["median_by_sex"]["mae_months"]["value"] == pytest.approx(25.0)
    assert metrics["manifest"]["overlap"] == {"train": 0, "val": 0}


# --- Answers that are no bone age.


class Fixed:
    """An engine that answers the same for all girls, and 130 months for boys."""

    def __init__(self, months: float) -> None:
        self.months = months

    def predict(self, images: Any, gender: Any) -> Any:
        return np.where(gender[:, 0] == 0, self.months, 130.0)


def test_answers_that_are_no_age_are_scored_counted_and_a_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boneage.evaluation.scoring.load_engine", lambda run: Fixed(-500.0))
    metrics = evaluate_run(run, progress=False)
    assert metrics["impossible_answers"] == 1
    assert read_json(run.metrics_path("test")) == metrics
    fault = impossible_answers(run.best_path, metrics)
    assert "1 of 2 answers are no bone age from 0 to 240 months" in str(fault)
    monkeypatch.setattr("boneage.evaluation.scoring.load_engine", lambda run: Fixed(-5.0))
    metrics = evaluate_run(run, progress=False)
    assert impossible_answers(run.best_path, metrics) is None
    assert read_predictions(run.predictions_path("test"))["predicted_age_months"].min() == 0.0


@pytest.mark.parametrize("months", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_the_fault_of_its_image(
    run: Run, monkeypatch: pytest.MonkeyPatch, months: float
) -> None:
    monkeypatch.setattr("boneage.evaluation.scoring.load_engine", lambda run: Fixed(months))
    with pytest.raises(InputError, match="^i6: the model answers (nan|inf) months") as refused:
        evaluate_run(run, progress=False)
    assert len(refused.value.faults) == 1
    assert not run.metrics_path("test").exists()
