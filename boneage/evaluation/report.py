"""Write the report of a finished run: report.html and its figures."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from boneage.errors import Fault, InputError
from boneage.evaluation import figures
from boneage.evaluation.html import duration, fact_blocks, interval, render, signed
from boneage.evaluation.metrics import format_interval
from boneage.evaluation.scoring import read_predictions
from boneage.pipeline.store import open_store
from boneage.recipe import Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_text

WORST_CASES = 10
READER_MAE_MONTHS = 7.3  # 0.61 years, one reader against the mean of the others, Larson 2018
SPLIT_WORDS = {"test": "test", "val": "validation", "train": "training"}
ALT_TEXT = {
    "predicted-vs-true": "Predicted against labelled bone age, one point for each image",
    "bland-altman": "Difference against mean of predicted and labelled age (Bland-Altman)",
    "error-by-group": "Mean absolute error and bias by sex and by age band, with intervals",
    "learning-curves": "Training and validation error by epoch, and the learning rate",
}
_THUMBNAIL_PIXELS = 256
_FEW_IMAGES = 100
_BAND_WORDS = {
    "0-60": "children under 5 years",
    "60-120": "children of 5 to 10 years",
    "120-180": "children of 10 to 15 years",
    "180+": "children of 15 years and over",
}


@dataclass(frozen=True)
class Evaluation:
    """The files of one evaluation of a run.

    Attributes:
        name: The part of their names after `metrics-`: a split, or more for an external test.
        split: `train`, `val` or `test`.
        metrics: `metrics-<name>.json`.
        table: `predictions-<name>.csv`.
    """

    name: str
    split: str
    metrics: Mapping[str, Any]
    table: pd.DataFrame

    @property
    def is_external(self) -> bool:
        """Whether the images are of another manifest than the run's own."""
        manifest = self.metrics.get("manifest") or {}
        return bool(manifest.get("external", self.name != self.split))

    @property
    def words(self) -> str:
        """The images in words, such as `test images (external)`."""
        external = " (external)" if self.is_external else ""
        views = self.metrics.get("views", 1)
        averaged = f", mean of {views} views" if views > 1 else ""
        return f"{SPLIT_WORDS.get(self.split, self.split)} images{external}{averaged}"

    @property
    def baseline_months(self) -> float | None:
        """MAE of the median age of each sex, if the evaluation recorded it."""
        value = self.metrics.get("baseline", {}).get("median_by_sex", {}).get("mae_months")
        return value.get("value") if isinstance(value, Mapping) else value


def write_report(run: Run) -> Path:
    """Write `report.html` and its four figures as PNG into a run folder.

    The pictures of the largest errors come from the store that the run records; the page says so
    if the store is gone. Everything else comes from the files of the run folder.

    Args:
        run: A run with at least one evaluation, or a folder that `evaluate --out` wrote.

    Returns:
        The path of the page. The page needs no network and no other file.

    Raises:
        InputError: Nothing was evaluated yet, or predictions and scores don't match.
    """
    info, recipe = run.read_info(), run.read_recipe()
    evaluations = read_evaluations(run)
    shown, others = evaluations[0], evaluations[1:]
    worst = _largest_errors(shown)
    images, missing = _case_images(shown, info.get("store") or {}, worst["image_id"].tolist())
    groups = [group for kind in shown.metrics["groups"].values() for group in kind.values()]
    html = render(
        "report.html",
        kind="Bone age model report",
        title=str(info.get("name") or recipe.name),
        subtitle=_subtitle(info, recipe),
        verdict=_verdict(shown),
        tiles=_tiles(evaluations, info),
        notes=_notes(evaluations, info),
        shown=shown,
        others=others,
        counted=f"{shown.metrics['n']:,} {shown.words}",
        bars=_bars(shown, recipe, info),
        svgs=_write_figures(run, shown, info.get("best_epoch")),
        few=figures.FEW if any(0 < group["n"] < figures.FEW for group in groups) else None,
        worst=worst.to_dict("records"),
        images=images,
        missing=missing,
        recipe_facts=fact_blocks("Recipe", recipe.model_dump(mode="json", exclude_none=True)),
        run_facts=fact_blocks("Run", info),
        version=(info.get("provenance") or {}).get("boneage"),
    )
    write_text(run.report_path, html)
    return run.report_path


