from __future__ import annotations

import base64
import html
import re
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import write_manifest
from boneage.errors import InputError
from boneage.evaluation import figures
from boneage.evaluation.metrics import score
from boneage.evaluation.report import write_report
from boneage.pipeline.store import Store, prepare
from boneage.prediction.engines import Outputs
from boneage.recipe import Framing, Phantom, Published, Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest

pytestmark = pytest.mark.slow

FIGURES = (
    *("predicted-vs-true", "bland-altman", "bias-by-band", "error-by-group"),
    "learning-curves",
)


def evaluate(run: Run, name: str, *, count: int = 60, error: float = 6.0, **more: Any) -> None:
    generator = np.random.default_rng(len(name))
    age = generator.uniform(10, 220, count).round(1)
    sexes = np.where(generator.random(count) < 0.5, "F", "M")
    predicted = (age + generator.normal(0, error, count)).round(3)
    columns = {"image_id": [f"{name}{row}" for row in range(count)], "age_months": age}
    table = pd.DataFrame(columns | {"sex": sexes, "predicted_age_months": predicted})
    table.to_csv(run.predictions_path(name), index=False)
    metrics = score(age, predicted, sexes, bootstrap=50) | {"split": name.split("-")[0]} | more
    write_json(run.metrics_path(name), metrics)


def make_run(folder: Path, *, history: int = 5, **info: Any) -> Run:
    run = Run(folder)
    folder.mkdir()
    write_json(run.recipe_path, Recipe(name="small").model_dump(mode="json"))
    values: dict[str, Any] = {
        "name": "small run",
        "command": "boneage train <recipe> & more",
        "started": "2026-11-20T10:00:00+00:00",
        "seconds": {"prepare": 1.0, "fit": 4000.0},
        "provenance": {"boneage": "0.1.0", "commit": "abc", "device": "cpu"},
        "manifest": {"counts": {"train": 480, "val": 60, "test": 60}, "source": "table"},
        "store": {"folder": str(folder / "none"), "digest": "x"},
        "model": {"parameters": 377_123},
        "best_epoch": 4,
        "best_val_mae_months": 5.5,
        "stopped": "finished",
    }
    write_json(run.info_path, values | info)
    if history:
        epochs = np.arange(history)  # from 0, as Keras' CSVLogger counts
        errors = {"mae": 40.0 / (1 + epochs), "val_mae": 30.0 / (1 + epochs)}
        table = pd.DataFrame({"epoch": epochs, **errors, "learning_rate": 1e-3})
        table.to_csv(run.history_path, index=False)
    return run


class Page:
    """What a browser would load and show."""

    def __init__(self, page: str) -> None:
        self.addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
        self.ids = re.findall(r'\bid="([^"]*)"', page)
        self.tags = re.findall(r"<(\w+)", page)
        self.text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())


