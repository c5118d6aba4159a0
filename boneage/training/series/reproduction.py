"""Reproduce a published number: import, check, train, evaluate, compare."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.datasets.audit.audit import audit
from boneage.datasets.importers.rsna import import_rsna
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.published import (
    SPLIT_NAMES,
    as_markdown,
    compare,
    judge,
    read_answers,
    select_answers,
)
from boneage.evaluation.records import read_metrics
from boneage.evaluation.report import write_report
from boneage.evaluation.result import file_name, name_sources, without_folders, write_result
from boneage.evaluation.scoring import evaluate_run, impossible_answers, read_predictions
from boneage.recipe import Recipe, changed_settings, read_recipe
from boneage.run import Run
from boneage.runtime.files import temporary_folder, write_json, write_text
from boneage.runtime.machine import check_disk
from boneage.runtime.provenance import file_digest
from boneage.training.input_checks import check_recipe

if TYPE_CHECKING:
    from boneage.training.stop_signals import Stop

_SHOWN_FAULTS = 5
_NEEDED_INFO = (
    *("epochs", "best_epoch", "seconds.fit"),
    *("provenance.boneage", "provenance.device", "provenance.versions"),
)

Log = Callable[[str], None]


def read_published_recipe(
    path: Path, overrides: Sequence[str] = (), *, seed: int | None = None
) -> Recipe:
    """Read a recipe that has a published number.

    Raises:
        InputError: The recipe has no published number, or is faulty.
    """
    recipe = read_recipe(path, overrides, seed=seed)
    if recipe.published is None:
        what = "the recipe has no [published] section, so there is nothing to compare with"
        fix = "Add source and test_mae_months or val_mae_months, or use `boneage train`."
        raise InputError(Fault(str(path), what, fix))
    return recipe.model_copy(update={"phantom": None})  # the data replaces it


def reproduce(
    recipe: Recipe,
    recipe_path: Path,
    data: Path,
    out: Path,
    *,
    log: Log,
    answers: Sequence[Path] = (),
    progress: bool = True,
    dry_run: bool = False,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Import, estimate the cost, check, train, evaluate and compare.

    Called again with the same folders, an interrupted reproduction continues. Finished steps are
    not repeated.

    Args:
        recipe: A recipe from `read_published_recipe`.
        recipe_path: The file of the recipe. Settings that differ from the file are reported.
        data: The unpacked RSNA set, or a manifest.
        out: The run folder. The manifest and the store of a set go to `<out>-data`.
        log: Prints one line of progress.
        answers: Tables with the published answer for each image; see `published.read_answers`.
            With them the errors are compared by paired differences.
        progress: Whether to show progress bars and epochs.
        dry_run: Stop after the estimate and leave no files.
        stop: As in `train`.

    Returns:
        `recipe`, `seed`, `source` (of the published number), `changed` (settings), `answers` (name
        and digest of each table), `data`, `estimate` (None when a training is resumed), `notes` and
        `rows` (from `compare`). A dry run also has `missing`: what a training needs. After a
        training there are also parts of `run.json`, and `files`. `reproduction.json` holds the
        same, but it names files without their folders.

    Raises:
        InputError: Recipe, data, weights file or disk are faulty, or the data has changed since
            the training started.
        KeyboardInterrupt: SIGINT came. Everything is kept.
        Terminated: SIGTERM came to `stop`. Everything is kept.
    """
    run = Run(out)
    is_resumed = run.is_started
    if not is_resumed and (out.is_file() or run.other_files()):
        what = "this is a file" if out.is_file() else "the folder holds something else"
        raise InputError(Fault(str(out), what, "Name another --out."))
    assert recipe.published is not None  # read_published_recipe checks it
    published = read_answers(answers, recipe.published) if answers else None
    missing = [] if is_resumed else _missing(recipe, dry_run=dry_run)
    changed = changed_settings(read_recipe(recipe_path), recipe)
    if changed:
        log(f"settings that differ from the recipe: {', '.join(changed)}")
    with contextlib.ExitStack() as stack:
        folder = out.with_name(f"{out.name}-data")
        if dry_run:
            folder = stack.enter_context(temporary_folder())
        manifest = _read_data(data, folder / "manifest.csv", progress)
        theirs = {}
        if published is not None:  # wrong answers are refused before the training
            theirs = select_answers(published, recipe.published, manifest)
        document: dict[str, Any] = {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "source": recipe.published.source,
            "changed": [_without_folder(setting) for setting in changed],
            "answers": [{"file": each.name, "digest": file_digest(each)} for each in answers],
            "data": _describe(manifest, log),
            "notes": [without_folders(note) for note in manifest.notes],
            "estimate": None if is_resumed else _estimate(recipe, manifest, bool(missing), log),
        }
        if document["estimate"]:
            missing += _too_small_disks(document["estimate"], manifest, out)
        if dry_run:
            for fault in missing:
                log(f"missing: {fault}")
            texts = [str(fault) for fault in missing]
            return {**document, "missing": texts, "rows": compare(recipe, manifest, {})}
        if missing:
            raise InputError(missing)
    if not is_resumed:
        log("checking every radiograph")
        _check(manifest, progress)
    from boneage.training.trainer import train  # imports Keras

    log(f"{'resuming' if is_resumed else 'training'} {out}")
    train(recipe, manifest, out, progress=progress, resume=is_resumed, stop=stop)
    present = set(manifest.table["split"])
    metrics = {name: _evaluate(run, name, log) for name in SPLIT_NAMES if name in present}
    paired = {
        name: judge(read_predictions(run.predictions_path(name), own=True), table)
        for name, table in theirs.items()
    }
    return _write(document | {"rows": compare(recipe, manifest, metrics, paired)}, run)


