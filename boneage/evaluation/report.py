"""One finished run told on one page, for whoever has two minutes: report.html and its figures."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from boneage.errors import Fault, InputError
from boneage.evaluation import figures
from boneage.evaluation import html as page
from boneage.evaluation.scoring import read_predictions
from boneage.recipe import Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_text

WORST_CASES = 10
READER_MAE_MONTHS = 7.3  # 0.61 years, one reader against the mean of the others, Larson 2018
_BAND_WORDS = {
    "0-60": "children under 5 years",
    "60-120": "those of 5 to 10",
    "120-180": "those of 10 to 15",
    "180+": "those of 15 and over",
}
SPLIT_WORDS = {"test": "test", "val": "validation", "train": "training"}


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of a run left behind.

    Attributes:
        name: What its files are called by: a split, or more for an external test.
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
        """Whether these are images of another manifest than the run's own."""
        manifest = self.metrics.get("manifest") or {}
        return bool(manifest.get("external", self.name != self.split))

    @property
    def words(self) -> str:
        """Says which images these are."""
        external = " (external)" if self.is_external else ""
        views = self.metrics.get("views", 1)
        looked = f", mean of {views} views" if views > 1 else ""
        return f"{SPLIT_WORDS.get(self.split, self.split)} images{external}{looked}"


def write_report(run: Run) -> Path:
    """Writes `report.html` and its four figures as PNG into a run folder.

    Everything comes from the files of the run folder, except the pictures of the worst cases,
    which come from the store that the run records; where that is gone the page says so.

    Args:
        run: A run that `boneage evaluate` has scored on at least one split.

    Returns:
        The path of the page. It needs no network and no other file.

    Raises:
        InputError: Nothing was evaluated yet, or predictions and scores don't belong together.
    """
    info, recipe = run.read_info(), run.read_recipe()
    evaluations = read_evaluations(run)
    shown = evaluations[0]
    history = _read_history(run)
    drawn = {
        "predicted-vs-true": figures.predicted_vs_true(shown.table),
        "bland-altman": figures.bland_altman(shown.table, shown.metrics),
        "error-by-group": figures.error_by_group(shown.metrics),
    }
    if history is not None:
        drawn["learning-curves"] = figures.learning_curves(history, info.get("best_epoch"))
    for name, figure in drawn.items():
        figures.save_png(figure, run.folder / f"{name}.png")
    svgs = {name: figures.as_svg(drawn[name], page.ALT_TEXT[name], name) for name in drawn}

    worst = _worst(shown)
    if shown.is_external:
        images: dict[str, str] = {}
        missing = (
            "There are no pictures: the run's own store may hold other images by the same ids."
        )
    else:
        images, missing = page.case_images(info.get("store") or {}, worst["image_id"].tolist())
    sections = [
        page.agreement_section(svgs, shown.words, shown.metrics),
        page.group_section(svgs, shown.words, shown.metrics),
        page.evaluations_section(
            [(other.words, other.name, other.metrics) for other in evaluations[1:]]
        ),
        page.curves_section(svgs, info),
        page.worst_section(worst, images, missing, shown.words),
        page.facts_section(recipe.model_dump(mode="json", exclude_none=True), info),
    ]
    template = importlib.resources.files("boneage.evaluation") / "report_template.html"
    html = Template(template.read_text(encoding="utf-8")).substitute(
        kind="Bone age model report",
        title=escape(str(info.get("name") or recipe.name)),
        subtitle=escape(_subtitle(info, recipe)),
        verdict=escape(_verdict(shown)),
        hero=page.hero(shown.metrics, shown.words, _comparisons(shown, recipe, info)),
        tiles=page.tiles(_tiles(evaluations, info)),
        notes=page.notes(_notes(evaluations, info)),
        sections="\n".join(section for section in sections if section),
        footer=escape(_footer(info)),
    )
    write_text(run.report_path, html)
    return run.report_path


