"""Compare our MAE with a published one: the same images and labels, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from boneage.datasets.cells import missing_column
from boneage.datasets.importers.columns import find_column, radiograph_number
from boneage.datasets.importers.rsna import KAGGLE_SOURCE, SEEDED_SOURCE
from boneage.datasets.manifest import Manifest
from boneage.datasets.sex_codes import fold
from boneage.datasets.tables import read_sheet
from boneage.datasets.validation import expected_months, id_findings, numbers
from boneage.errors import Fault, InputError
from boneage.evaluation.comparison import describe_margin, judge_margin, refuse_different_labels
from boneage.evaluation.metrics import format_interval
from boneage.evaluation.paired import paired_difference
from boneage.evaluation.result import MIN_IMAGES
from boneage.evaluation.scoring import known_patients
from boneage.recipe import Published, Recipe

SPLIT_NAMES = {"val": "validation", "test": "test"}
TITLES = ("images", "n", "labels", "published", "ours", "difference", "verdict")

_ID_COLUMNS = ("image_id", "id", "case_id")
_AGE_COLUMNS = ("age_months", "boneage", "bone_age", "bone_age_months")
_ROUNDING_MONTHS = 0.01  # published with two decimals, and labels are rounded too


def read_answers(paths: Sequence[Path], published: Published) -> pd.DataFrame:
    """Read the published answers for single images.

    Args:
        paths: Tables with a column `image_id`, `id` or `case_id`, and the column
            `published.answers_column` or `predicted_age_months`. Labels of the images may be in
            `boneage` or `age_months`.
        published: The published result of the recipe.

    Returns:
        `image_id`, `answer` (months) and `age_months` (NaN where the table has none).

    Raises:
        InputError: A table can't be read, a column is missing, an answer is no number, or an image
            has two answers.
    """
    names = (fold(published.answers_column), "predicted_age_months")
    tables = []
    for path in paths:
        cells = read_sheet(path, key="id")
        columns = [find_column(cells, known) for known in (_ID_COLUMNS, names, _AGE_COLUMNS)]
        missing = [
            missing_column(cells, name).fault
            for name, column in zip(("image_id", published.answers_column), columns, strict=False)
            if column is None
        ]
        if missing:
            raise InputError(missing)
        key, answer, age = columns
        assert key is not None
        assert answer is not None
        months = numbers(cells, answer)
        ids = [radiograph_number(text) for text in cells.table[key]]
        findings = [
            *cells.using(columns).findings,
            *id_findings(cells, key, ids),
            *cells.row_findings(
                "bad-prediction", np.flatnonzero(np.isnan(months)), lambda _: "it has no answer",
                expected_months(cells, answer), "Correct it, or remove the row.",
            ),
        ]  # fmt: skip
        if findings:
            raise InputError([finding.fault for finding in findings])
        ages = numbers(cells, age or "")
        tables.append(pd.DataFrame({"image_id": ids, "answer": months, "age_months": ages}))
    answers = pd.concat(tables, ignore_index=True)
    if twice := answers["image_id"][answers["image_id"].duplicated()].tolist():
        where = ", ".join(map(str, paths))
        what = f"{len(twice):,} images have two answers: {', '.join(twice[:5])}"
        raise InputError(Fault(where, what, "Name each image once."))
    return answers


def select_answers(
    answers: pd.DataFrame, published: Published, manifest: Manifest
) -> dict[str, pd.DataFrame]:
    """Return the published answers for the images of each split that can be compared.

    If they cover all images of the published result, its MAE must come out of them.

    Args:
        answers: As `read_answers` returns them.
        published: The published result of the recipe.
        manifest: The images and their labels.

    Returns:
        By split: `image_id` and `answer`. A split with fewer than five answers is missing.

    Raises:
        InputError: Labels differ, or the published MAE does not come out.
    """
    selected, faults = dict[str, pd.DataFrame](), list[Fault]()
    for split, name in SPLIT_NAMES.items():
        stated = _read_published(published, split)
        rows = manifest.table[manifest.table["split"] == split]
        joined = rows.merge(answers, on="image_id", suffixes=("", "_published"))
        if stated is None or len(joined) < MIN_IMAGES or uses_training_images(split, manifest):
            continue
        labelled = joined[joined["age_months_published"].notna()]
        where = f"published answers, {name}"
        ids, label = labelled["image_id"], labelled["age_months"]
        faults += refuse_different_labels(where, ids, label, labelled["age_months_published"])
        mae = float((joined["answer"] - joined["age_months"]).abs().mean())
        if len(joined) == stated["n"] and abs(mae - stated["value"]) > _ROUNDING_MONTHS:
            what = f"their MAE on these {len(joined):,} images is {mae:.2f} months"
            fix = "Check the column: published.answers_column. Or the labels of the images differ."
            faults.append(Fault(where, what, fix, expected=f"{stated['value']:g} as published"))
        selected[split] = joined[["image_id", "answer"]]
    if faults:
        raise InputError(faults)
    return selected


def judge(predictions: pd.DataFrame, answers: pd.DataFrame) -> dict[str, Any]:
    """Judge by paired differences whether our error is not worse than the published one.

    Args:
        predictions: Ours, as `read_predictions` returns them.
        answers: `image_id` and `answer` of the same images.

    Returns:
        What `paired_difference` returns, ours minus published; `margin_months`, and `is_shown`:
        the difference is below the margin with 95 % confidence (one-sided).
    """
    joined = predictions.merge(answers, on="image_id")
    age = joined["age_months"]
    ours, theirs = (joined["predicted_age_months"] - age).abs(), (joined["answer"] - age).abs()
    found = paired_difference(ours, theirs, known_patients(joined))
    return found | judge_margin(found["one_sided_high"])


def compare(
    recipe: Recipe,
    manifest: Manifest,
    metrics: Mapping[str, Mapping[str, Any]],
    paired: Mapping[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return the published MAE and ours for validation and test.

    The verdict comes from the paired differences where the published answers are at hand. Otherwise
    it comes from two intervals, which is the weaker way: intervals of the same images may overlap
    although the errors differ.

    Args:
        recipe: A recipe with `published`.
        manifest: The data that our MAE is measured on.
        metrics: Scores by split, as `evaluate_run` returns them. A split may be missing.
        paired: By split, the answer of `judge`.

    Returns:
        For each split: `split`; `published` and `ours` (`value`, `low`, `high` in months, `n`, and
        `labels` of the published one, or None); `difference_months` (ours minus published);
        `paired`: the answer of `judge`, or None; `answers`: where the published answers are public,
        or None; `intervals_overlap` (None if unknown); `not_comparable`: the reason, or None.
    """
    rows = []
    for split in SPLIT_NAMES:
        published = _read_published(recipe.published, split)
        ours = _read_ours(split, manifest, metrics.get(split))
        judged = (paired or {}).get(split)
        reason = None if published is None else _find_obstacle(split, published, manifest)
        if judged is not None:  # on the common images, which are the same
            reason = None
        row: dict[str, Any] = {
            "split": split,
            "published": published,
            "ours": ours,
            "difference_months": None,
            "paired": judged,
            "answers": getattr(recipe.published, f"{split}_answers", None),
            "intervals_overlap": None,
            "not_comparable": reason,
        }
        if published and ours and ours["value"] is not None and not reason:
            difference = ours["value"] - published["value"]
            row["difference_months"] = judged["value"] if judged else difference
            if ours["low"] is not None and published["low"] is not None:
                row["intervals_overlap"] = (
                    ours["low"] <= published["high"] and published["low"] <= ours["high"]
                )
        if published or ours:
            rows.append(row)
    return rows


