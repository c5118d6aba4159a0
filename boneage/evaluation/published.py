"""Compare our MAE with a published one: the same images and labels, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boneage.datasets.importers.rsna import KAGGLE_SOURCE, SEEDED_SOURCE
from boneage.datasets.manifest import Manifest
from boneage.evaluation.metrics import format_interval
from boneage.recipe import Published, Recipe

SPLIT_NAMES = {"val": "validation", "test": "test"}
TITLES = ("images", "n", "labels", "published", "ours", "difference", "intervals overlap")


def compare(
    recipe: Recipe, manifest: Manifest, metrics: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the published MAE and ours for validation and test.

    Overlapping intervals do not prove that two errors are equal. Intervals that do not overlap
    show that something differs.

    Args:
        recipe: A recipe with `published`.
        manifest: The data that our MAE is measured on.
        metrics: Scores by split, as `evaluate_run` returns them. A split may be missing.

    Returns:
        For each split: `split`; `published` and `ours` (`value`, `low`, `high` in months, `n`, and
        `labels` of the published one, or None); `difference_months` (ours minus published);
        `intervals_overlap` (None if unknown); `not_comparable`: the reason, or None.
    """
    rows = []
    for split in SPLIT_NAMES:
        published = _read_published(recipe.published, split)
        ours = _read_ours(split, manifest, metrics.get(split))
        reason = None if published is None else _find_obstacle(split, published, manifest)
        row: dict[str, Any] = {
            "split": split,
            "published": published,
            "ours": ours,
            "difference_months": None,
            "intervals_overlap": None,
            "not_comparable": reason,
        }
        if published and ours and ours["value"] is not None and not reason:
            row["difference_months"] = ours["value"] - published["value"]
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
    """Return one sentence for each row that can't be compared, and for our validation error."""
    reasons = [
        f"{SPLIT_NAMES[row['split']]}: not comparable: {row['not_comparable']}."
        for row in rows
        if row["not_comparable"]
    ]
    if any(row["split"] == "val" and row["ours"] for row in rows):
        reasons.append("validation: these images also chose our epoch, so our error is too low.")
    return reasons


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
            "MAE in months with its 95 % interval. Overlapping intervals do not prove that two",
            "errors are equal. Intervals that do not overlap show that something differs.",
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
        "-" if difference is None else f"{difference:+.2f}",
        _describe_overlap(row),
    ]


def _describe_overlap(row: dict[str, Any]) -> str:
    if row["published"] is None:
        return "nothing published"
    if row["not_comparable"]:
        return "not comparable"
    return {True: "yes", False: "no", None: "-"}[row["intervals_overlap"]]


def _format_mae(part: dict[str, Any] | None) -> str:
    if part is None or part["value"] is None:
        return "-"
    value = f"{part['value']:.2f}"
    if round(part["value"], 3) == part["value"]:  # some are published with three decimals
        value = f"{part['value']:.3f}".removesuffix("0")
    return f"{value} {format_interval(part)}".rstrip()