def _without_folder(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key}={file_name(value)}" if key == "model.weights" else setting


def _read_data(data: Path, out: Path, progress: bool) -> Manifest:
    return read_manifest(data) if data.is_file() else import_rsna(data, out, progress=progress)


def _describe(manifest: Manifest, log: Log) -> dict[str, Any]:
    counts = manifest.table["split"].value_counts()
    by_split = {split: int(counts.get(split, 0)) for split in ("train", *SPLIT_NAMES)}
    sources = manifest.table["source"].unique().tolist() if "source" in manifest.table else []
    log(f"{len(manifest):,} images: {', '.join(f'{n:,} {s}' for s, n in by_split.items())}")
    for note in manifest.notes:
        log(f"note: {note}")
    return {
        "counts": by_split,
        "source": name_sources(", ".join(map(str, sources))),
        "digest": manifest.digest,
        "split_digest": manifest.split_digest,
    }


def _missing(recipe: Recipe, *, dry_run: bool) -> list[Fault]:
    """Check the recipe. A dry run only reports that the weights file is missing or another one."""
    check_recipe(recipe, needs_weights=not dry_run)
    try:
        check_recipe(recipe)
    except InputError as error:
        return list(error.faults)
    return []


def _estimate(recipe: Recipe, manifest: Manifest, lacks_weights: bool, log: Log) -> dict[str, Any]:
    """Estimate hours and disk space. Random weights cost as much as those of a file."""
    from boneage.training.cost_estimate import describe_cost, estimate_cost  # imports Keras

    if lacks_weights:
        model = recipe.model.model_copy(update={"weights": "none", "weights_sha256": None})
        recipe = recipe.model_copy(update={"model": model})
    log("timing a few training steps")
    cost = estimate_cost(recipe, manifest)
    for line in describe_cost(cost):
        log(line)
    return cost


def _too_small_disks(cost: dict[str, Any], manifest: Manifest, out: Path) -> list[Fault]:
    cache = os.environ.get("BONEAGE_CACHE")  # else the store is next to the manifest
    fix = "Free some space, name an --out on another disk, or set BONEAGE_CACHE."
    faults: list[Fault] = []
    for folder, needed in (
        (Path(cache) if cache else manifest.path.parent, cost["store_bytes"]),
        (out, cost["run_bytes"]),
    ):
        try:
            check_disk(folder, needed, fix)
        except InputError as error:
            faults += error.faults
    return faults


def _check(manifest: Manifest, progress: bool) -> None:
    found = audit(manifest.path, progress=progress)
    errors = [fault.message for fault in found.faults if fault.severity == "error"]
    if errors:
        shown = " ".join(errors[:_SHOWN_FAULTS])
        fix = f"See all of them: boneage data check {manifest.path}"
        raise InputError(Fault(str(manifest.path), f"{len(errors)} errors: {shown}", fix))


def _evaluate(run: Run, split: str, log: Log) -> dict[str, Any]:
    """Return the scores of a split. They are computed again if the model is newer."""
    path = run.metrics_path(split)
    if path.exists() and path.stat().st_mtime_ns > run.best_path.stat().st_mtime_ns:
        return read_metrics(path)
    log(f"evaluating {SPLIT_NAMES[split]}")
    metrics = evaluate_run(run, split=split, progress=False)
    if (fault := impossible_answers(run.best_path, metrics)) is not None:
        log(f"warning: {fault}")
    return metrics


def _write(document: dict[str, Any], run: Run) -> dict[str, Any]:
    """Write the result, the report and the comparison, and return the whole document."""
    write_result(run)
    page = run.folder / "reproduction.md"
    files = {"run": run.folder, "report": write_report(run), "page": page}
    info = run.read_info(_NEEDED_INFO)
    keys = ("stopped", "epochs", "best_epoch", "seconds", "provenance")
    document |= {key: info.get(key) for key in keys}
    document["files"] = {name: str(path) for name, path in files.items()}
    write_text(page, as_markdown(document))
    # The file may be handed on, so it names the files of its folder without the folder.
    named = {name: path.name for name, path in files.items() if path != run.folder}
    write_json(run.folder / "reproduction.json", {**document, "files": named})
    return document
