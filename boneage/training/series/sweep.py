"""A sweep: one recipe over seeds and a grid of settings, compared in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from boneage.datasets.manifest import Manifest
from boneage.evaluation.result import without_folder
from boneage.pipeline.store import prepare
from boneage.recipe import Recipe
from boneage.runtime.files import write_json, write_text
from boneage.training.series.grid import Setting, setting_names
from boneage.training.series.planned_runs import (
    FINISHED,
    Planned,
    mae_of,
    manifest_told,
    mean_and_deviation,
    reached,
    settle,
    told_once,
)

RESULT = "sweep.json"
TABLE = "sweep.csv"
SELECTED_BY = "validation MAE; test is reported beside it and selects nothing"


def plan_sweep(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    settings: Sequence[Setting],
    seeds: Sequence[int],
) -> list[Planned]:
    """One training for every setting and seed, the seed changing fastest.

    Args:
        recipe: What the settings are settings of.
        manifest: The cohort, with train and val splits.
        out: The folder of the series: new, empty or that of the same series.
        settings: As `grid.read_settings` gives them.
        seeds: Of each of them.

    Raises:
        InputError: The manifest lacks a split, or the folder holds something else.
    """
    for split in ("train", "val"):
        manifest.split(split)  # which refuses one without images
    grid = [setting.resolved for setting in settings]
    settle(
        out,
        recipe,
        {"verb": "sweep", "seeds": list(seeds), "grid": grid, "manifest": manifest.digest},
    )
    names = setting_names(settings)
    pairs = [
        (setting, f"{name}-seed-{seed}" if name else f"seed-{seed}", seed)
        for setting, name in zip(settings, names, strict=True)
        for seed in seeds
    ]
    return [
        Planned(
            index,
            out / name,
            setting.recipe.model_copy(update={"seed": seed, "phantom": None}),
            manifest,
            setting.overrides,
        )
        for index, (setting, name, seed) in enumerate(pairs, 1)
    ]


def prepare_sweep(planned: Sequence[Planned]) -> None:
    """Makes the stores they need, one for each framing.

    Raises:
        InputError: Images that can't be read, all of them, or no room on the disk.
    """
    for framing in dict.fromkeys(one.recipe.framing for one in planned):
        prepare(planned[0].manifest, framing)


def collect_sweep(
    recipe: Recipe, planned: Sequence[Planned], settings: Sequence[Setting], out: Path
) -> dict[str, Any]:
    """Gathers what the runs have come to; `sweep.json` and `sweep.csv`, without single images.

    Args:
        recipe: What the settings are settings of.
        planned: All runs, as `plan_sweep` gave them.
        settings: Of which they are.
        out: The folder of the series.

    Returns:
        What was written as JSON: `rows` by validation MAE, then those that are not finished;
        `settings` by the mean of theirs over seeds.

    Raises:
        InputError: A file of a finished run is missing or changed.
    """
    shown = {setting.overrides: _shown(setting) for setting in settings}
    rows = [
        {
            "index": one.index,
            "run": one.name,
            "setting": shown[one.overrides],
            "seed": one.recipe.seed,
            **reached(one),
        }
        for one in planned
    ]
    done = [one for one, row in zip(planned, rows, strict=True) if row["state"] == FINISHED]
    result: dict[str, Any] = {
        "verb": "sweep",
        "name": recipe.name,
        "complete": len(done) == len(planned),
        "selected_by": SELECTED_BY,
        "manifest": manifest_told(planned[0].manifest),
        "recipe": without_folder(recipe.model_dump(mode="json")),
        "provenance": told_once(done),
        "settings": [],
        "rows": sorted(rows, key=lambda row: _order(mae_of(row, "val"))),
    }
    for overrides, setting in shown.items():
        mine = [
            row
            for one, row in zip(planned, rows, strict=True)
            if one.overrides == overrides and row["state"] == FINISHED
        ]
        line: dict[str, Any] = {"setting": setting, "seeds": [row["seed"] for row in mine]}
        for split in planned[0].splits():
            line[split] = mean_and_deviation([mae_of(row, split) for row in mine])
        result["settings"].append(line)
    result["settings"].sort(key=lambda line: _order(line["val"]["mean"]))
    write_json(out / RESULT, result)
    write_text(out / TABLE, _table(result["rows"]).to_csv(index=False))
    return result


def _shown(setting: Setting) -> dict[str, Any]:
    """The values of a setting; of a file of weights its name."""
    model = without_folder({"model": setting.recipe.model_dump(mode="json")["model"]})["model"]
    return {
        key: model["weights"] if key == "model.weights" else value
        for key, value in setting.resolved.items()
    }


def _order(mae: float | None) -> tuple[bool, float]:
    return mae is None, mae or 0.0  # the unknown last


def _table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    lines = []
    for row in rows:
        line = {"run": row["run"], **row["setting"], "seed": row["seed"], "state": row["state"]}
        for split in ("val", "test"):
            mae = row.get(split, {}).get("mae_months") or {}
            line[f"{split}_n"] = row.get(split, {}).get("n")
            line[f"{split}_mae_months"] = mae.get("value")
            line |= {f"{split}_mae_{end}": mae.get(end) for end in ("low", "high")}
        lines.append(line)
    table = pd.DataFrame(lines)
    counts = ["val_n", "test_n"]
    table[counts] = table[counts].astype("Int64")
    return table