def table_cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of the comparison table, below `TITLES`."""
    return [_cells(row) for row in rows]


def explain_rows(rows: list[dict[str, Any]]) -> list[str]:
    """Return how each row was judged, or why it can't be, and a note on our validation error."""
    reasons = [f"{SPLIT_NAMES[row['split']]}: {text}" for row in rows if (text := _explain(row))]
    if any(row["split"] == "val" and row["ours"] for row in rows):
        reasons.append("validation: these images also chose our epoch, so our error is too low.")
    return reasons


def _explain(row: dict[str, Any]) -> str:
    paired = row["paired"]
    if row["not_comparable"]:
        return f"not comparable: {row['not_comparable']}."
    if row["difference_months"] is None:
        return ""
    if paired is None:
        address = row["answers"]
        return (
            "judged by two intervals, which is the weaker way. Intervals of the same images may "
            "overlap although one error is larger, and may pass an error that is well above. The "
            "paired comparison needs the published answers, "
            + (
                f"which are at {address}. Then repeat the command with --published-answers FILE."
                if address
                else "which are not known to be public."
            )
        )
    high = paired["one_sided_high"]
    start = f"judged by paired differences on {paired['n']:,} images."
    return start if high is None else f"{start} {describe_margin(high, paired)}"


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return the page of a reproduction: the table, the data, the training and the versions."""
    made_by, data = document["provenance"], document["data"]
    counts = ", ".join(f"{data['counts'][split]:,} {split}" for split in data["counts"])
    commit = (made_by.get("commit") or "unknown")[:12]
    if made_by.get("uncommitted_changes"):
        commit += " with changes"
    changed = ", ".join(f"`{setting}`" for setting in document["changed"])
    facts = [
        f"Published: {document['source']}.",
        f"Ours: `{document['recipe']}`, seed {document['seed']}, one network; commit {commit}, "
        f"boneage {made_by['boneage']}, keras {made_by['versions'].get('keras', 'unknown')}, "
        f"{made_by['device']}.",
        f"Data: {data['source']} ({counts}; manifest {data['digest'][:12]}).",
        f"Training: {document['epochs']} epochs, best epoch {document['best_epoch']}, "
        f"{document['seconds']['fit'] / 3600:.2f} hours.",
        f"Settings that differ from the recipe: {changed or 'none'}.",
        *document["notes"],
        *explain_rows(document["rows"]),
    ]
    table = [TITLES, ["---"] * len(TITLES), *table_cells(document["rows"])]
    return "\n".join(
        [
            f"# {document['recipe']}: published and ours",
            "",
            "MAE in months with its 95 % interval. The difference is ours minus published.",
            "",
            *(f"| {' | '.join(line)} |" for line in table),
            "",
            *(f"- {fact}" for fact in facts),
            "",
        ]
    )


def uses_training_images(split: str, manifest: Manifest) -> bool:
    """Return whether images of the challenge's training set were held out as this split."""
    if "source" not in manifest.table:
        return False
    sources = manifest.table["source"][manifest.table["split"] == split].astype(str)
    return bool(((sources == KAGGLE_SOURCE) | sources.str.startswith(SEEDED_SOURCE)).any())


