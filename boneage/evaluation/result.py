"""Where the results of an evaluation go, and `result.json`: aggregates fit to be committed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from boneage.errors import Fault, InputError
from boneage.evaluation.coverage import PERCENTS
from boneage.evaluation.records import read_metrics, read_stress
from boneage.prediction.shipped import find_run, is_release, release_name
from boneage.recipe import changed_settings
from boneage.run import MANIFEST_KEYS, Run, recipe_from_run
from boneage.runtime.files import json_bytes, read_json, write_bytes, write_text
from boneage.runtime.provenance import file_digest

_INFO = (
    *("name", "seed", "started", "seconds", "model", "best_epoch", "epochs", "stopped"),
    "members",
)
_HANDED_ON = (
    *("name", "seed", "started", "seconds", "provenance", "model", "best_epoch", "epochs"),
    *("best_val_mae_months", "stopped"),
)
NEEDED_INFO = ("provenance", *MANIFEST_KEYS, "manifest.counts")
_MANIFEST = ("digest", "split_digest", "counts", "source")
_INIT = ("name", "digest", "known_ids")
_BY_CHANCE = "known_ids_by_chance"
_SPLITS = ("val", "test", "val-test")
_MAX_SOURCES, _MAX_SOURCE_LENGTH = 5, 200  # beyond, `source` names single images
# The folders of an absolute path: of POSIX, of a home, of Windows, of a share, of a file address.
_FOLDERS = re.compile(
    r"""(?<![\w.:/~\\])(?:file://|~\w*(?=/))?(?:/|[A-Za-z]:[\\/]|\\\\)(?:[^\s/\\"']+[/\\])+"""
)
MIN_IMAGES = 5  # an average over fewer images reveals single ones
_OF_GROUPS = (
    *("n", "patients", "mae_months", "bias_months", "within_12_months"),
    "dilution_bias_months",
    *(f"coverage_{percent}" for percent in PERCENTS),
    *(f"median_width_{percent}_months" for percent in PERCENTS),
)
_DECIMALS = 6  # more than any page shows, so that rounding twice changes nothing


def prepare_results(run: Run, out: Path | None = None, others: Sequence[Run] = ()) -> Run:
    """Return the folder that the results of a run go to, with `recipe.json` and `run.json` in it.

    For several runs, `recipe.json` is that of the first, and `run.json` lists all of them under
    `members`.

    Args:
        run: The run that is evaluated.
        out: The folder. Default: the run's own; for a shipped model, `runs/NAME`, or
            `$BONEAGE_RUNS/NAME` if that variable is set. Several runs have no default.
        others: Further runs whose answers are averaged with those of the run.

    Raises:
        InputError: The folder belongs to another run or to a shipped model, or is missing.
    """
    if others and out is None:
        what = f"the folder of the results of {1 + len(others)} runs is missing"
        raise InputError(Fault("--out", what, "Name one with --out."))
    results = Run(out or _default_folder(run.folder))
    if is_release(results.folder):
        raise InputError(
            Fault(
                str(results.folder),
                "this is a released model, and nothing is written into it",
                "Name another folder with --out.",
            )
        )
    if results.folder.resolve() == run.folder.resolve() and not others:
        return results
    info = json_bytes(_describe_members([run, *others])) if others else run.info_path.read_bytes()
    copies = {results.recipe_path: run.recipe_path.read_bytes(), results.info_path: info}
    for copy, content in copies.items():
        if copy.exists() and copy.read_bytes() != content:
            raise InputError(
                Fault(
                    str(results.folder),
                    f"the folder belongs to another run: its {copy.name} differs",
                    "Name another folder with --out.",
                )
            )
    for copy, content in copies.items():
        write_bytes(copy, content)
    return results


def member_name(run: Run) -> str:
    """Return what one of several runs is called in their results: the name of its folder."""
    return run.folder.resolve().name