def read_evaluations(run: Run) -> list[Evaluation]:
    """Reads every evaluation of a run: test first, then validation, training, external ones.

    Raises:
        InputError: There is none, or predictions and scores don't belong together.
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
                expected="a metrics-<split>.json beside its predictions-<split>.csv",
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
                f"says {metrics.get('n')} images and MAE {scored}, while "
                f"{run.predictions_path(name).name} holds {len(table)} and {found:.3f}",
                f"Run boneage evaluate {run.folder} again.",
                expected="scores of those very predictions",
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


def _worst(shown: Evaluation) -> pd.DataFrame:
    error = shown.table["predicted_age_months"] - shown.table["age_months"]
    order = error.abs().sort_values(ascending=False, kind="stable").index[:WORST_CASES]
    return shown.table.assign(error_months=error).loc[order]


def _verdict(shown: Evaluation) -> str:
    mae = shown.metrics["mae_months"]
    of_what = f"{shown.metrics['n']:,} {shown.words}"
    answer = f"On {of_what} the model is off by {mae['value']:.1f} months on average"
    if mae["low"] is not None:
        answer += f" (95 % confidence interval {mae['low']:.1f} to {mae['high']:.1f})"
    share = shown.metrics["within_12_months"]["value"]
    answer += f" and within a year of the label for {100 * share:.0f} % of them."
    baseline = _baseline(shown.metrics)
    if baseline is None:
        return answer
    if mae["value"] >= baseline:
        return (
            f"{answer} That is no better than guessing the median age of each sex without "
            f"looking at the image ({baseline:.1f} months)."
        )
    return (
        f"{answer} Guessing the median age of each sex, without an image, is off by "
        f"{baseline:.1f} months: {baseline / mae['value']:.1f} times as much."
    )


def _baseline(metrics: Mapping[str, Any]) -> float | None:
    value = metrics.get("baseline", {}).get("median_by_sex", {}).get("mae_months")
    return value.get("value") if isinstance(value, Mapping) else value


def _comparisons(
    shown: Evaluation, recipe: Recipe, info: Mapping[str, Any]
) -> list[tuple[str, str, float]]:
    """What the model's error stands beside: name, remark, MAE in months."""
    rows = []
    published = recipe.published
    if published is not None and not shown.is_external:
        values = {"test": published.test_mae_months, "val": published.val_mae_months}
        value = values.get(shown.split)
        if value is not None:
            rows.append(("Published", published.source, value))
    if not _is_phantom(info):
        remark = "one against the mean of the others, on other images; Larson 2018"
        rows.append(("Radiologists", remark, READER_MAE_MONTHS))
    baseline = _baseline(shown.metrics)
    if baseline is not None:
        rows.append(("Guessing", "the median age of each sex, no image", baseline))
    return rows