def read_evaluations(run: Run) -> list[Evaluation]:
    """Read every evaluation of a run: test, validation, training, then external tests.

    Raises:
        InputError: There is none, or predictions and scores don't match.
    """
    names = {path.stem.removeprefix("metrics-") for path in run.folder.glob("metrics-*.json")}
    order = [name for name in ("test", "val", "train") if name in names]
    evaluations = [_read_evaluation(run, name) for name in [*order, *sorted(names - set(order))]]
    if not evaluations:
        raise InputError(
            Fault(
                str(run.folder),
                "no split of this run was evaluated yet",
                f"Run: boneage evaluate {run.folder} --split test.",
            )
        )
    return evaluations


def _read_evaluation(run: Run, name: str) -> Evaluation:
    metrics = read_json(run.metrics_path(name))
    table = read_predictions(run.predictions_path(name), own=True)
    found = float((table["predicted_age_months"] - table["age_months"]).abs().mean())
    scored = metrics.get("mae_months", {}).get("value")
    if metrics.get("n") != len(table) or scored is None or abs(scored - found) > 0.005:
        raise InputError(
            Fault(
                str(run.metrics_path(name)),
                f"the scores don't match the predictions: {metrics.get('n')} images and MAE "
                f"{scored} here, {len(table)} images and {found:.3f} in "
                f"{run.predictions_path(name).name}",
                f"Run boneage evaluate {run.folder} again.",
            )
        )
    return Evaluation(name, str(metrics.get("split", name)), metrics, table)