def _describe_members(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the `run.json` of several runs: data and origin of the first, then all of them."""
    recipes = [
        recipe_from_run(without_folder(read_json(run.recipe_path)), where=str(run.recipe_path))
        for run in runs
    ]
    infos = [run.read_info(NEEDED_INFO) for run in runs]
    members = [
        {
            "name": member_name(run),
            "digest": file_digest(run.network_path),
            "seed": info.get("seed"),
            "changed": changed_settings(recipes[0], recipe),
            "manifest": info["manifest"]["digest"],
        }
        for run, recipe, info in zip(runs, recipes, infos, strict=True)
    ]
    names = " + ".join(dict.fromkeys(recipe.name for recipe in recipes))
    kept: dict[str, Any] = {
        key: infos[0][key] for key in ("provenance", "manifest", "store") if key in infos[0]
    }
    return {"name": f"{names} (mean of {len(runs)} runs)", **kept, "members": members}


def open_results(run: Path) -> Run:
    """Open a folder with the results of an evaluation; the model may be missing.

    Args:
        run: A run folder, a folder that `evaluate --out` wrote, or the name of a shipped model.

    Raises:
        InputError: There is no such folder, or nothing was evaluated in it.
    """
    found = find_run(run)
    results = Run(_default_folder(found))
    if is_release(found) and not results.info_path.exists():
        name = results.folder.name
        raise InputError(
            Fault(
                name,
                f"the results of this shipped model are not in {results.folder}",
                f"Run: boneage evaluate {name} --data MANIFEST. "
                "With --out FOLDER, the results are in that folder.",
            )
        )
    return results


def _default_folder(folder: Path) -> Path:
    if not is_release(folder):
        return folder
    return Path(os.environ.get("BONEAGE_RUNS") or "runs") / release_name(folder)


def write_result(run: Run, earlier_scorings: int = 0) -> Path:
    """Write `result.json` from the other files of a run folder.

    The file holds the resolved recipe, the origin of the run, and the scores of the splits that
    were evaluated, to six decimals. It names no image and no path. Groups have the main scores;
    those of fewer than five images are counted, not scored.

    Args:
        run: A run folder with its results; see `prepare_results`.
        earlier_scorings: How often the test split was scored before, elsewhere.

    Raises:
        InputError: A file of the run is missing or broken.
    """
    info = run.read_info(NEEDED_INFO)
    result: dict[str, Any] = {key: info[key] for key in _INFO if key in info} | _origin(info)
    run.read_recipe()  # raises if it is damaged
    result["recipe"] = without_folder(read_json(run.recipe_path))
    result["metrics"] = {
        split: rounded(aggregates(read_metrics(run.metrics_path(split))))
        for split in _SPLITS
        if run.metrics_path(split).exists()
    }
    if scorings := count_scorings(run, "test", info["manifest"]["digest"]):
        result["test_scorings"] = scorings + earlier_scorings
    write_text(run.result_path, result_text(result))
    return run.result_path


def result_text(result: dict[str, Any]) -> str:
    """Return the content of `result.json` as text, with one line for each score."""
    return _one_line_each(json_bytes(result).decode())


def describe_run(run: Run) -> dict[str, Any]:
    """Return the `run.json` of a copy that is handed on: without the paths of this machine.

    Raises:
        InputError: The `run.json` of the run is damaged.
    """
    info = run.read_info(NEEDED_INFO)
    kept = {key: info[key] for key in _HANDED_ON if key in info} | _origin(info)
    # The name without the folder: a reader with the same file can put it in the working folder.
    kept["manifest"] = {"path": file_name(info["manifest"]["path"]), **kept["manifest"]}
    return kept


def _origin(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a run was made, and from what, without the paths of this machine."""
    manifest = {"source": "", **info["manifest"]}
    kept = {key: manifest[key] for key in _MANIFEST if key in manifest}
    kept["source"] = name_sources(manifest["source"])
    origin: dict[str, Any] = {"provenance": info["provenance"], "manifest": kept}
    if info.get("init"):  # the first run of a fine-tuned model may have seen these images
        origin["init"] = {key: info["init"].get(key) for key in _INIT}
        if info["init"].get(_BY_CHANCE) is not None:
            origin["init"][_BY_CHANCE] = info["init"][_BY_CHANCE]
    return origin


def count_scorings(run: Run, split: str, digest: str) -> int:
    """Return how often a split of a manifest was scored, as the results in a run folder say.

    Each evaluation writes the number of scorings so far, and so does `boneage stress` for the test
    split. Results of earlier versions count once, so the answer is a lower limit.

    Args:
        run: The folder with the results.
        split: The split.
        digest: The digest of the manifest's file.
    """
    found: list[int | None] = []  # None in results of earlier versions
    for path in run.folder.glob(f"metrics-{split}*.json"):
        with contextlib.suppress(InputError):  # a damaged file is written again
            metrics = read_metrics(path)
            tested_on = (metrics.get("manifest") or {}).get("digest") or digest
            if tested_on == digest and metrics.get("split", split) == split:
                found.append(metrics.get("scorings"))
    for path in run.folder.glob("stress-*.json") if split == "test" else ():
        with contextlib.suppress(InputError):
            stress = read_stress(path)
            tested_on = (stress.get("manifest") or {}).get("digest")
            if tested_on == digest and split in stress["split"].split("-"):
                found.append(stress.get("test_scorings"))
    return max(0, found.count(None), *filter(None, found))


def name_sources(text: str) -> str:
    """Return the sources of a manifest without folders, or `many sources` if they name images."""
    pieces = text.split(", ")
    if len(text) > _MAX_SOURCE_LENGTH or len(pieces) > _MAX_SOURCES:
        return "many sources"
    return ", ".join(
        file_name(piece) if is_absolute(piece) else without_folders(piece) for piece in pieces
    )


def without_folders(text: str) -> str:
    """Return a text in which every absolute path is only the name of its file."""
    return _FOLDERS.sub("", text)


def without_folder(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON recipe with the name of its weights file, but without the folder."""
    model = recipe.get("model", {})
    if "weights" in model:  # "none" and "imagenet" are names already
        recipe["model"] = {**model, "weights": file_name(model["weights"])}
    return recipe


def is_absolute(path: str) -> bool:
    """Return whether a path is absolute, on POSIX or on Windows."""
    return path.startswith("/") or PureWindowsPath(path).is_absolute()


def file_name(path: str) -> str:
    """Return the last part of a path of any system: what is handed on names no folder."""
    return PureWindowsPath(path).name  # takes both kinds of slash


def aggregates(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the scores that may be published: fewer than five images are only counted.

    Args:
        metrics: The answer of `metrics.score`, and what else a file of metrics holds.
    """
    if metrics["n"] < MIN_IMAGES:
        return {"n": metrics["n"]}
    groups = {
        kind: {
            name: {"n": group["n"]}
            if group["n"] < MIN_IMAGES
            else {key: group[key] for key in _OF_GROUPS if key in group}
            for name, group in members.items()
        }
        for kind, members in metrics["groups"].items()
    }
    # The names of further groups come from a user's table, so they stay in the run folder.
    kept = {key: value for key, value in metrics.items() if key not in ("manifest", "by")}
    return {**kept, "groups": groups}


def rounded(value: Any) -> Any:
    """Return JSON values with all numbers to six decimals."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _one_line_each(text: str) -> str:
    """Return JSON with each object and list that holds no other, such as a score, in one line."""
    innermost = r"[\[{][^\[\]{}]*[\]}]"
    return re.sub(innermost, lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