def _tiles(evaluations: list[Evaluation], info: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    shown = evaluations[0]
    metrics = shown.metrics
    limits, bias = metrics["limits_of_agreement_months"], metrics["bias_months"]
    shares = [f"{100 * metrics[f'within_{m}_months']['value']:.0f} %" for m in (6, 12, 24)]
    rmse, median = metrics["rmse_months"], metrics["median_absolute_error_months"]
    tiles = [
        ("Bias", f"{figures.signed(bias['value'])} mo", page.interval(bias, figures.signed)),
        ("Within 6 / 12 / 24 months", " / ".join(shares), "share of images"),
        ("RMSE", f"{rmse['value']:.1f} mo", page.interval(rmse)),
        ("Median absolute error", f"{median['value']:.1f} mo", page.interval(median)),
    ]
    if limits["low"] is not None:
        span = f"{figures.signed(limits['low'])} to {figures.signed(limits['high'])}"
        tiles.insert(1, ("95 % limits of agreement", span, "months, Bland & Altman 1986"))
    validation = next((e.metrics["mae_months"] for e in evaluations if e.name == "val"), None)
    if shown.name != "val" and validation is not None:
        value = f"{validation['value']:.2f} mo"
        tiles.append(("Validation MAE", value, page.interval(validation)))
    elif shown.name != "val" and info.get("best_val_mae_months") is not None:
        value = f"{info['best_val_mae_months']:.2f} mo"
        tiles.append(("Validation MAE", value, f"epoch {info.get('best_epoch')}"))
    if parameters := (info.get("model") or {}).get("parameters"):
        tiles.append(("Model size", f"{parameters / 1e6:.2f} million", "parameters"))
    if seconds := (info.get("seconds") or {}).get("fit"):
        device = re.sub(r"\((R|TM)\)", "", str((info.get("provenance") or {}).get("device") or ""))
        tiles.append(("Training time", page.duration(seconds), f"on {device}" if device else ""))
    return tiles


def _notes(evaluations: list[Evaluation], info: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = evaluations[0]
    notes = [note for evaluation in evaluations for note in _overlap_notes(evaluation)]
    if _is_phantom(info):
        notes.append(
            (
                "Drawn hands, not radiographs.",
                "This run shows that the machinery works. It says nothing about patients.",
            )
        )
    elif _is_seeded(info):
        notes.append(
            (
                "Seeded split, not the official one.",
                "Published numbers on the official split can't be put beside this one directly.",
            )
        )
    if shown.split == "val":
        notes.append(
            (
                "Validation, not test.",
                "These images also chose which epoch to keep, so new ones will go a little worse.",
            )
        )
    elif shown.split == "train":
        notes.append(("Training images.", "The model has seen these: this is no test of it."))
    if shown.metrics["n"] < 100:
        notes.append(("Few images.", f"With {shown.metrics['n']} the interval is wide."))
    if leaning := _leaning_bands(shown.metrics):
        notes.append(("Leans with age.", leaning))
    if info.get("stopped") == "interrupted":
        notes.append(("Interrupted.", "The training was stopped by hand; the best epoch was kept."))
    return notes


def _overlap_notes(evaluation: Evaluation) -> list[tuple[str, str]]:
    tested_on = evaluation.metrics.get("manifest", {})
    if evaluation.is_external and tested_on.get("overlap", {}) is None:
        text = "Which images the model was trained on is not known here; any of them may be among "
        return [("Perhaps not independent.", f"{text}those of {evaluation.name}.")]
    overlap = tested_on.get("overlap") or {}
    seen, chosen = overlap.get("train", 0), overlap.get("val", 0)
    if not seen + chosen:
        return []
    text = (
        f"Of the {evaluation.metrics['n']:,} images of {evaluation.name} the model was trained on "
        f"{seen:,} and chosen by {chosen:,}: its error there is no test on new images."
    )
    return [("Not independent.", text)]


def _leaning_bands(metrics: Mapping[str, Any]) -> str:
    """Says in which age bands the model reads too old or too young, if that is certain enough."""
    parts = []
    for band, label in _BAND_WORDS.items():
        group = metrics["groups"]["age_band"][band]
        bias = group["bias_months"]
        sure = group["n"] >= figures.FEW and (bias["low"] > 0 or bias["high"] < 0)
        if sure and abs(bias["value"]) >= 2:
            direction = "old" if bias["value"] > 0 else "young"
            parts.append(f"{label} {abs(bias['value']):.1f} months too {direction}")
    return f"On average it reads {', '.join(parts)}." if parts else ""


def _is_phantom(info: Mapping[str, Any]) -> bool:
    return (info.get("manifest") or {}).get("source") == "phantom"


def _is_seeded(info: Mapping[str, Any]) -> bool:
    source = str((info.get("manifest") or {}).get("source") or "").lower()
    return "seeded" in source or "kaggle" in source  # Kaggle ships the training images only


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


def _footer(info: Mapping[str, Any]) -> str:
    version = (info.get("provenance") or {}).get("boneage")
    made = f"Made by boneage {version}. " if version else ""
    text = (
        f"{made}For research: not a medical device. Intervals: 95 % percentile bootstrap over "
        "images. Limits of agreement: Bland JM, Altman DG. Lancet 1986;327:307–310. Reader error: "
        "Larson DB et al. Radiology 2018;287:313–322."
    )
    return re.sub(r"\s+", " ", text)