def read_page(run: Run) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out, for tests that only read the text."""
    monkeypatch.setattr(figures, "as_svg", lambda *_: "")
    monkeypatch.setattr(figures, "save_png", lambda *_: None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = make_run(tmp_path / "run")
    baseline = {"median_by_sex": {"mae_months": {"value": 32.6, "low": 30.0, "high": 35.0}}}
    evaluate(made, "test", baseline=baseline)
    evaluate(made, "val")
    return made


def test_page_holds_every_section_and_the_figures_stand_beside_it(run: Run) -> None:
    page = read_page(run)
    table = pd.read_csv(run.predictions_path("test"))
    error = table["predicted_age_months"] - table["age_months"]
    for words in (
        "Agreement with the label",
        "Bland-Altman",
        "Errors by sex and age",
        "Learning curves",
        "The 10 largest errors",
        "Other evaluations",
        "Recipe",
        "Provenance",
        "small run: 60 test images",
        "On 60 test images, the predictions differ from the label by",
        "This page contains image ids and ages of patients, but no radiograph.",
        "Research use only, not for diagnosis.",
        f"{error.abs().mean():.2f} months",
        f"test{error.abs().argmax()},",
        f"{error.abs().max():.1f} months too",
        "32.6 months",
        "0.38 million",
        "67 min",
        "is gone or damaged",  # the store with the images of the largest errors
    ):
        assert words in page.text
    assert page.text.count("no image") == 10
    assert page.tags.count("svg") == len(FIGURES)
    for name in FIGURES:
        assert (run.folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("no_drawing")
def test_page_says_what_changed_radiographs_do(run: Run, stress_result: dict[str, Any]) -> None:
    run.best_path.write_text("weights")
    write_json(run.stress_path("test"), stress_result | {"model_digests": ["another"]})
    assert "Changed radiographs" not in read_page(run).text
    stress_result = stress_result | {"model_digests": [file_digest(run.best_path)]}
    write_json(run.stress_path("test"), stress_result)
    page = read_page(run)
    for words in (
        "Changed radiographs",
        "9 test images of clinic.csv: 384 × 512 pixels (median), 1 view each",
        "mirrored11 %\n+0.1 [-0.2, +0.4]\n-0.3 [-0.6, +0.1]\n0.5: passed",
        "inverted100 %",
        "from 6.9 to 45.2 months",
    ):
        assert " ".join(words.split()) in page.text
    write_json(run.stress_path("val-test"), stress_result | {"split": "val-test"})
    assert "9 validation and test images of clinic.csv" in read_page(run).text
    run.stress_path("val-test").unlink()
    write_json(run.stress_path("test"), stress_result | {"changes": [{"name": "mirrored"}]})
    with pytest.raises(InputError, match=r"'changes\.0\.n' is missing"):
        write_report(run)


def test_page_has_a_figure_of_changed_radiographs(run: Run, stress_result: dict[str, Any]) -> None:
    run.best_path.write_text("weights")
    digests = {"model_digests": [file_digest(run.best_path)]}
    write_json(run.stress_path("test"), stress_result | digests)
    assert read_page(run).tags.count("svg") == len(FIGURES) + 1
    assert (run.folder / "stress.png").exists()


def test_page_needs_nothing_from_outside_and_is_the_same_each_time(run: Run) -> None:
    page = read_page(run)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    text = run.report_path.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import", text)
    settings = dict(matplotlib.rcParams)
    assert write_report(run).read_text(encoding="utf-8") == text
    assert dict(matplotlib.rcParams) == settings


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Run, Store]:
    """A run of twelve test images, each another picture, in a store of another order."""
    count = 12
    radiographs = Run(tmp_path)
    evaluate(radiographs, "test", count=count)
    for row in range(count):
        radiograph = np.random.default_rng(row).integers(0, 255, (200, 200), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{row}.png"), radiograph)
    table = pd.read_csv(radiographs.predictions_path("test"))
    table = table.assign(image=[f"{row}.png" for row in range(count)], split="test")
    columns = ["image_id", "image", "age_months", "sex", "split"]
    manifest = write_manifest(table[columns].iloc[::-1], tmp_path / "manifest.csv")
    store = prepare(manifest, Framing(size=200), workers=1, progress=False)
    recorded = {"folder": str(store.folder), "digest": store.digest}
    run = make_run(tmp_path / "run", store=recorded, history=0)
    return run, store


@pytest.mark.usefixtures("no_drawing")
def test_the_largest_errors_show_their_own_images_and_none_for_an_external_test(
    stored: tuple[Run, Store],
) -> None:
    run, store = stored
    evaluate(run, "test", count=12)
    page = read_page(run)
    assert page.tags.count("img") == 10
    assert "No images are shown" not in page.text
    assert run.report_path.stat().st_size < 3_000_000
    table = pd.read_csv(run.predictions_path("test"))
    error = (table["predicted_age_months"] - table["age_months"]).abs()
    worst = table.assign(error=error).sort_values("error", ascending=False)["image_id"].tolist()
    pngs = [url.partition("base64,")[2] for url in page.addresses if url.startswith("data:image")]
    for image_id, png in zip(worst[:10], pngs, strict=True):
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), -1)
        assert np.array_equal(decoded, store[store.image_ids.index(image_id)])
    for kind in ("predictions", "metrics"):
        (path,) = run.folder.glob(f"{kind}-test.*")
        path.rename(path.with_stem(f"{kind}-test-hospital-1a2b3c4d"))  # the same image ids
    page = read_page(run)
    assert "img" not in page.tags
    assert "may hold other images by these ids" in page.text


@pytest.mark.usefixtures("no_drawing")
def test_heat_maps_of_four_images_are_shown_if_asked_for(
    stored: tuple[Run, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mean:
        def predict(self, images: np.ndarray, gender: np.ndarray) -> Outputs:
            return Outputs(images.mean(axis=(1, 2)))

    monkeypatch.setattr("boneage.prediction.engines.load_engine", lambda _: Mean())
    run, _ = stored
    evaluate(run, "test", count=12)
    page = Page(write_report(run, explain=True).read_text(encoding="utf-8"))
    assert "Which places move the answer" in page.text
    assert page.tags.count("img") == 10 + 2 * 4
    assert page.text.count("full colours") == 4
    assert "Which places" not in read_page(run).text


def page_of(run: Run) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_drawing")
def test_a_page_with_radiographs_says_so_and_they_carry_pixels_only(
    stored: tuple[Run, Store],
) -> None:
    run, _ = stored
    evaluate(run, "test", count=12)
    page = read_page(run)
    assert "This page contains radiographs of patients." in page.text
    pngs = [url.partition("base64,")[2] for url in page.addresses if url.startswith("data:image")]
    for png in map(base64.b64decode, pngs):
        chunks, position = [], 8
        while position < len(png):  # a PNG is a signature, then length, kind, content, checksum
            chunks.append(png[position + 4 : position + 8])
            position += 12 + int.from_bytes(png[position : position + 4])
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
    alt = re.search(r'alt="Radiograph ([^"]*)"', page_of(run))
    assert alt is not None
    assert re.fullmatch(
        r"test\d+, (girl|boy): labelled [\d.]+ months \(\d+ y \d+ m\), "
        r"predicted [\d.]+ months \(\d+ y \d+ m\)",
        alt[1].replace("\xa0", " "),
    )


@pytest.mark.parametrize("home", ["/home/ann schmidt", "C:\\Users\\ann schmidt"])
@pytest.mark.usefixtures("no_drawing")
def test_no_folder_of_the_machine_is_named(tmp_path: Path, home: str) -> None:
    source = f"clinic, {home}/x.csv"
    run = make_run(
        tmp_path / "run",
        command=f"boneage train {home}/recipe.toml --data {home}/hospital.csv",
        manifest={"path": f"{home}/hospital.csv", "source": source, "digest": "d"},
        store={"folder": f"{home}/hospital.store", "digest": "x"},
        init={"name": "first", "folder": f"{home}/runs/first", "digest": "y"},
    )
    recipe = read_json(run.recipe_path)
    recipe["model"]["weights"] = f"{home}/weights.h5"
    write_json(run.recipe_path, recipe)
    evaluate(run, "test", manifest={"path": f"{home}/hospital.csv", "digest": "d"})
    page = page_of(run)
    assert "ann schmidt" not in page
    for words in ("small run on hospital.csv: 60 test images", "clinic, x.csv", "weights.h5"):
        assert words in page


@pytest.mark.usefixtures("no_drawing")
def test_a_biased_band_of_the_answer_is_a_sentence_that_can_be_read(run: Run) -> None:
    table = pd.read_csv(run.predictions_path("test"))
    answers = table["predicted_age_months"]
    is_band = answers.between(60, 120, inclusive="left")
    generator = np.random.default_rng(0)
    shift = np.where(is_band, 12.0, 0.0) + generator.normal(0, 1, len(table))
    table["age_months"] = answers - shift
    table = pd.concat([table] * 3).assign(image_id=lambda all_: [f"i{n}" for n in range(len(all_))])
    table.to_csv(run.predictions_path("test"), index=False)
    ages, predicted = table["age_months"], table["predicted_age_months"]
    metrics = score(ages, predicted, table["sex"].to_numpy(str), bootstrap=50)
    write_json(run.metrics_path("test"), metrics | {"split": "test"})
    bias = (predicted - ages)[predicted.between(60, 120, inclusive="left")]
    sentence = f"Answers 5 to 10 years: {bias.mean():.1f} months too old on average, "
    assert f"Answers to correct. {sentence}n = {len(bias)}." in read_page(run).text


def score_again(run: Run, table: pd.DataFrame, **more: Any) -> None:
    table.to_csv(run.predictions_path("test"), index=False)
    columns = (table["age_months"], table["predicted_age_months"], table["sex"].to_numpy(str))
    metrics = score(*columns, bootstrap=50, **more) | {"split": "test"}
    write_json(run.metrics_path("test"), metrics)


@pytest.mark.usefixtures("no_drawing")
def test_regression_dilution_is_no_bias_of_the_answers(run: Run) -> None:
    generator = np.random.default_rng(0)
    answers = generator.uniform(20, 210, 2000)
    table = pd.DataFrame({"image_id": [f"i{n}" for n in range(2000)], "sex": ["F", "M"] * 1000})
    table["age_months"] = (answers + generator.normal(0, 14, 2000)).clip(0, 240)
    score_again(run, table.assign(predicted_age_months=answers))
    text = read_page(run).text
    label = read_json(run.metrics_path("test"))["groups"]["age_band"]["0-60"]
    assert label["bias_months"]["low"] > 2
    assert "Answers to correct" not in text
    assert f"{label['dilution_bias_months']:+.1f}" in text
    assert "A slope of 1 means that answers need no correction" in text


@pytest.mark.usefixtures("no_drawing")
def test_further_groups_and_patients_are_on_the_page(run: Run) -> None:
    table = pd.read_csv(run.predictions_path("test"))
    members = np.arange(60) < 50
    by = {"machine <x>": {"old & slow": members, "new": ~members, "none": np.zeros(60, bool)}}
    score_again(run, table, by=by, patients=[f"p{n // 2}" for n in range(60)])
    text = read_page(run).text
    assert "Errors by machine <x>" in text
    assert "old & slow50" in text  # two cells
    assert "60 of 30 patients" in text
    assert "percentile bootstrap over patients" in text
    assert "Girls, under 5 years" in text


@pytest.mark.usefixtures("no_drawing")
def test_scores_of_an_earlier_version_are_shown(run: Run) -> None:
    metrics = read_json(run.metrics_path("test"))
    for key in ("calibration", "concordance"):
        del metrics[key]
    for kind in ("answer_band", "sex_age_band"):
        del metrics["groups"][kind]
    for part in (metrics, *(each for kind in metrics["groups"].values() for each in kind.values())):
        limits = part["limits_of_agreement_months"]
        part["limits_of_agreement_months"] = {end: limits[end] for end in ("low", "high")}
        for key in ("calibration", "concordance", "dilution_bias_months"):
            part.pop(key, None)
    write_json(run.metrics_path("test"), metrics)
    text = read_page(run).text
    assert "Errors by sex and age" in text
    assert "Bias by age" not in text


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("source", "split", "labels", "kinds"),
    [
        ("rsna-kaggle", "test", None, "single"),
        ("rsna-seeded-test", "test", None, "single"),
        ("rsna-official", "test", None, "consensus"),
        ("rsna-official", "val", None, "single"),
        ("table", "test", None, "consensus single"),
        ("table", "test", "mean of six readings", "consensus"),
        ("table", "test", "one reading", "single"),
    ],
)
def test_the_radiologists_to_compare_with_depend_on_the_kind_of_label(
    tmp_path: Path, source: str, split: str, labels: str | None, kinds: str
) -> None:
    run = make_run(tmp_path / "run", history=0, manifest={"source": source})
    if labels:
        published = Published(source="x", test_mae_months=5.0, test_labels=labels)
        recipe = Recipe(name="small", published=published)
        write_json(run.recipe_path, recipe.model_dump(mode="json"))
    evaluate(run, split)
    text = read_page(run).text
    assert ("one reader against the mean of the others" in text) == ("consensus" in kinds)
    assert ("one reader against another" in text) == ("single" in kinds)


def test_everything_on_a_page_can_be_read_on_a_telephone_and_heard(run: Run) -> None:
    page = page_of(run)
    screen = page.partition("@media print")[0]
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", screen)]
    assert min(sizes) >= 14
    assert page.count("<figure") == page.count("<figcaption>") == len(FIGURES)
    assert len(re.findall(r'<svg[^>]* role="img" aria-label="[^"]+"', page)) == len(FIGURES)
    for box, text in re.findall(r'viewBox="0 0 ([\d.]+) [^"]*"(.*?)</svg>', page, re.DOTALL):
        drawn = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", text)]
        assert drawn
        assert min(drawn) * 356 / float(box) >= 13.5  # the width of a figure at 420 pixels
    assert page.count("<table>") == page.count('<div class="scroll" role="region"')
    for colour, name in figures.CSS_COLOURS.items():
        assert not re.search(rf"(?<!, ){colour}", page.partition("</style>")[2]), name
        assert page.partition("</style>")[0].count(f"--{name}:") == 2  # light and dark


@pytest.mark.usefixtures("no_drawing")
def test_external_images_that_the_model_was_trained_on_are_counted(run: Run) -> None:
    name = "test-hospital-1a2b3c4d"
    evaluate(run, name, count=20, manifest={"external": True, "overlap": {"train": 7, "val": 2}})
    text = read_page(run).text
    assert "On 60 test images" in text  # the own test set comes first
    assert "Test images (external)" in text
    assert name in text
    assert f"Of the 20 images of {name}, 7 were used to train the model and 2 to select" in text
    found = {"external": True, "overlap": {"train": 7, "val": 2}}
    evaluate(run, f"val-{name}", count=20, split="val-test", manifest=found)
    assert read_page(run).text.count("Not independent.") == 1  # no second time, of both together
    run.metrics_path(f"val-{name}").unlink()
    for overlap in ({"train": 0, "val": 0}, None):
        evaluate(run, name, count=20, manifest={"external": True, "overlap": overlap})
        assert "Not independent." not in read_page(run).text


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(("count", "complete"), [(3, True), (0, False), (0, True), (3, None)])
def test_images_that_a_model_before_it_knew_by_their_ids_are_counted(
    run: Run, count: int, complete: bool | None
) -> None:
    known = {"at_most": count, "of": 20, "false_positives": 0.02}
    known |= (
        {} if complete is None else {"complete": complete}
    )  # an earlier version has no such key
    overlap = {"train": 0, "val": 0}
    name = "test-hospital-1a2b3c4d"
    origin = {"external": True, "overlap": overlap, "known_ids": known}
    evaluate(run, name, count=20, manifest=origin)
    text = read_page(run).text
    assert (f"at most {count} of the 20 images of {name} trained" in text) is bool(
        count or complete is False
    )
    assert ("a model that it started from are unknown." in text) is (complete is False)


def test_only_validation_and_no_history(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", history=0, best_epoch=None, store=None)
    evaluate(run, "val")
    page = read_page(run)
    assert "Validation, not test." in page.text
    assert "Learning curves" not in page.text
    assert "Other evaluations" not in page.text
    assert "records no store" in page.text
    assert not (run.folder / "learning-curves.png").exists()


def test_a_single_image_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", history=1)
    evaluate(run, "test", count=1)
    text = read_page(run).text
    assert "n = 1: the interval is wide" in text
    assert "On 1 test image, the predictions" in text


def test_both_limits_of_agreement_stand_inside_the_axes() -> None:
    ages, predicted = np.array([90.0, 140.0, 180.0, 200.0]), np.full(4, 110.0)
    sexes = np.array(["F", "M", "F", "M"])
    metrics = score(ages, predicted, sexes, bootstrap=9)
    table = pd.DataFrame({"age_months": ages, "predicted_age_months": predicted, "sex": sexes})
    low, high = figures.bland_altman(table, metrics).axes[0].get_ylim()
    limits = metrics["limits_of_agreement_months"]
    assert low < limits["low"] < limits["high"] < high


def test_thousands_of_points_become_a_picture_and_a_bad_model_is_called_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", history=0)
    baseline = {"median_by_sex": {"mae_months": {"value": 33.0}}}
    evaluate(run, "test", count=4000, error=60, baseline=baseline)
    assert "no better than predicting the median age" in read_page(run).text
    assert run.report_path.stat().st_size < 1_500_000


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("source", "present", "absent"),
    [
        ("rsna-kaggle", "Seeded split, not the official one.", "Drawn hands"),
        ("phantom", "Drawn hands, not radiographs.", "Radiologists"),
        ("rsna-official", "Radiologists", "Seeded split"),
        ("", "Radiologists", "Drawn hands"),  # whatever the recipe would have drawn
    ],
)
def test_says_what_the_number_is_worth(
    tmp_path: Path, source: str, present: str, absent: str
) -> None:
    run = make_run(tmp_path / "run", history=0, manifest={"source": source})
    recipe = Recipe(name="small", phantom=Phantom())
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    evaluate(run, "test")
    text = read_page(run).text
    assert present in text
    assert absent not in text


@pytest.mark.usefixtures("no_drawing")
def test_published_number_stands_beside_the_own(run: Run) -> None:
    published = Published(source="Kosik <2021>", test_mae_months=5.0)
    recipe = Recipe(name="small", published=published)
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    assert "Kosik <2021>" in read_page(run).text


def test_nothing_evaluated_and_scores_of_other_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(InputError, match="no split of this run was evaluated yet"):
        write_report(run)
    evaluate(run, "test", count=30)
    table = pd.read_csv(run.predictions_path("test"))
    table.iloc[:20].to_csv(run.predictions_path("test"), index=False)
    with pytest.raises(InputError, match="the scores don't match the predictions"):
        write_report(run)
    assert not run.report_path.exists()


@pytest.mark.parametrize("key", ["name", "manifest"])
def test_a_run_that_does_not_say_what_it_is_gets_no_report(tmp_path, key):
    run = make_run(tmp_path / "run")
    info = read_json(run.info_path)
    del info[key]
    write_json(run.info_path, info)
    with pytest.raises(InputError, match=f"the key '{key}' is missing"):
        write_report(run)