def _read_published(published: Published | None, split: str) -> dict[str, Any] | None:
    values = {} if published is None else published.model_dump()
    if values.get(f"{split}_mae_months") is None:
        return None
    low, high = values[f"{split}_interval_months"] or (None, None)
    return {
        "value": values[f"{split}_mae_months"],
        "low": low,
        "high": high,
        "n": values[f"{split}_images"],
        "labels": values[f"{split}_labels"],
    }


def _read_ours(
    split: str, manifest: Manifest, metrics: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    count = int((manifest.table["split"] == split).sum())
    mae = {} if metrics is None else metrics["mae_months"]
    return (
        {**{key: mae.get(key) for key in ("value", "low", "high")}, "n": count} if count else None
    )


def _find_obstacle(split: str, published: dict[str, Any], manifest: Manifest) -> str | None:
    """Return why our images are not the published ones, or None if they may be."""
    count, name = int((manifest.table["split"] == split).sum()), SPLIT_NAMES[split]
    if not count:
        return f"this data has no {name} set"
    if uses_training_images(split, manifest):
        return (
            f"these {name} images were held out from the challenge's training images, whose labels "
            f"are single readings. The published error was measured on the official {name} set"
        )
    if published["n"] not in (None, count):
        return f"{count:,} {name} images here, {published['n']:,} in the published result"
    return None


def _cells(row: dict[str, Any]) -> list[str]:
    published, ours = row["published"], row["ours"]
    difference = row["difference_months"]
    counts = [f"{part['n']:,}" for part in (published, ours) if part and part["n"]]
    return [
        SPLIT_NAMES[row["split"]],
        " / ".join(dict.fromkeys(counts)) or "?",  # published / ours
        (published or {}).get("labels") or "?",
        _format_mae(published),
        _format_mae(ours),
        "-" if difference is None else _format_difference(difference, row["paired"]),
        _describe_verdict(row),
    ]


def _format_difference(difference: float, paired: dict[str, Any] | None) -> str:
    interval = format_interval(paired, "+.2f") if paired else ""
    return f"{difference:+.2f} {interval}".rstrip()


def _describe_verdict(row: dict[str, Any]) -> str:
    if row["published"] is None:
        return "nothing published"
    if row["not_comparable"]:
        return "not comparable"
    if row["paired"] and row["difference_months"] is not None:
        return f"{'' if row['paired']['is_shown'] else 'not '}shown to be non-inferior"
    words = {True: "intervals overlap", False: "intervals do not overlap", None: "-"}
    return words[row["intervals_overlap"]]


def _format_mae(part: dict[str, Any] | None) -> str:
    if part is None or part["value"] is None:
        return "-"
    value = f"{part['value']:.2f}"
    if round(part["value"], 3) == part["value"]:  # some are published with three decimals
        value = f"{part['value']:.3f}".removesuffix("0")
    return f"{value} {format_interval(part)}".rstrip()