def _read_history(run: Run) -> pd.DataFrame | None:
    try:
        history = pd.read_csv(run.history_path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return None
    has_errors = {"mae", "val_mae"} & set(history.columns)
    if history.empty or "epoch" not in history or not has_errors:
        return None
    # Keras' CSVLogger counts from 0, everything else in a run from 1
    return history.assign(epoch=history["epoch"] + 1 - history["epoch"].min())


def _write_figures(run: Run, shown: Evaluation, best_epoch: int | None) -> dict[str, Markup]:
    """Write the figures as PNG, and return them as SVG by name; "" without a history."""
    history = _read_history(run)
    drawn = {
        "predicted-vs-true": figures.predicted_vs_true(shown.table),
        "bland-altman": figures.bland_altman(shown.table, shown.metrics),
        "error-by-group": figures.error_by_group(shown.metrics),
    }
    if history is not None:
        drawn["learning-curves"] = figures.learning_curves(history, best_epoch)
    svgs = dict.fromkeys(ALT_TEXT, Markup())
    for name, figure in drawn.items():
        figures.save_png(figure, run.folder / f"{name}.png")
        svgs[name] = figures.as_svg(figure, ALT_TEXT[name], name)
    return svgs


def _largest_errors(shown: Evaluation) -> pd.DataFrame:
    error = shown.table["predicted_age_months"] - shown.table["age_months"]
    order = error.abs().sort_values(ascending=False, kind="stable").index[:WORST_CASES]
    return shown.table.assign(error_months=error).loc[order]


def _case_images(
    shown: Evaluation, recorded: Mapping[str, Any], image_ids: Sequence[str]
) -> tuple[dict[str, str], str]:
    """Read images from the store that a run recorded.

    Returns:
        PNGs as base64 by image id, and a sentence that says why images are missing, or "".
    """
    if shown.is_external:
        return {}, "No images are shown: the run's own store may hold other images by these ids."
    folder = recorded.get("folder")
    if not folder:
        return {}, "No images are shown: this run records no store."
    try:
        store = open_store(Path(folder))
    except InputError:
        return {}, f"No images are shown: the store {folder} is gone or damaged."
    if store.differs_from(recorded):
        return {}, f"No images are shown: the store {folder} has changed since the run."
    rows = {image_id: row for row, image_id in enumerate(store.image_ids)}
    found = {image_id: _png(store[rows[image_id]]) for image_id in image_ids if image_id in rows}
    return found, "" if len(found) == len(image_ids) else "Some images are not in the run's store."


def _png(image: NDArray[np.uint8]) -> str:
    if max(image.shape) > _THUMBNAIL_PIXELS:
        size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, encoded = cv2.imencode(".png", image)
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def _verdict(shown: Evaluation) -> str:
    mae, baseline = shown.metrics["mae_months"], shown.baseline_months
    interval_text = format_interval(mae, ".1f").replace(" ", "\N{NO-BREAK SPACE}")
    within = f" (95 % confidence interval {interval_text})" if interval_text else ""
    sentences = [
        f"On {shown.metrics['n']:,} {shown.words}, the mean absolute error is "
        f"{mae['value']:.1f} months{within}.",
        f"{100 * shown.metrics['within_12_months']['value']:.0f} % of the predictions are within "
        "a year of the label.",
    ]
    if baseline is not None and mae["value"] >= baseline:
        sentences.append(
            "This is no better than predicting the median age of each sex without the image "
            f"({baseline:.1f} months)."
        )
    elif baseline is not None:
        sentences.append(
            "Predicting the median age of each sex without the image has an error of "
            f"{baseline:.1f} months, {baseline / mae['value']:.1f} times as much."
        )
    return " ".join(sentences)


def _bars(shown: Evaluation, recipe: Recipe, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the bars of the headline: the model, then the errors to compare with it.

    Each has `name`, `remark`, `months`, and `width`, `low` and `high` in percent of the largest.
    """
    mae = shown.metrics["mae_months"]
    rows = [("This model", f"{shown.metrics['n']:,} {shown.words}", mae["value"])]
    published = recipe.published
    if published is not None and not shown.is_external:
        values = {"test": published.test_mae_months, "val": published.val_mae_months}
        if (value := values.get(shown.split)) is not None:
            rows.append(("Published", published.source, value))
    if not _is_phantom(info):
        remark = "one reader against the mean of the others, on other images; Larson 2018"
        rows.append(("Radiologists", remark, READER_MAE_MONTHS))
    if shown.baseline_months is not None:
        remark = "the median age of each sex, without the image"
        rows.append(("Baseline", remark, shown.baseline_months))
    scale = 100 / max(mae["high"] or 0.0, *(value for _, _, value in rows), 1e-9)
    bars = [
        {"name": name, "remark": remark, "months": value, "width": scale * value}
        | {"low": None, "high": None}
        for name, remark, value in rows
    ]
    if mae["low"] is not None:
        bars[0] |= {"low": scale * mae["low"], "high": scale * mae["high"]}
    return bars


def _tiles(evaluations: list[Evaluation], info: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shown = evaluations[0]
    metrics = shown.metrics
    limits, bias = metrics["limits_of_agreement_months"], metrics["bias_months"]
    shares = [f"{100 * metrics[f'within_{m}_months']['value']:.0f} %" for m in (6, 12, 24)]
    rmse, median = metrics["rmse_months"], metrics["median_absolute_error_months"]
    tiles = [
        ("Bias", f"{signed(bias['value'])} mo", interval(bias, "+.1f")),
        ("Within 6 / 12 / 24 months", " / ".join(shares), "share of images"),
        ("RMSE", f"{rmse['value']:.1f} mo", interval(rmse)),
        ("Median absolute error", f"{median['value']:.1f} mo", interval(median)),
    ]
    if limits["low"] is not None:
        span = f"{signed(limits['low'])} to {signed(limits['high'])}"
        tiles.insert(1, ("95 % limits of agreement", span, "months, Bland & Altman 1986"))
    validation = next((e.metrics["mae_months"] for e in evaluations if e.name == "val"), None)
    if shown.name != "val" and validation is not None:
        tiles.append(("Validation MAE", f"{validation['value']:.2f} mo", interval(validation)))
    elif shown.name != "val" and info.get("best_val_mae_months") is not None:
        value = f"{info['best_val_mae_months']:.2f} mo"
        tiles.append(("Validation MAE", value, f"epoch {info.get('best_epoch')}"))
    if parameters := (info.get("model") or {}).get("parameters"):
        tiles.append(("Model size", f"{parameters / 1e6:.2f} million", "parameters"))
    if seconds := (info.get("seconds") or {}).get("fit"):
        device = re.sub(r"\((R|TM)\)", "", str((info.get("provenance") or {}).get("device") or ""))
        tiles.append(("Training time", duration(seconds), f"on {device}" if device else ""))
    return tiles


def _notes(evaluations: list[Evaluation], info: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = evaluations[0]
    notes = [note for evaluation in evaluations for note in _overlap_notes(evaluation)]
    if _is_phantom(info):
        text = "The run shows that the software works. It says nothing about patients."
        notes.append(("Drawn hands, not radiographs.", text))
    elif _is_seeded(info):
        text = "Published errors on the official split are not directly comparable."
        notes.append(("Seeded split, not the official one.", text))
    if shown.split == "val":
        text = "These images also selected the epoch. Expect a slightly higher error on new images."
        notes.append(("Validation, not test.", text))
    elif shown.split == "train":
        notes.append(("Training images.", "The model was trained on them, so this is not a test."))
    if shown.metrics["n"] < _FEW_IMAGES:
        notes.append(("Few images.", f"n = {shown.metrics['n']}: the interval is wide."))
    if biased := _biased_bands(shown.metrics):
        notes.append(("Bias by age.", biased))
    if info.get("stopped") == "interrupted":
        text = "The user stopped the training. The best epoch until then was kept."
        notes.append(("Interrupted.", text))
    return notes


def _overlap_notes(evaluation: Evaluation) -> list[tuple[str, str]]:
    tested_on = evaluation.metrics.get("manifest", {})
    if evaluation.is_external and tested_on.get("overlap", {}) is None:
        text = "The model's training images are unknown. Some of them may be among the images of "
        return [("Possibly not independent.", f"{text}{evaluation.name}.")]
    overlap = tested_on.get("overlap") or {}
    trained, selected = overlap.get("train", 0), overlap.get("val", 0)
    if not trained + selected:
        return []
    text = (
        f"Of the {evaluation.metrics['n']:,} images of {evaluation.name}, {trained:,} were used "
        f"to train the model and {selected:,} to select its epoch. Its error on them is too low."
    )
    return [("Not independent.", text)]


def _biased_bands(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the age bands with a bias of two months that is not chance, or ""."""
    parts = []
    for band, label in _BAND_WORDS.items():
        group = metrics["groups"]["age_band"][band]
        bias = group["bias_months"]
        is_sure = group["n"] >= figures.FEW and (bias["low"] > 0 or bias["high"] < 0)
        if is_sure and abs(bias["value"]) >= 2:
            direction = "high" if bias["value"] > 0 else "low"
            parts.append(f"{abs(bias['value']):.1f} months too {direction} for {label}")
    return f"Predictions are on average {', '.join(parts)}." if parts else ""


def _is_phantom(info: Mapping[str, Any]) -> bool:
    return (info.get("manifest") or {}).get("source") == "phantom"


def _is_seeded(info: Mapping[str, Any]) -> bool:
    source = str((info.get("manifest") or {}).get("source") or "").lower()
    return "seeded" in source or "kaggle" in source  # Kaggle has the training images only


def _subtitle(info: Mapping[str, Any], recipe: Recipe) -> str:
    counts = (info.get("manifest") or {}).get("counts") or {}
    parts = [f"{recipe.model.backbone} at {recipe.framing.size} px"]
    parts.append("image and sex" if recipe.model.gender else "image only, without sex")
    if counts:
        split = [f"{int(counts[k]):,} {SPLIT_WORDS[k]}" for k in SPLIT_WORDS if k in counts]
        parts.append(" / ".join(reversed(split)) + " images")
    if started := info.get("started"):
        parts.append(str(started)[:10])
    return " · ".join(parts)
