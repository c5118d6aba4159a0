from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest, write_manifest
from boneage.errors import InputError
from boneage.evaluation.report import read_evaluations, write_report
from boneage.evaluation.result import NEEDED_INFO, count_scorings, write_result
from boneage.evaluation.scoring import (
    PREDICTION_COLUMNS,
    evaluate_predictions,
    evaluate_run,
    impossible_answers,
    read_predictions,
)
from boneage.prediction.engines import Outputs
from boneage.radiographs.framing import PHASES, frame
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing, Prediction, Recipe
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
    opened.best_path.touch()
    return opened


class BySex:
    """An engine that answers 120 months for girls and 130 for boys."""

    def predict(self, images: Any, gender: Any) -> Any:
        assert images.shape[1:] == (32, 32)
        return Outputs(120.0 + 10.0 * gender[:, 0].astype(float))


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: BySex())


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


def test_several_splits_are_scored_one_by_one_and_together(run: Run) -> None:
    metrics = evaluate_run(run, split=["test", "val"], by=["sex"], progress=False)
    alone = [read_json(run.metrics_path(split)) for split in ("val", "test")]
    assert metrics["split"] == "val-test"
    assert metrics["n"] == sum(each["n"] for each in alone)
    assert [each["split"] for each in alone] == ["val", "test"]
    table = read_predictions(run.predictions_path("val-test"))
    assert len(table) == metrics["n"]
    assert read_json(run.metrics_path("val-test")) == metrics
    assert metrics["by"]["sex"]["F"]["n"] == metrics["groups"]["sex"]["F"]["n"]
    with pytest.raises(InputError, match="--by race: there is no such column"):
        evaluate_run(run, by=["race"], progress=False)


def test_patients_of_the_manifest_are_written_beside_their_answers(
    run: Run, tmp_path: Path
) -> None:
    table = make_manifest(tmp_path / "other", offset=5.0).table
    table = table.assign(patient_id=table["sex"], machine="A", split="test")
    other = write_manifest(table, tmp_path / "other" / "clinic.csv")
    metrics = evaluate_run(run, data=other.path, by=["machine"], progress=False)
    written = pd.read_csv(run.folder / metrics["predictions"]["file"])
    assert list(written) == [*PREDICTION_COLUMNS, "patient_id"]
    assert metrics["patients"] == 2
    assert metrics["by"]["machine"]["A"]["n"] == len(table)
    scored = evaluate_predictions(run.folder / metrics["predictions"]["file"])
    assert scored["patients"] == 2


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


def test_each_scoring_of_a_split_is_counted_whatever_the_views(run: Run, tmp_path: Path) -> None:
    def scorings(**options: Any) -> int:
        return int(evaluate_run(run, progress=False, **options)["scorings"])

    assert [scorings(), scorings(), scorings(views=2), scorings(views=6)] == [1, 2, 3, 4]
    assert scorings(split="val") == 1
    other = make_manifest(tmp_path / "other", offset=5.0, name="hospital.csv").path
    assert [scorings(data=other), scorings(data=other)] == [1, 2]
    digest = run.read_info()["manifest"]["digest"]
    assert count_scorings(run, "test", digest) == 4
    for path in run.folder.glob("metrics-test*.json"):
        write_json(path, {k: v for k, v in read_json(path).items() if k != "scorings"})
    assert count_scorings(run, "test", digest) == 3, "of three files, without a count"
    run.metrics_path("test").write_text("damaged")
    assert scorings() == 3


def test_another_manifest_is_an_external_test_beside_the_own_one(run: Run, tmp_path: Path) -> None:
    evaluate_run(run, progress=False)
    own = run.metrics_path("test").read_text()
    other = make_manifest(tmp_path / "other", offset=5.0, name="hospital.csv")
    metrics = evaluate_run(run, data=other.path, progress=False)
    assert metrics["manifest"]["digest"] == other.digest
    assert metrics["manifest"]["split_digest"] == other.split_digest
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
        return Outputs(np.where(gender[:, 0] == 0, self.months, 130.0))


