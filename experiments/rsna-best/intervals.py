"""Add prediction intervals to a shipped model that was released without them.

    python experiments/rsna-best/intervals.py rsna-best MANIFEST

`boneage release` makes them for every new model. This writes `intervals.json` for 1, 2 and 6 views,
fitted to the validation split of the model's own manifest. It adds what they hold of the test split
to `result.json` and the card, and writes SHA256SUMS again. No other number of the result changes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.evaluation.coverage import PERCENTS, bounds_by_percent, measure_random_splits
from boneage.evaluation.metrics import score
from boneage.evaluation.release import write_card
from boneage.evaluation.result import aggregates, result_text, rounded
from boneage.evaluation.scoring import estimate_split, known_patients
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import IntervalModel, RunIntervals, new_intervals
from boneage.prediction.predictor import Predictor, mean_answer
from boneage.prediction.shipped import SUMS_NAME, checksums, open_run
from boneage.prediction.test_time_views import join_outputs
from boneage.recipe import Views
from boneage.run import Run
from boneage.runtime.files import read_json, write_text

ADDED = (
    *(f"coverage_{percent}" for percent in PERCENTS),
    *(f"median_width_{percent}_months" for percent in PERCENTS),
)


def fit(run: Run, manifest: Manifest) -> IntervalModel:
    """Fit the intervals of a run to its validation images, for every number of views."""
    model, phases = new_intervals(run), run.read_recipe().prediction.phases
    labels = manifest.split("val").table["age_months"].to_numpy(np.float64)
    for views in get_args(Views):
        (found,) = estimate_split(Predictor(run, views=views), manifest, "val")
        model = model.with_fit(labels, found.months, found.variance, views, phases)
    return model


def measure(run: Run, manifest: Manifest, result: dict[str, Any]) -> None:
    """Add what the intervals of a run hold of its test split to its result."""
    predictor, splits = Predictor(run), ("val", "test")
    outputs = [estimate_split(predictor, manifest, split) for split in splits]
    members = [RunIntervals(*each) for each in predictor.run_views()]
    tables = [manifest.split(split).table for split in splits]
    labels = [table["age_months"].to_numpy(np.float64) for table in tables]
    patients = [known_patients(table) for table in [tables[1], pd.concat(tables)]]
    sexes = tables[1]["sex"].to_numpy(str)
    bounds = bounds_by_percent(members, outputs[1])
    answers = mean_answer(outputs[1])
    found = rounded(
        aggregates(score(labels[1], answers, sexes, patients=patients[0], intervals=bounds))
    )
    test = result["metrics"]["test"]
    difference = abs(found["mae_months"]["value"] - test["mae_months"]["value"])
    if found["n"] != test["n"] or difference > 0.02:
        raise SystemExit(f"the test MAE differs by {difference:.3f} months: another manifest?")
    add(test, found)
    test["interval_images"] = [member.n for member in members]
    together: Outputs = join_outputs([each[0] for each in outputs])
    random = (np.concatenate(labels), together, patients[1])
    splits_found = measure_random_splits(new_intervals(run), *random)
    result["metrics"].get("val-test", {})["interval_splits"] = rounded(splits_found)


def add(scores: dict[str, Any], found: dict[str, Any]) -> None:
    """Add the shares and widths of all groups to the scores of the same groups."""
    scores |= {name: found[name] for name in ADDED if name in found}
    for kind, groups in scores.get("groups", {}).items():
        for name, group in groups.items():
            add(group, found["groups"][kind][name])


def main(name: str, path: str) -> None:
    """Add the intervals to the shipped model of a name."""
    run, manifest = open_run(Path(name)), read_manifest(Path(path))
    if manifest.split_digest != run.read_info()["manifest"].get("split_digest"):
        raise SystemExit(f"{path} is not the split that {name} was trained with")
    fit(run, manifest).write(run)
    result = read_json(run.result_path)
    measure(run, manifest, result)
    write_text(run.result_path, result_text(result))
    write_card(run)
    write_text(run.folder / SUMS_NAME, checksums(run.folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
