"""Write the model card of a released model."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from boneage.evaluation.html import render
from boneage.evaluation.known_ids import KnownIds
from boneage.evaluation.metrics import BAND_WORDS, coverage_rows
from boneage.prediction.shipped import shipped_models
from boneage.run import Run
from boneage.runtime.provenance import file_digest

LARGER = "-large"
"""End of the name of a source that has larger radiographs of the children of another source."""

_RSNA = (
    "The training data are {radiographs} of the RSNA Pediatric Bone Age Challenge 2017 (Halabi SS, "
    "Prevedello LM, Kalpathy-Cramer J, et al. *The RSNA Pediatric Bone Age Machine Learning "
    "Challenge*. Radiology 2019;290:498-503). Their terms allow non-commercial research. No "
    "radiograph and no table of single images is included."
)
_SEEDED = (
    " The split is a seeded one, not the official one. The labels are single clinical readings. "
    "The scores below are therefore not comparable with published ones on the challenge's 200 test "
    "radiographs, whose labels are the mean of six readings."
)
_DATASETS = {
    "rsna-kaggle": f"{_RSNA} They are Kaggle's copy, which has the challenge's training "
    f"radiographs only.{_SEEDED}",
    "rsna-seeded": f"{_RSNA}{_SEEDED}",
    "rsna-official": f"{_RSNA} The split is the official one.",
    "phantom": "The training data are {radiographs} that were drawn by software. The scores say "
    "nothing about patients.",
}
"""What is known of the sources that manifests name."""

_GROUPS = (
    ("girls", "sex", "F"),
    ("boys", "sex", "M"),
    *((words, "age_band", band) for band, words in BAND_WORDS.items()),
)
_SPLITS = (("test", "test"), ("val", "validation"))
_TOGETHER = ("val-test", "validation and test")
_CLAIM = (
    ("1-4", "kind of model, purpose", "first paragraph, Intended use and limits"),
    ("5-6", "study design and goal", "retrospective; a model to share and repeat"),
    ("7-8", "sources and selection of the data", "Training data; the manifest's data card"),
    ("9-10", "preparation and crop of the images", "`framing` of `recipe.json`"),
    ("11, 13", "de-identification, acquisition", "not stated; see the dataset's publication"),
    ("12", "missing data", "none filled in; `data check` reports such rows"),
    ("14, 16-18", "reference standard, readers", "Training data, Intended use and limits"),
    ("15", "why this reference standard", "it is the dataset's"),
    ("19-20", "splits and their level", "Training data; `data check` compares patients and images"),
    ("21", "sample size", "not planned; Accuracy: n and interval of each number"),
    ("22-24", "network, software, first weights", "first paragraph, `recipe.json`, Facts"),
    ("25-27", "training, choice, ensemble", "Training data, Notes, Train it again"),
    ("28-29", "metrics, uncertainty", "Accuracy, Prediction intervals"),
    ("30", "robustness", "{stress}"),
    ("31", "explanation", "heat maps of `predict --explain`; see `experiments/README.md`"),
    ("32, 37-38", "internal test", "Accuracy: test alone; Answers by age"),
    ("33", "external test", "not done; `boneage evaluate` does it with your manifest"),
    ("34", "registration", "none; no clinical trial"),
    ("35-36", "numbers and groups of cases", "Training data, Accuracy"),
    ("39", "failures", "`boneage report` shows the largest errors of your radiographs"),
    ("40-41", "limits and use", "Intended use and limits"),
    ("42-43", "protocol, code, weights, data", "Train it again, Facts"),
    ("44", "funding", "not stated"),
)
"""Items of CLAIM 2024, what they ask for, and where this card has it."""
_LINE_LENGTH = 100


def model_card(
    result: Mapping[str, Any],
    release: Mapping[str, Any],
    digest: str,
    size: int,
    stress: Mapping[str, Any] | None = None,
    known_ids: KnownIds | None = None,
    *,
    refuses: bool = False,
) -> str:
    """Return the card of a released model.

    Args:
        result: `result.json`, with the scores of the model as released.
        release: `release.json`.
        digest: sha256 of the model file.
        size: Bytes of the model file.
        stress: What changes of the radiographs cost, as `boneage stress` writes it.
        known_ids: The ids that `known_ids.json` holds.
        refuses: Whether the release has a `familiarity.npz`.

    Returns:
        Markdown, the content of the release's README.md.
    """
    manifest, recipe = result["manifest"], result["recipe"]
    made = {"commit": "unknown", "uncommitted_changes": None, **result["provenance"]}
    counts, init = manifest["counts"], result.get("init")
    parent = _shipped_parent(init, release["name"]) if init else None
    alone = [
        (words, metrics, _rows(metrics))
        for split, words in _SPLITS
        if "mae_months" in (metrics := result["metrics"].get(split, {}))
    ]
    together = result["metrics"].get(_TOGETHER[0], {})
    scored = [(_TOGETHER[1], together, _rows(together))] if "mae_months" in together else alone
    where = "Changed radiographs" if stress else "not measured; `boneage stress` does it"
    text = render(
        "model_card.md",
        name=release["name"],
        is_rsna=manifest["source"].startswith("rsna-"),
        model=recipe["model"],
        framing=recipe["framing"],
        prediction={"views": 1, "phases": 1, **recipe.get("prediction", {})},
        parameters=result["model"]["parameters"],
        size=size,
        digest=digest,
        start=_start(recipe["model"]["weights"], init, parent),
        dataset=_dataset(manifest["source"], counts.get("train", 0), release.get("larger")),
        note=release["note"],
        counted=[(counts[split], words) for split, words in _SPLITS if counts.get(split)],
        has_test=bool(counts.get("test")),
        scorings=result.get("test_scorings"),
        scores=scored,
        alone=[] if scored is alone else alone,
        bands=_bands(scored[0][1]) if scored else [],
        tested=(tested := result["metrics"].get("test", {})),
        coverage_rows=coverage_rows(tested) if "groups" in tested else [],
        random_splits=together.get("interval_splits"),
        stress=stress,
        split_words={**dict(_SPLITS), **dict([_TOGETHER]), "train": "training"},
        known_ids=known_ids,
        refuses=refuses,
        claim=[(item, asked, text.format(stress=where)) for item, asked, text in _CLAIM],
        init=init,
        parent=parent,
        minutes=(result.get("seconds", {}).get("fit") or 0) / 60,
        made=made,
        seed=result["seed"],
        release=release,
        recipe_name=result["name"],
        best_epoch=result.get("best_epoch"),
        epochs=result.get("epochs"),
        started=result["started"][:10],
        manifest_digest=manifest["digest"],
        split_digest=manifest.get("split_digest"),
        versions=", ".join(f"{name} {version}" for name, version in made["versions"].items()),
    )
    return wrap_markdown(text)


def _start(weights: str, init: Mapping[str, Any] | None, parent: str | None) -> str:
    if parent:
        return f"the shipped model `{parent}`"
    if init:
        return f"the model of another run, `{init['name']}`"
    known = {"none": "random weights", "imagenet": "ImageNet weights"}
    return known.get(weights, f"the weights in {weights}")


def _shipped_parent(init: Mapping[str, Any], name: str) -> str | None:
    """Return the name of the shipped model that a model of some name started from, if it did.

    A run records the name of its parent's recipe, so several models may have it.
    """
    agreeing = [
        each
        for each, folder in shipped_models().items()
        if each != name and file_digest(Run(folder).best_path) == init["digest"]
    ]
    return min(agreeing, key=lambda each: each != init["name"], default=None)


def _dataset(source: str, count: int, larger: Mapping[str, int] | None) -> str:
    """Return what the training radiographs are.

    Args:
        source: The sources of the manifest. `NAME-large` has larger radiographs of those of NAME.
        count: Number of training radiographs.
        larger: How many of them are `thumbnails`, and larger `radiographs` of the same children.
    """
    pieces = source.split(", ")
    first = [
        each
        for each in pieces
        if not (each.endswith(LARGER) and each.removesuffix(LARGER) in pieces)
    ]
    sources, radiographs = ", ".join(first), f"{count:,} hand radiographs"
    if larger:
        radiographs = f"{larger['thumbnails']:,} thumbnails and {larger['radiographs']:,} larger "
        radiographs += "radiographs of the same children. All are"
    text = f"The training data are {radiographs} of a manifest with the source `{sources}`."
    if sources in _DATASETS:
        text = _DATASETS[sources].format(radiographs=radiographs)
    if len(first) < len(pieces) and not larger:
        text += " Larger copies of some radiographs are among them."
    return text


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of the table of scores; empty groups and those only counted are left out."""
    rows = [("all", metrics)]
    rows += [(words, metrics["groups"][kind][name]) for words, kind, name in _GROUPS]
    return [
        (words, part)
        for words, part in rows
        if (part.get("mae_months") or {}).get("value") is not None
    ]


def _bands(metrics: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return a row for each age band with enough images: the answers and the labels in it."""
    groups = metrics["groups"]
    return [
        (words, answers, labels)
        for band, words in BAND_WORDS.items()
        if "mae_months" in (answers := groups.get("answer_band", {}).get(band, {}))
        and "mae_months" in (labels := groups["age_band"][band])
        and answers["n"]
        and labels["n"]
    ]


def wrap_markdown(text: str, width: int = _LINE_LENGTH) -> str:
    """Return Markdown with paragraphs and list items wrapped; code and tables stay as they are."""
    blocks = []
    for part in re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE):
        if part.startswith("```"):
            blocks.append(part)
            continue
        for block in re.split(r"\n\s*\n", part.strip("\n")):
            if block.strip():
                blocks.append(block if block.startswith(("|", "#")) else _wrap(block, width))
    return "\n\n".join(blocks) + "\n"


def _wrap(block: str, width: int) -> str:
    items = re.split(r"\n(?=- )", block)
    return "\n".join(
        textwrap.fill(
            " ".join(item.split()),
            width,
            subsequent_indent="  " if item.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    )
