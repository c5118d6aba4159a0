"""A sweep: train one recipe with several seeds and settings, and compare them in one table."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.result import without_folder
from boneage.pipeline.store import prepare
from boneage.recipe import Recipe, read_recipe
from boneage.runtime.files import write_json, write_text
from boneage.training.series.planned_runs import (
    FINISHED,
    PlannedRun,
    describe_series,
    mae_of,
    mean_and_deviation,
    record_plan,
)

RESULT = "sweep.json"
TABLE = "sweep.csv"
SELECTED_BY = "validation MAE"
_LONGEST_NAME = 80  # a name of a folder has at most 100 characters, with the seed
_MOST_RUNS = 1000


@dataclass(frozen=True)
class Setting:
    """One combination of the grid's values.

    Attributes:
        overrides: `KEY=VALUE` for each key of the grid.
        resolved: The value that the recipe has for each key, JSON-ready.
        recipe: The recipe with these values, and with its own seed.
    """

    overrides: tuple[str, ...]
    resolved: dict[str, Any]
    recipe: Recipe


def read_grid(
    path: Path, overrides: Sequence[str], grid: Sequence[str], seeds: str | None
) -> tuple[Recipe, list[Setting], list[int]]:
    """Read the recipe, the grid and the seeds of a sweep.

    Args:
        path: The recipe.
        overrides: `KEY=VALUE` for all runs, as `--set` takes them.
        grid: `KEY=VALUE,VALUE,…`. A comma inside brackets or quotes belongs to the value.
        seeds: Such as `0,1,2`. None is the recipe's own seed.

    Returns:
        The recipe without its phantom, every combination of the grid's values (the first key
        changes slowest), and the seeds.

    Raises:
        InputError: A key, a value or a seed is unknown or repeated. All faults are listed.
    """
    recipe = read_recipe(path, overrides)  # faults of the recipe are not blamed on the grid
    faults: list[Fault] = []
    numbers = [recipe.seed] if seeds is None else _read_seeds(seeds, faults)
    axes = {text: axis for text in grid if (axis := _read_axis(text, faults))}
    keys = [override.partition("=")[0].strip() for override in overrides]
    for text, choices in axes.items():
        key = choices[0].partition("=")[0]
        if key in keys:
            faults.append(Fault(f"--grid {text}", f"{key} is given twice", "Give each key once."))
        keys.append(key)
    count = math.prod(len(axis) for axis in axes.values()) * max(1, len(numbers))
    if count > _MOST_RUNS:
        what = f"it asks for {count:,} trainings"
        raise InputError([*faults, Fault("--grid", what, f"Ask for at most {_MOST_RUNS:,}.")])
    settings = []
    for chosen in itertools.product(*axes.values()):
        try:
            settings.append(_resolve(path, overrides, chosen))
        except InputError as error:
            faults += [replace(fault, where="--grid") for fault in error.faults]
    faults += _find_repeated(settings)
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    return recipe.model_copy(update={"phantom": None}), settings, numbers


def _read_axis(text: str, faults: list[Fault]) -> list[str]:
    """Return `KEY=VALUE` for every value of one `--grid`, or nothing if the text is faulty."""
    where, fix = f"--grid {text}", "Write it as training.learning_rate=1e-3,3e-3."
    key, _, values = text.partition("=")
    # Commas inside brackets and quotes are hidden while the values are split.
    hidden = re.sub(r"\[.*?\]|\".*?\"|'.*?'", lambda match: match[0].replace(",", "\0"), values)
    parts = [part.replace("\0", ",").strip() for part in hidden.split(",")]
    if not key.strip() or not all(parts):
        faults.append(Fault(where, "a key or a value is missing", fix))
    elif key.strip() == "seed":
        faults.append(Fault(where, "the grid can't hold seeds", "Write --seeds 0,1,2."))
    else:
        return [f"{key.strip()}={part}" for part in parts]
    return []


def _read_seeds(text: str, faults: list[Fault]) -> list[int]:
    where, parts = f"--seeds {text}", [part.strip() for part in text.split(",")]
    right = [part for part in parts if re.fullmatch("[0-9]{1,10}", part) and int(part) < 2**32]
    if wrong := [part for part in parts if part not in right]:
        what = f"{', '.join(map(repr, wrong))} can't be a seed"
        faults.append(Fault(where, what, "Write whole numbers, such as 0,1,2."))
    seeds = [int(part) for part in right]
    if len(set(seeds)) < len(seeds):
        faults.append(Fault(where, "a seed is given twice", "Give each seed once."))
    return seeds


def _resolve(path: Path, overrides: Sequence[str], chosen: tuple[str, ...]) -> Setting:
    recipe = read_recipe(path, (*overrides, *chosen))
    resolved = {}
    for key in (choice.partition("=")[0] for choice in chosen):
        value = recipe.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        resolved[key] = value
    return Setting(chosen, resolved, recipe)


def _find_repeated(settings: Sequence[Setting]) -> list[Fault]:
    """Return a fault for every combination that occurred before, such as 1e-3 and 0.001."""
    first: dict[str, Setting] = {}
    faults = []
    for setting in settings:
        other = first.setdefault(json.dumps(setting.resolved), setting)
        if other is not setting:
            what = f"{' '.join(setting.overrides)} is the same as {' '.join(other.overrides)}"
            faults.append(Fault("--grid", what, "Give each value once."))
    return faults


def name_settings(settings: Sequence[Setting]) -> list[str]:
    """Return a folder name for each setting, such as `learning_rate-0.003`.

    The names are `setting-1` and so on where they would be too long or not unique.
    """
    names = []
    for setting in settings:
        last = [key.rpartition(".")[2] for key in setting.resolved]
        keys = last if len(set(last)) == len(last) else list(setting.resolved)
        values = [json.dumps(value) for value in setting.resolved.values()]
        text = "-".join(f"{key}-{value}" for key, value in zip(keys, values, strict=True))
        names.append(re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.").replace("--", "-"))
    if len(set(names)) < len(names) or max(map(len, names)) > _LONGEST_NAME:
        return [f"setting-{number}" for number in range(1, len(names) + 1)]
    return names


def plan_sweep(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    *,
    test: bool = False,
) -> list[PlannedRun]:
    """Return one training for every setting and seed. The seed changes fastest.

    With `test`, the test split is scored too. It is no part of the recorded plan, so that a sweep
    can be scored on it once a setting is chosen.

    Raises:
        InputError: A split is missing, or the folder holds something else.
    """
    for split in ("train", "val"):
        manifest.split(split)  # raises if the split is empty
    grid = [setting.resolved for setting in settings]
    plan = {"verb": "sweep", "seeds": list(seeds), "grid": grid, "manifest": manifest.digest}
    record_plan(out, recipe, plan)
    named = zip(settings, name_settings(settings), strict=True)
    return [
        PlannedRun(
            index,
            out / (f"{name}-seed-{seed}" if name else f"seed-{seed}"),
            setting.recipe.model_copy(update={"seed": seed, "phantom": None}),
            manifest,
            setting.overrides,
            ("val", "test") if test else ("val",),
        )
        for index, ((setting, name), seed) in enumerate(itertools.product(named, seeds), 1)
    ]


def prepare_sweep(planned: Sequence[PlannedRun]) -> None:
    """Prepare the stores that the runs need, one for each framing.

    Raises:
        InputError: Images can't be read, or the disk is full.
    """
    framings = itertools.chain.from_iterable(each.recipe.framings() for each in planned)
    for framing in dict.fromkeys(framings):
        prepare(planned[0].manifest, framing)


def collect_sweep(
    recipe: Recipe, planned: Sequence[PlannedRun], settings: Sequence[Setting], out: Path
) -> dict[str, Any]:
    """Collect the results of all runs, and write `sweep.json` and `sweep.csv`, aggregates only.

    Returns:
        The content of the JSON file. `rows` are ordered by validation MAE, unfinished runs last.
        `settings` are ordered by their mean over seeds.

    Raises:
        InputError: A file of a finished run is missing or was changed.
    """
    shown = {setting.overrides: _without_folder(setting) for setting in settings}
    rows = []
    for each in planned:
        row = {"index": each.index, "run": each.name, "setting": shown[each.overrides]}
        rows.append({**row, "seed": each.recipe.seed, **each.summary()})
    means: list[dict[str, Any]] = []
    for setting in shown.values():
        mine = [row for row in rows if row["setting"] == setting and row["state"] == FINISHED]
        splits = {
            split: mean_and_deviation([mae_of(row, split) for row in mine])
            for split in planned[0].splits()
        }
        means.append({"setting": setting, "seeds": [row["seed"] for row in mine], **splits})
    rows.sort(key=lambda row: _unknown_last(mae_of(row, "val")))
    means.sort(key=lambda line: _unknown_last(line["val"]["mean"]))
    result = describe_series("sweep", planned, recipe, planned[0].manifest)
    result |= {"selected_by": SELECTED_BY, "settings": means, "rows": rows}
    write_json(out / RESULT, result)
    write_text(out / TABLE, _make_table(rows, planned[0].splits()).to_csv(index=False))
    return result


def _without_folder(setting: Setting) -> dict[str, Any]:
    """Return the values of a setting, a weights file by its name only."""
    model = without_folder(setting.recipe.model_dump(mode="json"))["model"]
    return {
        key: model["weights"] if key == "model.weights" else value
        for key, value in setting.resolved.items()
    }


def _unknown_last(mae: float | None) -> tuple[bool, float]:
    return mae is None, mae or 0.0


def _make_table(rows: Sequence[dict[str, Any]], splits: Sequence[str]) -> pd.DataFrame:
    lines = []
    for row in rows:
        line = {"run": row["run"], **row["setting"], "seed": row["seed"], "state": row["state"]}
        for split in splits:
            scores = row.get(split, {})
            mae = scores.get("mae_months") or {}
            line[f"{split}_n"] = scores.get("n")
            line[f"{split}_mae_months"] = mae.get("value")
            line |= {f"{split}_mae_{end}": mae.get(end) for end in ("low", "high")}
        lines.append(line)
    return pd.DataFrame(lines).astype({f"{split}_n": "Int64" for split in splits})