def test_answers_that_are_no_age_are_scored_counted_and_a_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Fixed(-500.0))
    metrics = evaluate_run(run, progress=False)
    assert metrics["impossible_answers"] == 1
    assert read_json(run.metrics_path("test")) == metrics
    fault = impossible_answers(run.best_path, metrics)
    assert "1 of 2 answers are no bone age from 0 to 240 months" in str(fault)
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Fixed(-5.0))
    metrics = evaluate_run(run, progress=False)
    assert impossible_answers(run.best_path, metrics) is None
    assert read_predictions(run.predictions_path("test"))["predicted_age_months"].min() == 0.0


@pytest.mark.parametrize("months", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_the_fault_of_its_image(
    run: Run, monkeypatch: pytest.MonkeyPatch, months: float
) -> None:
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Fixed(months))
    with pytest.raises(InputError, match="^i6: the model answers (nan|inf) months") as refused:
        evaluate_run(run, progress=False)
    assert len(refused.value.faults) == 1
    assert not run.metrics_path("test").exists()


# --- Phases, and several runs.


class Brightness:
    """An engine that answers with the mean grey level of an image."""

    def predict(self, images: Any, gender: Any) -> Any:
        return Outputs(200.0 / 255 * images.mean(axis=(1, 2)))


def change_recipe(run: Run, framing: Framing, **prediction: Any) -> None:
    recipe = Recipe(name="small", framing=framing, prediction=Prediction(**prediction))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))


