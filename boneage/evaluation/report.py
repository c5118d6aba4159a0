"""Write the report of a finished run: report.html and its figures."""

from __future__ import annotations

import base64
import re
from collections.abc import Hashable, Mapping, Sequence
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
from boneage.evaluation.html import Rows, amount_and_direction, fact_blocks, render
from boneage.evaluation.metrics import BAND_WORDS, FEW, coverage_rows, group_words, is_few
from boneage.evaluation.records import read_history, read_metrics
from boneage.evaluation.result import file_name, is_absolute, name_sources, without_folder
from boneage.evaluation.scoring import read_predictions
from boneage.evaluation.stress import find_stress
from boneage.pipeline.store import Store, open_store
from boneage.recipe import Recipe
from boneage.run import Run
from boneage.runtime.files import write_text

WORST_CASES = 10
CONSENSUS, SINGLE = "consensus", "single"
READERS = {
    CONSENSUS: (7.3, "one reader against the mean of the others, 7.3 months; for consensus labels"),
    SINGLE: (9.5, "one reader against another, 9 to 10 months; for labels of one reading"),
}
"""Error of radiologists, months, by kind of label; on other images.

One reader differs from the mean of the others by 0.61 years on average (Larson 2018). Of
independent readers, two differ by √2/√(1 + 1/k) times as much, where k others are averaged: 8.9
months for k = 3, 10.3 for many.
"""
SPLIT_WORDS = {
    "train": "training",
    "val": "validation",
    "test": "test",
    "val-test": "validation and test",
}
ALT_TEXT = {
    "predicted-vs-true": "Predicted against labelled bone age, one point for each image",
    "bland-altman": "Difference against mean of predicted and labelled age (Bland-Altman)",
    "bias-by-band": "Bias by band of the answer and of the label, and by dilution alone",
    "error-by-group": "Mean absolute error and bias by sex and by age band, with intervals",
    "learning-curves": "Training and validation error by epoch, and the learning rate",
    "stress": "Difference of the mean absolute error by change of the radiographs, with gates",
}
# Without them the page would not say what was trained on what.
_NEEDED_INFO = ("name", "manifest")
_THUMBNAIL_PIXELS = 256
# What of run.json is shown. The page is handed on, so it names no folder and no command.
_RUN_FACTS = (
    *("name", "seed", "started", "stopped", "epochs", "best_epoch", "best_val_mae_months"),
    *("devices", "seconds", "provenance", "model"),
)
_DATA_FACTS = {
    "manifest": ("digest", "counts"),
    "store": ("digest", "version"),
    "init": ("name", "digest", "known_ids", "known_ids_by_chance"),
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
        kinds = {"views": self.metrics.get("views", 1), "phases": self.metrics.get("phases", 1)}
        kinds["runs"] = len(self.metrics.get("members") or [1])
        parts = [f"{count} {kind}" for kind, count in kinds.items() if count > 1]
        averaged = f", mean of {', '.join(parts)}" if parts else ""
        return f"{SPLIT_WORDS.get(self.split, self.split)} images{external}{averaged}"

    @property
    def counted(self) -> str:
        """The number of images in words, such as `60 test images`."""
        words = self.words if self.metrics["n"] != 1 else self.words.replace("images", "image")
        return f"{self.metrics['n']:,} {words}"

    @property
    def dataset(self) -> str:
        """The name of the manifest's file, or "" if the evaluation does not record it."""
        manifest = self.metrics.get("manifest") or {}
        return file_name(str(manifest.get("file") or manifest.get("path") or ""))

    def source(self, trained_on: Mapping[str, Any]) -> str:
        """Return where the images are from, or "" if that is unknown.

        Args:
            trained_on: What `run.json` records of the manifest. Older evaluations record none.
        """
        own = {} if self.is_external else trained_on
        manifest = self.metrics.get("manifest") or {}
        return name_sources(str(manifest.get("source") or own.get("source") or ""))

    @property
    def baseline_months(self) -> float | None:
        """MAE of the median age of each sex, if the evaluation recorded it."""
        value = self.metrics.get("baseline", {}).get("median_by_sex", {}).get("mae_months")
        return value.get("value") if isinstance(value, Mapping) else value

    def overlaps(self) -> list[tuple[str, int, Mapping[str, Any] | None]]:
        """Return name, n and the number of images that the model was trained or selected on.

        The numbers are None if they are unknown. Those by id have the key `at_most`. Without any
        such image, the answer is empty.
        """
        tested_on = self.metrics.get("manifest") or {}
        counts, known = tested_on.get("overlap", {}), tested_on.get("known_ids")
        found: list[Mapping[str, Any] | None] = []
        if self.is_external and counts is None and not known:
            found.append(None)
        if any((counts or {}).values()):
            found.append({"train": 0, "val": 0} | counts)
        if known and (known["at_most"] or not known.get("complete", True)):
            found.append(known)
        return [(self.name, self.metrics["n"], each) for each in found]


def write_report(run: Run, *, explain: bool = False) -> Path:
    """Write `report.html` and its figures as PNG into a run folder.

    The pictures of the largest errors come from the store that the run records; the page says so
    if the store is gone. Everything else comes from the files of the run folder.

    Args:
        run: A run with at least one evaluation, or a folder that `evaluate --out` wrote.
        explain: Whether to show heat maps of four images, which takes the model half a minute.

    Returns:
        The path of the page. The page needs no network and no other file.

    Raises:
        InputError: Nothing was evaluated yet, or predictions and scores don't match.
    """
    info, recipe = run.read_info(_NEEDED_INFO), run.read_recipe()
    evaluations = read_evaluations(run)
    shown = evaluations[0]
    worst = _by_error(shown)[:WORST_CASES]
    shown_ids = [file_name(each) if is_absolute(each) else each for each in worst["image_id"]]
    store, missing = _find_store(shown, info.get("store") or {})
    images = {} if store is None else _case_images(store, worst["image_id"].tolist())
    if store is not None and len(images) < len(worst):
        missing = "Some images are not in the run's store."
    all_groups = {**shown.metrics["groups"], **(shown.metrics.get("by") or {})}
    groups = [group for kind in all_groups.values() for group in kind.values()]
    manifest, made_by = info["manifest"], info.get("provenance") or {}
    others = {evaluation.name: evaluation.metrics for evaluation in evaluations[1:]}
    source = shown.source(manifest)
    name = str(info.get("name") or recipe.name)
    counted = shown.counted
    stress = find_stress(run)
    html = render(
        "report.html",
        kind="Bone age model report",
        title=f"{name} on {shown.dataset}: {counted}" if shown.dataset else f"{name}: {counted}",
        info=dict.fromkeys(_RUN_FACTS) | info,
        recipe=recipe,
        counts=manifest.get("counts") or {},
        source=source,
        is_phantom=source == "phantom",
        device=re.sub(r"\((R|TM)\)", "", str(made_by.get("device") or "")),
        split_words=SPLIT_WORDS,
        shown=shown,
        others=evaluations[1:],
        counted=counted,
        baseline=shown.baseline_months,
        validation=others.get("val", {}).get("mae_months"),
        overlaps=[
            found
            for evaluation in evaluations
            if evaluation.split != "val-test"  # says it once
            for found in evaluation.overlaps()
        ],
        group_rows=_group_rows(shown.metrics),
        band_rows=_band_rows(shown.metrics),
        by_rows={
            title: [(name, group) for name, group in members.items() if group["n"]]
            for title, members in (shown.metrics.get("by") or {}).items()
        },
        biased_bands=_biased_bands(shown.metrics),
        coverage_rows=coverage_rows(shown.metrics),
        random_splits=others.get("val-test", shown.metrics).get("interval_splits"),
        bars=_bars(shown, recipe, source),
        svgs=_write_figures(run, shown, info.get("best_epoch"), stress),
        stress=stress,
        enough=FEW,
        has_few=any(group["n"] and is_few(group) for group in groups),
        worst=worst.assign(shown_id=shown_ids).to_dict("records"),
        images=images,
        missing=missing,
        explain=explain,
        heat_maps=_heat_maps(run, shown, store) if explain and store is not None else [],
        recipe_facts=_recipe_facts(recipe),
        run_facts=fact_blocks("Run", _shareable(info)),
    )
    write_text(run.report_path, html)
    return run.report_path


def _recipe_facts(recipe: Recipe) -> list[tuple[str, Rows]]:
    values = without_folder(recipe.model_dump(mode="json", exclude_none=True))
    return fact_blocks("Recipe", values)


def _shareable(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `run.json` may be handed on: names and digests, but no path of the machine."""
    facts = {key: info[key] for key in _RUN_FACTS if key in info}
    if info.get("resumed"):
        facts["resumed"] = f"{len(info['resumed'])} times"
    for member in info.get("members") or ():
        values = {key: member.get(key) for key in ("digest", "seed", "manifest")}
        changed = ", ".join(member.get("changed") or ()) or None
        facts[f"run {member['name']}"] = {**values, "changed settings": changed}
    for key, kept in _DATA_FACTS.items():
        recorded = info.get(key) or {}
        facts[key] = {name: recorded[name] for name in kept if recorded.get(name) is not None}
    manifest = info["manifest"]
    named = {"file": file_name(str(manifest.get("path") or "")) or None}
    sources = {"source": name_sources(str(manifest.get("source") or "")) or None}
    facts["manifest"] = named | facts["manifest"] | sources
    return facts


def read_evaluations(run: Run) -> list[Evaluation]:
    """Read every evaluation of a run: test, validation, training, then external tests.

    Raises:
        InputError: There is none, or predictions and scores don't match.
    """
    names = {path.stem.removeprefix("metrics-") for path in run.folder.glob("metrics-*.json")}
    order = [name for name in ("test", "val", "train", "val-test") if name in names]
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
    metrics = read_metrics(run.metrics_path(name))
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


def _write_figures(
    run: Run, shown: Evaluation, best_epoch: int | None, stress: Mapping[str, Any] | None
) -> dict[str, Markup]:
    """Write the figures as PNG, and return them as SVG by name; "" without what they draw."""
    history = read_history(run.history_path)
    drawn = {
        "predicted-vs-true": figures.predicted_vs_true(shown.table, shown.metrics),
        "bland-altman": figures.bland_altman(shown.table, shown.metrics),
        "error-by-group": figures.error_by_group(shown.metrics),
    }
    if "answer_band" in shown.metrics["groups"]:
        drawn["bias-by-band"] = figures.bias_by_band(shown.metrics)
    if history is not None:
        drawn["learning-curves"] = figures.learning_curves(history, best_epoch)
    if stress is not None:
        drawn["stress"] = figures.mae_by_change(stress["changes"])
    svgs = dict.fromkeys(ALT_TEXT, Markup())
    for name, figure in drawn.items():
        figures.save_png(figure, run.folder / f"{name}.png")
        svgs[name] = figures.as_svg(figure, ALT_TEXT[name], name)
    return svgs


def _by_error(shown: Evaluation) -> pd.DataFrame:
    """Return the table with the column `error_months`, the largest errors first."""
    error = shown.table["predicted_age_months"] - shown.table["age_months"]
    order = error.abs().sort_values(ascending=False, kind="stable").index
    return shown.table.assign(error_months=error).loc[order]


def _find_store(shown: Evaluation, recorded: Mapping[str, Any]) -> tuple[Store | None, str]:
    """Return the store that a run recorded, or None and a sentence that says why it has no use."""
    if shown.is_external:
        return None, "No images are shown: the run's own store may hold other images by these ids."
    folder = recorded.get("folder")
    if not folder:
        return None, "No images are shown: this run records no store."
    try:
        store = open_store(Path(folder))
    except InputError:
        return None, "No images are shown: the store of the run is gone or damaged."
    if store.differs_from(recorded):
        return None, "No images are shown: the store has changed since the run."
    return store, ""


def _case_images(store: Store, image_ids: Sequence[str]) -> dict[str, str]:
    """Return PNGs as base64 by image id, of the images that the store has."""
    rows = {image_id: row for row, image_id in enumerate(store.image_ids)}
    return {image_id: _png(store[rows[image_id]]) for image_id in image_ids if image_id in rows}


def _heat_maps(run: Run, shown: Evaluation, store: Store) -> list[dict[Hashable, Any]]:
    """Explain two answers of median error, and the two with the largest.

    Returns:
        For each image in the store: the row of the table, the images as base64, and the months at
        which the colours are full.
    """
    from boneage.prediction.engines import load_engine
    from boneage.prediction.explanation import occlude
    from boneage.prediction.explanation_picture import colour_limit, overlay

    rows = {image_id: row for row, image_id in enumerate(store.image_ids)}
    ordered = _by_error(shown)
    middle = len(ordered) // 2
    chosen = pd.concat([ordered[middle : middle + 2], ordered[:2]]).drop_duplicates("image_id")
    engine = load_engine(run)
    found = chosen[chosen["image_id"].isin(rows)].to_dict("records")
    for case in found:
        image = store[rows[case["image_id"]]]
        heat = occlude(engine, image, float(case["sex"] == "M"))
        limit = colour_limit(heat)
        case |= {
            "image": _png(image),
            "overlay": _png(overlay(image, heat, limit)[..., ::-1]),
            "limit": limit,
        }
    return found


def _png(image: NDArray[np.uint8]) -> str:
    if max(image.shape) > _THUMBNAIL_PIXELS:
        size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, encoded = cv2.imencode(".png", image)
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def _label_kinds(shown: Evaluation, recipe: Recipe, source: str) -> tuple[str, ...]:
    """Return what kinds of label the images may have: `consensus`, `single`, or both if unknown.

    The challenge's test labels are the mean of six readings, its other labels are single readings.
    Of other sources, the recipe may say it of the published result.
    """
    names = set(source.split(", "))
    if names == {"rsna-official"}:
        return {"test": (CONSENSUS,), "val-test": (CONSENSUS, SINGLE)}.get(shown.split, (SINGLE,))
    if all(name.startswith(("rsna-kaggle", "rsna-seeded")) for name in names):
        return (SINGLE,)
    published = recipe.published
    if published is not None and not shown.is_external:
        labels = {"test": published.test_labels, "val": published.val_labels}.get(shown.split) or ""
        if re.search(r"\b(mean|median|consensus)\b", labels):
            return (CONSENSUS,)
        if re.search(r"\b(one|single)\b", labels):
            return (SINGLE,)
    return (CONSENSUS, SINGLE)


def _bars(shown: Evaluation, recipe: Recipe, source: str) -> list[dict[str, Any]]:
    """Return the bars of the headline: the model, then the errors to compare with it.

    Each has `name`, `remark`, `months`, and `width`, `low` and `high` in percent of the largest.
    """
    mae = shown.metrics["mae_months"]
    rows = [("This model", shown.counted, mae["value"])]
    published = recipe.published
    if published is not None and not shown.is_external:
        values = {"test": published.test_mae_months, "val": published.val_mae_months}
        if (value := values.get(shown.split)) is not None:
            rows.append(("Published", published.source, value))
    if source != "phantom":
        rows += [
            ("Radiologists", f"{remark}; on other images, Larson 2018", months)
            for months, remark in map(READERS.__getitem__, _label_kinds(shown, recipe, source))
        ]
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


def _group_rows(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of the table of groups, without empty groups."""
    rows = [(label, group) for label, group, *_ in figures.all_sexes_and_ages(metrics)]
    for name, group in metrics["groups"].get("sex_age_band", {}).items():
        rows.append((group_words("sex_age_band", name).capitalize(), group))
    return [(label, group) for label, group in rows if group["n"]]


def _band_rows(metrics: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return a row for each age band: the answers in it, and the labels in it."""
    groups = metrics["groups"]
    return [
        (words.capitalize(), groups["answer_band"][band], groups["age_band"][band])
        for band, words in BAND_WORDS.items()
        if "answer_band" in groups
    ]


def _biased_bands(metrics: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each band of the answer with a bias of two months or more.

    A bias that may be chance is left out. A bias by band of the label is no fault of the answers:
    regression dilution makes it.
    """
    sentences = []
    for band, words in BAND_WORDS.items():
        group = metrics["groups"].get("answer_band", {}).get(band, {"n": 0})
        bias = group.get("bias_months")
        is_sure = not is_few(group) and ((bias["low"] or 0.0) > 0 or (bias["high"] or 0.0) < 0)
        if is_sure and abs(bias["value"]) >= 2:
            sentences.append(
                f"Answers {words}: {amount_and_direction(bias['value'])} on average, "
                f"n = {group['n']:,}."
            )
    return sentences
