"""A published error beside our own: both with n, interval and kind of labels, or why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boneage.datasets.importers.rsna import KAGGLE_SOURCE, SEEDED_SOURCE
from boneage.datasets.manifest import Manifest
from boneage.recipe import Published, Recipe

SPLITS = {"val": "validation", "test": "test"}
_HEADER = ("images", "n", "labels", "published", "ours", "difference", "intervals overlap")
_CUT_LABELS = "one reading"  # what the challenge's training images have


def compare(
    recipe: Recipe, manifest: Manifest, metrics: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Sets published MAEs beside ours, for validation and test.

    Intervals that overlap don't prove two errors alike, and both are of the same images; one that
    doesn't tells that something differs.

    Args:
        recipe: With its `published`.
        manifest: What ours are measured on: tells whether that is the published set.
        metrics: By split, as `evaluate_run` gives them; nothing for what was not evaluated.

    Returns:
        For each split: `split`, `published` and `ours` (`value`, `low`, `high` in months, `n`,
        `labels`; None where there is none), `difference_months` (ours less published),
        `intervals_overlap`, `published_in_our_interval` (both None where there is no telling) and
        `not_comparable`: why the two can't be compared, None where they can.
    """
    rows = []
    for split in SPLITS:
        published = _published(recipe.published, split)
        ours = _ours(recipe.published, split, manifest, metrics.get(split))
        if published is None and ours is None:
            continue
        rows.append({"split": split, **_row(split, published, ours, manifest)})
    return rows


def as_text(rows: list[dict[str, Any]]) -> str:
    """The table for a terminal, and below it why a row can't be compared."""
    cells = [list(_HEADER), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([*lines, *_reasons(rows)])


def as_markdown(document: Mapping[str, Any]) -> str:
    """The page of a reproduction: table, what was run on what, and what else is to be known."""
    made_by, data = document["provenance"], document["data"]
    counts = ", ".join(f"{data['counts'][split]:,} {split}" for split in data["counts"])
    commit = (made_by["commit"] or "unknown")[:12]
    changed = ", ".join(f"`{setting}`" for setting in document["changed"])
    facts = [
        f"Published: {document['source']}.",
        f"Ours: `{document['recipe']}`, seed {document['seed']}, one network; commit {commit}"
        f"{' with changes' if made_by['uncommitted_changes'] else ''}, "
        f"boneage {made_by['boneage']}, keras {made_by['versions'].get('keras', 'unknown')}, "
        f"{made_by['device']}.",
        f"Data: {data['source']} ({counts}; manifest {data['digest'][:12]}).",
        f"Training: {document['epochs']} epochs, the best was {document['best_epoch']}; "
        f"{document['seconds']['fit'] / 3600:.2f} hours.",
        f"Not the recipe as it stands: {changed}." if changed else "The recipe as it stands.",
        *document["notes"],
        *_reasons(document["rows"]),
    ]
    table = [_HEADER, ["---"] * len(_HEADER), *(_cells(row) for row in document["rows"])]
    return "\n".join(
        [
            f"# {document['recipe']}: published and ours",
            "",
            "MAE in months with its 95 % interval. Overlapping intervals don't prove two errors "
            "alike; intervals apart tell that something differs.",
            "",
            *(f"| {' | '.join(line)} |" for line in table),
            "",
            *(f"- {fact}" for fact in facts),
            "",
        ]
    )


def _row(
    split: str, published: dict[str, Any] | None, ours: dict[str, Any] | None, manifest: Manifest
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "published": published,
        "ours": ours,
        "difference_months": None,
        "intervals_overlap": None,
        "published_in_our_interval": None,
        "not_comparable": None if published is None else _obstacle(split, published, manifest),
    }
    if published is None or ours is None or ours["value"] is None or row["not_comparable"]:
        return row
    row["difference_months"] = ours["value"] - published["value"]
    if ours["low"] is not None:
        row["published_in_our_interval"] = ours["low"] <= published["value"] <= ours["high"]
        if published["low"] is not None:
            row["intervals_overlap"] = (
                ours["low"] <= published["high"] and published["low"] <= ours["high"]
            )
    return row


def _published(published: Published | None, split: str) -> dict[str, Any] | None:
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


def _ours(
    published: Published | None, split: str, manifest: Manifest, metrics: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    count = int((manifest.table["split"] == split).sum())
    if not count:
        return None
    mae = {"value": None, "low": None, "high": None} if metrics is None else metrics["mae_months"]
    theirs = None if published is None else published.model_dump()[f"{split}_labels"]
    labels = _CUT_LABELS if _is_cut(split, manifest) else theirs
    return {**{key: mae[key] for key in ("value", "low", "high")}, "n": count, "labels": labels}


def _obstacle(split: str, published: dict[str, Any], manifest: Manifest) -> str | None:
    count = int((manifest.table["split"] == split).sum())
    if not count:
        return f"there is no {SPLITS[split]} set here"
    if _is_cut(split, manifest):
        return (
            f"these {SPLITS[split]} images were cut from the challenge's training images, whose "
            f"labels are single readings; the published error is of its own {SPLITS[split]} set"
        )
    if published["n"] not in (None, count):
        return f"{count:,} {SPLITS[split]} images here, {published['n']:,} there"
    return None


def _is_cut(split: str, manifest: Manifest) -> bool:
    """Whether training images of the challenge stand in for this split."""
    if "source" not in manifest.table:
        return False
    sources = manifest.table["source"][manifest.table["split"] == split].astype(str)
    return bool(((sources == KAGGLE_SOURCE) | sources.str.startswith(SEEDED_SOURCE)).any())


def _cells(row: dict[str, Any]) -> list[str]:
    published, ours = row["published"], row["ours"]
    difference = row["difference_months"]
    both = [part for part in (published, ours) if part is not None]
    return [
        SPLITS[row["split"]],
        _agreed([f"{part['n']:,}" if part["n"] else "?" for part in both]),
        _agreed([part["labels"] or "?" for part in both]),
        _mae(published),
        _mae(ours),
        "-" if difference is None else f"{difference:+.2f}",
        _overlap(row),
    ]


def _agreed(words: list[str]) -> str:
    known = [word for word in words if word != "?"]
    if len(set(known)) <= 1:
        return known[0] if known else "?"
    return f"{known[0]} / {known[1]}"  # published / ours


def _overlap(row: dict[str, Any]) -> str:
    if row["published"] is None:
        return "nothing published"
    if row["not_comparable"]:
        return "not comparable"
    if row["intervals_overlap"] is not None:
        return "yes" if row["intervals_overlap"] else "no"
    inside = row["published_in_our_interval"]
    if inside is None:
        return "-"
    return f"none published; it is {'in' if inside else 'outside'} ours"


def _mae(part: dict[str, Any] | None) -> str:
    if part is None or part["value"] is None:
        return "-"
    value = f"{part['value']:.2f}"
    if round(part["value"], 3) == part["value"]:  # some are published with three decimals
        value = f"{part['value']:.3f}".removesuffix("0")
    interval = "" if part["low"] is None else f" [{part['low']:.2f}, {part['high']:.2f}]"
    return f"{value}{interval}"


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{SPLITS[row['split']]}: not comparable: {row['not_comparable']}."
        for row in rows
        if row["not_comparable"]
    ]