def test_phases_are_framed_from_the_files_and_other_numbers_do_not_replace_the_scores(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Brightness())
    framing = Framing(size=32, crop="none", sampling="nearest", source_pixels=20)
    change_recipe(run, framing, phases=4)
    metrics = evaluate_run(run, progress=False)
    assert not list(tmp_path.rglob("*.store"))  # which has one phase of each radiograph
    assert (metrics["views"], metrics["phases"]) == (1, 4)
    radiographs = [read_radiograph(tmp_path / "data" / f"{row}.png") for row in (6, 7)]
    expected = [
        np.mean([200 / 255 * frame(each, framing, phase=phase).pixels.mean() for phase in PHASES])
        for each in radiographs
    ]
    found = read_predictions(run.predictions_path("test"))["predicted_age_months"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    metrics = evaluate_run(run, phases=1, views=2, progress=False)
    assert metrics["predictions"]["file"] == "predictions-test-2-views-1-phases.csv"


def test_radiographs_that_are_not_larger_are_answered_to_the_bit_as_from_the_store(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Brightness())
    evaluate_run(run, split="train", progress=False)
    assert list(tmp_path.rglob("*.store"))
    stored = run.predictions_path("train").read_bytes()
    change_recipe(run, Framing(size=32, sampling="nearest", source_pixels=40), phases=4)
    evaluate_run(run, split="train", progress=False)
    assert run.predictions_path("train").read_bytes() == stored


def test_all_radiographs_that_cannot_be_read_are_reported_at_once(run: Run, tmp_path: Path) -> None:
    change_recipe(run, Framing(size=32, sampling="nearest", source_pixels=20), phases=4)
    (tmp_path / "data" / "1.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "data" / "3.png"), np.zeros((40, 40), np.uint8))
    with pytest.raises(InputError) as caught:
        evaluate_run(run, split="train", progress=False)
    assert [Path(fault.where).name for fault in caught.value.faults] == ["1.png", "3.png"]
    assert not run.metrics_path("train").exists()


class ByRun:
    """An engine that answers 100 months for the first run, and 140 for the others."""

    def __init__(self, run: Run) -> None:
        self.months = 100.0 if run.folder.name == "run" else 140.0

    def predict(self, images: Any, gender: Any) -> Any:
        return Outputs(np.full(len(images), self.months))


@pytest.fixture
def others(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Two more runs: one of the same manifest and another size, one of another manifest."""
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", ByRun)
    elsewhere = make_manifest(tmp_path / "elsewhere", offset=3.0)
    info = run.read_info() | {"seed": 0, "provenance": {"commit": "abc"}}
    info["manifest"] |= {"counts": {"train": 4}}
    write_json(run.info_path, info)
    made = []
    for name, size, manifest in (("second", 48, None), ("third", 32, elsewhere)):
        other = Run(tmp_path / name)
        recipe = Recipe(name=name, seed=7, framing=Framing(size=size))
        write_json(other.recipe_path, recipe.model_dump(mode="json"))
        recorded = info["manifest"]
        if manifest is not None:
            recorded = recorded | {"path": str(manifest.path), "digest": manifest.digest}
        write_json(other.info_path, info | {"seed": 7, "manifest": recorded})
        made.append(other)
    for each in (run, *made):
        each.best_path.write_bytes(each.folder.name.encode())
    return made


def test_the_mean_of_several_runs_is_scored_in_its_own_folder_which_lists_them(
    run: Run, others: list[Run], tmp_path: Path
) -> None:
    out = Run(tmp_path / "mean")
    metrics = evaluate_run(run, others=others[:1], out=out.folder, progress=False)
    found = read_predictions(out.predictions_path("test"))["predicted_age_months"]
    assert found.tolist() == [120.0, 120.0]
    assert metrics["manifest"]["external"] is False
    assert metrics["members"] == [{"name": "run"}, {"name": "second"}]
    assert not run.metrics_path("test").exists()
    info = out.read_info(NEEDED_INFO)
    assert info["name"] == "small + second (mean of 2 runs)"
    assert [member["digest"] for member in info["members"]] == [
        file_digest(each.best_path) for each in (run, others[0])
    ]
    assert info["members"][1]["changed"] == ["framing.size=48"]
    result = write_result(out)
    assert read_json(result)["members"] == info["members"]
    assert str(tmp_path) not in result.read_text()
    (shown,) = read_evaluations(out)
    assert shown.words == "test images, mean of 2 runs"
    page = write_report(out).read_text()
    assert "framing.size=48" in page
    assert "First of 2 models: xception at 32 pixels" in " ".join(page.split())
    again = evaluate_run(run, others=others[:1], out=out.folder, split="val", progress=False)
    assert again["split"] == "val"
    with pytest.raises(InputError, match="the folder belongs to another run"):
        evaluate_run(others[0], others=[run], out=out.folder, progress=False)
    with pytest.raises(InputError, match="the folder belongs to another run"):
        evaluate_run(run, others=others[:1], out=run.folder, progress=False)
    with pytest.raises(InputError, match="--out: the folder of the results of 2 runs is missing"):
        evaluate_run(run, others=others[:1], progress=False)


def test_what_each_of_several_runs_knew_of_an_external_test_is_counted(
    run: Run, others: list[Run], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the runs were trained with different manifests"):
        evaluate_run(run, others=others, out=tmp_path / "mean", progress=False)
    own = Path(run.read_info()["manifest"]["path"])
    metrics = evaluate_run(
        run, others=others, data=own, split="train", out=tmp_path / "mean", progress=False
    )
    assert metrics["manifest"]["external"] is True  # to the third run
    assert metrics["manifest"]["overlap"] == {"train": 4, "val": 0}
    assert [(each["name"], each["overlap"]) for each in metrics["members"]] == [
        ("run", {"train": 4, "val": 0}),
        ("second", {"train": 4, "val": 0}),
        ("third", {"train": 0, "val": 0}),
    ]
    # the medians of both training splits together: girls 81.5, boys 121.5
    assert metrics["baseline"]["median_by_sex"]["mae_months"]["value"] == pytest.approx(40.0)
    Path(others[1].read_info()["manifest"]["path"]).unlink()
    metrics = evaluate_run(
        run, others=others, data=own, split="train", out=tmp_path / "mean", progress=False
    )
    assert metrics["manifest"]["overlap"] is None
    assert metrics["members"][2]["overlap"] is None
    assert metrics["members"][0]["overlap"] == {"train": 4, "val": 0}
