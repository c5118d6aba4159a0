"""A released model told on one page, for whoever is about to use it: the model card."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from string import Template
from typing import Any

_RSNA_TERMS = (
    " Its training radiographs may be used for non-commercial research only, and so may what was learned "
    "from them."
)
_RSNA = (
    "{radiographs} of the RSNA Pediatric Bone Age Challenge 2017 (Halabi SS, Prevedello LM, "
    "Kalpathy-Cramer J, et al. *The RSNA Pediatric Bone Age Machine Learning Challenge*. Radiology "
    "2019;290:498-503), whose terms are non-commercial research. No radiograph, and no table with a row "
    "for each of them, comes with it."
)
_SEEDED = "The split is a seeded one, not the official one. The labels are single clinical readings"
_NOT_COMPARABLE = (
    ", so the scores below can't be put beside published ones on the challenge's 200 test radiographs, "
    "whose labels are the mean of six readings."
)
_DATASETS = {
    "rsna-kaggle": f"{_RSNA} They come from Kaggle's copy, which has the challenge's training "
    f"films only. {_SEEDED}{_NOT_COMPARABLE}",
    "rsna-seeded": f"{_RSNA} {_SEEDED}{_NOT_COMPARABLE}",
    "rsna-official": f"{_RSNA} The split is the official one.",
    "phantom": "{radiographs} that were drawn, not taken. It says nothing about patients.",
}
"""What is known of the sources that manifests name."""

_GROUPS = (
    ("girls", "sex", "F"),
    ("boys", "sex", "M"),
    ("under 5 years", "age_band", "0-60"),
    ("5 to 10 years", "age_band", "60-120"),
    ("10 to 15 years", "age_band", "120-180"),
    ("15 years and over", "age_band", "180+"),
)
_SPLITS = (("test", "test films"), ("val", "validation films"))


def model_card(result: Mapping[str, Any], told: Mapping[str, Any], digest: str, size: int) -> str:
    """Writes the card of a released model.

    Args:
        result: A run's `result.json`, its scores those of the model as it was released.
        told: The release's `release.json`.
        digest: sha256 of the model file.
        size: Of the model file, bytes.

    Returns:
        Markdown, as it stands in the release's README.md.
    """
    source = result["manifest"]["source"]
    template = importlib.resources.files("boneage.evaluation") / "model_card_template.md"
    return Template(template.read_text(encoding="utf-8")).substitute(
        name=told["name"],
        terms=_RSNA_TERMS if source.startswith("rsna-") else "",
        what_it_is=_what_it_is(result, size),
        trained_on=_trained_on(result, told),
        scores=_scores(result),
        seed=f"seed {result['seed']}",
        time=_time(result),
        init=" --init RUN" if result.get("init") else "",
        begun_with=_begun_with(result),
        facts=_facts(result, told, digest, size),
    )


def _what_it_is(result: Mapping[str, Any], size: int) -> str:
    recipe = result["recipe"]
    framing, model = recipe["framing"], recipe["model"]
    given = "and the child's sex go" if model["gender"] else "goes, without the child's sex,"
    crop = (
        "The hand is found and cut out" if framing["crop"] == "hand" else "The radiograph is taken"
    )
    weights = {"none": "random weights", "imagenet": "ImageNet's weights"}
    beginning = weights.get(model["weights"], f"the weights in {model['weights']}")
    if result.get("init"):
        beginning = f"what another run, `{result['init']['name']}`, had learned"
    side = framing["size"]
    views = recipe.get("prediction", {}).get("views", 1)
    averaged = (
        f" An answer is the mean of those for {views} views of the radiograph." if views > 1 else ""
    )
    return (
        f"A hand radiograph {given} in, a skeletal age in months comes out. {crop}, and made "
        f"{side} x {side} grey pixels; the network is `{model['backbone']}`, trained from "
        f"{beginning}: {result['model']['parameters']:,} parameters in {size / 1e6:.1f} "
        f"MB.{averaged}"
    )


def _trained_on(result: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    counts, source = result["manifest"]["counts"], result["manifest"]["source"]
    radiographs = f"{counts.get('train', 0):,} hand radiographs"
    other = f"{radiographs} of a table whose source is called `{source}`."
    known = _DATASETS.get(source)
    others = [f"{counts[split]:,} {words}" for split, words in _SPLITS if counts.get(split)]
    tested = " The test radiographs chose nothing." if counts.get("test") else ""
    paragraphs = [
        known.format(radiographs=radiographs) if known else other,
        told["note"],
        f"Beside them: {' and '.join(others)}. The validation radiographs chose the epoch.{tested}",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _scores(result: Mapping[str, Any]) -> str:
    parts = []
    for split, words in _SPLITS:
        metrics = result["metrics"].get(split, {})
        if "mae_months" not in metrics:
            continue
        baseline = metrics["baseline"]["median_by_sex"]["mae_months"]
        guess = (
            f" The median age of each sex, told without looking at a radiograph, makes "
            f"{baseline['value']:.2f}."
            if baseline
            else ""
        )
        parts.append(
            f"On {metrics['n']:,} {words}, in months with 95 % intervals (bootstrap by radiograph); bias "
            f"is predicted less labelled.{guess}"
        )
        parts.append("\n".join(_table(metrics)))
    return "\n\n".join(parts) or "It was tested on too few radiographs to say."


def _table(metrics: Mapping[str, Any]) -> list[str]:
    rows = [("all", metrics)]
    rows += [(words, metrics["groups"][kind][name]) for words, kind, name in _GROUPS]
    lines = ["| radiographs | n | MAE | bias | within a year |", "|---|---|---|---|---|"]
    for words, part in rows:
        if (part.get("mae_months") or {}).get("value") is None:  # empty, or too small to be told
            continue
        mae, bias = part["mae_months"], part["bias_months"]
        share = 100 * part["within_12_months"]["value"]
        lines.append(
            f"| {words} | {part['n']:,} | {mae['value']:.2f} {_interval(mae)} | "
            f"{bias['value']:+.2f} {_interval(bias, '+')} | {share:.0f} % |"
        )
    return lines


def _interval(part: Mapping[str, Any], sign: str = "") -> str:
    return "" if part["low"] is None else f"[{part['low']:{sign}.2f}, {part['high']:{sign}.2f}]"


def _begun_with(result: Mapping[str, Any]) -> str:
    init = result.get("init")
    if not init:
        return ""
    return (
        f" RUN is one whose best model is `{init['name']}`, sha256 `{init['digest']}`; or one like "
        "it, trained anew."
    )


def _time(result: Mapping[str, Any]) -> str:
    seconds, made = result.get("seconds", {}).get("fit"), result["provenance"]
    if not seconds:
        return ""
    return f" That took {seconds / 60:.0f} minutes on {made['device']}, {made['cores']} cores."


def _facts(result: Mapping[str, Any], told: Mapping[str, Any], digest: str, size: int) -> str:
    made, storage, mae = result["provenance"], told["storage"], told["val_mae_months"]
    changed = ", with uncommitted changes" if made.get("uncommitted_changes") else ""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    small, rest = storage["float16_values"], storage["other_values"]
    facts = {
        "model": f"`best.keras`, {size:,} bytes, sha256 `{digest}`",
        "stored": f"{small:,} numbers as float16, {rest:,} as float32; it computes in "
        f"{storage['compute']}",
        "what storing it cost": f"validation MAE {mae['as_trained']:.3f} as trained, "
        f"{mae['as_released']:.3f} as released",
        "training": f"recipe `{result['name']}`, seed {result['seed']}, epoch "
        f"{result.get('best_epoch')} of {result.get('epochs')}, begun {result['started'][:10]}",
        "manifest": f"sha256 `{result['manifest']['digest']}`",
        "trained by": f"boneage {made['boneage']}, commit `{made['commit']}`{changed}",
        "with": f"Python {made['python']}, {versions}",
        "released": told["released"],
    }
    return "\n".join(f"- {name}: {text}" for name, text in facts.items())
