"""Score a finished run on a split, or any table of predictions."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from boneage.datasets.cell_text import whole_number
from boneage.datasets.cells import missing_column
from boneage.datasets.label_rules import SEXES, SPLITS, Region, image_path
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.tables import read_sheet
from boneage.datasets.validation import (
    age_findings,
    choice_findings,
    expected_months,
    id_findings,
    numbers,
    years_findings,
)
from boneage.errors import Fault, InputError
from boneage.evaluation.coverage import Bounds, bounds_by_percent, measure_random_splits
from boneage.evaluation.groups import Groups, group_by_columns
from boneage.evaluation.known_ids import KnownIds, find_known_ids, read_recorded_manifest
from boneage.evaluation.metrics import baseline_median_by_sex, score
from boneage.evaluation.result import (
    count_scorings,
    member_name,
    name_sources,
    prepare_results,
)
from boneage.pipeline.store import prepare
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import RunIntervals, new_intervals, read_intervals
from boneage.prediction.possible_ages import (
    MAX_AGE_MONTHS,
    answer_faults,
    limit_answers,
    possible_answers,
)
from boneage.prediction.predictor import Inputs, Predictor, mean_answer
from boneage.prediction.shipped import CARD_NAME, is_release
from boneage.prediction.test_time_views import BATCH_SIZE, join_outputs
from boneage.run import MANIFEST_KEYS, Run
from boneage.runtime.files import write_json, write_text
from boneage.runtime.provenance import file_digest, usable_cores
from boneage.runtime.threads import threads

_SHOWN_FAULTS = 5
PREDICTION_COLUMNS = ("image_id", "age_months", "sex", "predicted_age_months")
PATIENT = "patient_id"
"""A further column of predictions, where the patients are known; may be empty."""
SD = "predicted_sd_months"
"""A further column: the standard deviation that scales the interval of an answer."""


def read_predictions(csv: Path, *, own: bool = False, by: Sequence[str] = ()) -> pd.DataFrame:
    """Read and check a table of predictions: `image_id,age_months,sex,predicted_age_months`.

    Args:
        csv: One row for each image; ages in months, sex `F` or `M`. CSV as a rule; Excel and
            Parquet are read too.
        own: A run wrote the table, so low ages are infants and not ages in years.
        by: Further columns to read. All others are ignored.

    Returns:
        The four columns: `image_id` as text, ages float64 months, `sex` text. Then `patient_id`
        if the table has it, and the columns of `by`, as text.

    Raises:
        InputError: The table is faulty; all faults are reported.
    """
    needed = (*PREDICTION_COLUMNS, *by)
    cells = replace(read_sheet(csv, names=PREDICTION_COLUMNS), where=csv.name)
    cells = cells.using((*needed, PATIENT))
    missing = [missing_column(cells, name) for name in needed if name not in cells.table]
    if missing:
        raise InputError([finding.fault for finding in (*cells.findings, *missing)])
    ages = {name: numbers(cells, name) for name in ("age_months", "predicted_age_months")}
    answers = cells.table["predicted_age_months"]
    findings = [
        *cells.findings,
        *id_findings(cells, "image_id"),
        *age_findings(cells, "age_months", ages["age_months"]),
        *choice_findings(cells, "sex", SEXES, "unknown-sex", "Write girls as F, boys as M."),
        *cells.row_findings(
            "bad-prediction",
            np.flatnonzero(np.isnan(ages["predicted_age_months"])),
            lambda row: f"predicted_age_months is {answers[row]!r}",
            expected_months(cells, "predicted_age_months"),
            "Correct it.",
        ),
    ]
    if not own:
        for name, months in ages.items():
            fix = f"Is it in years? Multiply {name} by 12."
            findings += years_findings(cells, name, months, fix)
    if findings:
        raise InputError([finding.fault for finding in findings])
    kept = [name for name in (*needed, PATIENT) if name in cells.table]
    return cells.table[list(dict.fromkeys(kept))].assign(**ages)


def evaluate_predictions(csv: Path, *, by: Sequence[str] = ()) -> dict[str, Any]:
    """Score a table of predictions, by patient if it has the column `patient_id`.

    Args:
        csv: The table, as for `read_predictions`.
        by: Further columns of the table to group by.

    Returns:
        The answer of `metrics.score`; `predictions` has the file's name and digest.

    Raises:
        InputError: As `read_predictions`, or a column can't be grouped by.
    """
    table = read_predictions(csv, by=by)
    metrics = score_answers(table, group_by_columns(table, by, csv.name))
    metrics |= _count_impossible(limit_answers(table["predicted_age_months"].to_numpy(np.float64)))
    return {**metrics, "predictions": {"file": csv.name, "digest": file_digest(csv)}}


def evaluate_run(
    run: Run,
    *,
    others: Sequence[Run] = (),
    data: Path | None = None,
    split: str | Sequence[str] = "test",
    views: int | None = None,
    phases: int | None = None,
    out: Path | None = None,
    by: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Predict a split with a finished run, score the predictions and write both.

    Several splits are scored one by one, then together. The files of `val` and `test` together
    are those of the split `val-test`.

    Without `data`, the manifest is the one that the run was trained with, and must be unchanged.
    Any other manifest is an external test. The files of an external test have the manifest's name
    and digest in their names, so they never replace the run's own. The same holds for a number of
    views or phases that differs from the recipe's.

    Args:
        run: A finished run.
        others: Further runs whose answers are averaged with those of the run.
        data: Another manifest than the run's own.
        split: `train`, `val` or `test`, or several of them.
        views: Test-time views averaged per image. Default: the recipe's value.
        phases: Phases averaged per radiograph. Default: the recipe's value.
        out: Folder for the results; see `result.prepare_results` for the default.
        by: Columns of the manifest to group by, too; see `groups.group_by_columns`.
        progress: Show progress on standard error.

    Returns:
        The content of `metrics-<split>.json`, for several splits that of all together: the answer
        of `score_table`, with `split`, `views`, `phases`, `manifest`, `evaluated` (the day) and
        `predictions`. The manifest is named without its folder, because the file may be handed on.
        For an external test, `manifest` has `overlap`: how many of its images were `train` or `val`
        of the run, or None if that is unknown. Of several runs, these are images that any of them
        knew, and `members` says the same of each. For releases and fine-tuned runs, `manifest` has
        `known_ids`, too: how many of the images they or the models that they started from knew by
        their ids, at most. Its key `complete` says whether the ids of all these models are known.
        `scorings` counts how often this split was scored in this folder.

        A run's own `val` split also fits its prediction intervals, `intervals.json`. They are
        measured on its `test` split and on external tests; `interval_images` says how many
        validation images each run has fitted. `val` and `test` together have `interval_splits`,
        the answer of `coverage.measure_random_splits`.

    Raises:
        InputError: The manifest is missing, faulty or changed; the split is empty; there is no
            such number of views or phases; an image can't be read; an answer is not finite; the
            results can't go into that folder; or the runs can't be combined.
    """
    predictor = Predictor([run, *others], views=views, phases=phases)
    manifest = own_manifest(predictor.runs) if data is None else read_manifest(data)
    splits = in_order(split)
    images = [manifest.split(name) for name in splits]
    groups = [group_by_columns(part.table, by, str(manifest.path)) for part in images]
    results = prepare_results(run, out, others)
    outputs = [estimate_split(predictor, manifest, each, progress=progress) for each in splits]
    tables = [_tabulate(predictor, part, each) for part, each in zip(images, outputs, strict=True)]
    is_external = _is_external(predictor.runs, manifest)
    if "val" in splits and not is_external and results.folder.resolve() == run.folder.resolve():
        _fit_intervals(predictor, images[splits.index("val")], outputs[splits.index("val")])
    members = [RunIntervals(*each) for each in predictor.run_views()]
    if len(splits) > 1:  # all together, after each of them
        splits.append("-".join(splits))
        images.append(replace(manifest, table=pd.concat([part.table for part in images])))
        groups.append(group_by_columns(images[-1].table, by, str(manifest.path)))
        tables.append(pd.concat(tables, ignore_index=True))
        outputs.append(tuple(map(join_outputs, zip(*outputs, strict=True))))
    metrics: dict[str, Any] = {}
    for each, part, table, found, grouped in zip(
        splits, images, tables, outputs, groups, strict=True
    ):
        training, tested_on = _knowledge(predictor.runs, manifest, part)
        bounds = bounds_by_percent(members, found) if is_external or each == "test" else {}
        metrics = score_table(table, training, grouped, bounds) | {"split": each} | tested_on
        metrics |= {"interval_images": [member.n for member in members]} if bounds else {}
        if each == "val-test" and not others:
            model = read_intervals(run) or new_intervals(run)
            labels = table["age_months"].to_numpy(np.float64)
            of_splits = measure_random_splits(model, labels, found[0], known_patients(table))
            metrics |= {"interval_splits": of_splits} if of_splits else {}
        metrics |= _count_impossible(table["predicted_age_months"].to_numpy(np.float64))
        metrics["evaluated"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        metrics["scorings"] = 1 + count_scorings(results, each, manifest.digest)
        name = name_results(each, predictor, manifest, views, phases)
        metrics = write_evaluation(results, name, table, metrics | views_used(predictor))
    return metrics


def name_results(
    split: str, predictor: Predictor, manifest: Manifest, views: int | None, phases: int | None
) -> str:
    """Return the name of the files of a split's results.

    Another manifest than the runs' own is in it, and so are views and phases that differ from the
    recipes'. So these results never replace the usual ones.
    """
    usual = [member.read_recipe().prediction for member in predictor.runs]
    other = f"-{manifest.path.stem}-{manifest.digest[:8]}"
    name = split + (other if _is_external(predictor.runs, manifest) else "")
    name += f"-{views}-views" if views and any(each.views != views for each in usual) else ""
    name += f"-{phases}-phases" if phases and any(each.phases != phases for each in usual) else ""
    return name


def views_used(predictor: Predictor) -> dict[str, int]:
    """Return the numbers of test-time views and phases, of the first run."""
    first = predictor.groups[0]
    return {"views": first.views, "phases": first.phases}


def _is_external(runs: Sequence[Run], manifest: Manifest) -> bool:
    """Return whether any of the runs was trained with another manifest."""
    recorded = [run.read_info(MANIFEST_KEYS)["manifest"] for run in runs]
    return any(each["digest"] != manifest.digest for each in recorded)


def in_order(split: str | Sequence[str]) -> list[str]:
    """Return the splits that are named, each once; several of them in the usual order."""
    named = dict.fromkeys([split] if isinstance(split, str) else split)
    return sorted(named, key=lambda name: SPLITS.index(name) if name in SPLITS else -1)


def own_manifest(runs: Sequence[Run]) -> Manifest:
    """Read the manifest that all runs were trained with.

    Raises:
        InputError: It is gone or has changed since, or they were trained with different ones.
    """
    digests = {run.read_info(MANIFEST_KEYS)["manifest"]["digest"] for run in runs}
    if len(digests) > 1:
        what = "the runs were trained with different manifests"
        raise InputError(Fault("--run", what, "Name the manifest to score with --data MANIFEST."))
    return run_manifest(runs[0])


def _knowledge(
    runs: Sequence[Run], manifest: Manifest, images: Manifest
) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Return the training tables of all runs in one, and what the runs knew of the images.

    Returns:
        The table, None if one of them is unknown; and the keys `manifest` and, for several runs,
        `members` of the metrics.
    """
    recorded = [run.read_info(MANIFEST_KEYS)["manifest"] for run in runs]
    is_external = _is_external(runs, manifest)
    tables = {each["digest"]: _training_table(manifest, each) for each in recorded}
    known = [table for table in tables.values() if table is not None]
    training = pd.concat(known) if len(known) == len(tables) else None
    own = [tables[each["digest"]] for each in recorded]
    tested_on: dict[str, Any] = {
        "file": manifest.path.name,
        "digest": manifest.digest,
        "split_digest": manifest.split_digest,
        "source": name_sources(", ".join(_sources(images))),
        "external": is_external,
    }
    if not is_external:  # its own images are no news
        own = [None if table is None else table[:0] for table in own]
    else:
        tested_on["overlap"] = _count_overlap(training, images)
    tested_on |= _count_by_id(runs, own, images)
    if len(runs) == 1:
        return training, {"manifest": tested_on}
    members: list[dict[str, Any]] = [{"name": member_name(run)} for run in runs]
    for member, run, table in zip(members, runs, own, strict=True) if is_external else ():
        member["overlap"] = _count_overlap(table, images)
        member |= _count_by_id([run], [table], images)
    return training, {"manifest": tested_on, "members": members}


def _count_by_id(
    runs: Sequence[Run], tables: Sequence[pd.DataFrame | None], images: Manifest
) -> dict[str, Any]:
    """Return the key `known_ids` if ids say more than the files of the training images.

    That is so for a release, and for a run that started from another model.
    """
    if not any(
        table is None or run.read_info().get("init")
        for run, table in zip(runs, tables, strict=True)
    ):
        return {}
    together = KnownIds()
    for run, table in zip(runs, tables, strict=True):
        if (known := find_known_ids(run, table)) is None:
            return {}
        together |= known
    return {
        "known_ids": {
            "at_most": together.count(images.table),
            "of": len(images),
            "false_positives": together.by_chance(images.table),
            "complete": together.complete,
        }
    }


def _sources(images: Manifest) -> list[str]:
    return [] if "source" not in images.table else sorted(set(images.table["source"].astype(str)))


def predict_split(
    predictor: Predictor, manifest: Manifest, split: str, *, progress: bool = True
) -> pd.DataFrame:
    """Predict all images of a split, from the store that is prepared if it is missing.

    Where a radiograph may have several phases, no store holds them. Each is then decoded and framed
    when it is predicted.

    Returns:
        The four `PREDICTION_COLUMNS`, one row for each image; ages in months. Also `patient_id` if
        the manifest has it.

    Raises:
        InputError: The split is empty, or an image or the model can't be read.
    """
    found = estimate_split(predictor, manifest, split, progress=progress)
    return _tabulate(predictor, manifest.split(split), found).drop(columns=SD, errors="ignore")


def _tabulate(predictor: Predictor, images: Manifest, outputs: Sequence[Outputs]) -> pd.DataFrame:
    """Return the table of predictions of some images; see `predict_split`.

    That of one run with a distribution head has `predicted_sd_months`, too.
    """
    months = mean_answer(outputs)
    patient = [PATIENT] if PATIENT in images.table else []
    table = images.table[["image_id", "age_months", "sex", *patient]].reset_index(drop=True)
    finite = np.isfinite(months)
    if not finite.all():
        ids = table["image_id"][~finite].tolist()
        faults = answer_faults(ids[:_SHOWN_FAULTS], months[~finite][:_SHOWN_FAULTS])
        if len(ids) > _SHOWN_FAULTS:
            what = f"{len(ids):,} of {len(months):,} answers are no bone age"
            where = str(predictor.runs[0].best_path)
            faults.append(Fault(where, what, "The model is damaged or untrained."))
        raise InputError(faults)
    table = table.assign(predicted_age_months=months)[[*PREDICTION_COLUMNS, *patient]]
    if len(outputs) == 1 and outputs[0].variance is not None:
        model = new_intervals(predictor.runs[0])
        table[SD] = model.standard_deviations(outputs[0].months, outputs[0].variance)
    return table


def _fit_intervals(predictor: Predictor, images: Manifest, outputs: Sequence[Outputs]) -> None:
    """Write `intervals.json` of one run, fitted to its validation images."""
    ((run, views, phases),) = predictor.run_views()
    model = read_intervals(run) or new_intervals(run)
    labels = images.table["age_months"].to_numpy(np.float64)
    found = outputs[0]
    model.with_fit(labels, found.months, found.variance, views, phases).write(run)


def fit_intervals(run: Run, views: Sequence[int], phases: int, *, progress: bool = True) -> None:
    """Fit the prediction intervals of a run to its validation images.

    Args:
        run: A run with its manifest and radiographs.
        views: Numbers of test-time views. Those that are fitted already are left out.
        phases: Phases averaged per radiograph.
        progress: Show progress on standard error.

    Raises:
        InputError: As `evaluate_run`.
    """
    manifest, known = run_manifest(run), read_intervals(run)
    for each in views:
        if known is None or known.find_fit(each, phases) is None:
            predictor = Predictor(run, views=each, phases=phases)
            outputs = estimate_split(predictor, manifest, "val", progress=progress)
            _fit_intervals(predictor, manifest.split("val"), outputs)


def estimate_split(
    predictor: Predictor, manifest: Manifest, split: str, *, progress: bool = True
) -> tuple[Outputs, ...]:
    """Compute all images of a split; see `predict_split`.

    Returns:
        For each run, its outputs in the order of the rows.

    Raises:
        InputError: The split is empty, or an image or the model can't be read.
    """
    images = manifest.split(split)
    rows = _decoded if predictor.has_phases else _stored
    with contextlib.closing(rows(predictor, manifest, images, progress)) as inputs:
        batches = track(
            predictor.estimates(inputs, images.gender()),
            f"Predicting {split}",
            total=-(-len(images) // BATCH_SIZE),
            console=Console(stderr=True),
            disable=not progress,
        )
        return tuple(map(join_outputs, zip(*batches, strict=True)))


def _stored(
    predictor: Predictor, manifest: Manifest, images: Manifest, progress: bool
) -> Generator[Inputs]:
    """Return the images of a split from the stores, one for each framing."""
    ids = images.table["image_id"].tolist()
    stores = [prepare(manifest, each.framing, progress=progress) for each in predictor.groups]
    views = [store.select(ids) for store in stores]
    return ([[view[row]] for view in views] for row in range(len(images)))


def _decoded(
    predictor: Predictor, _: Manifest, images: Manifest, progress: bool
) -> Generator[Inputs]:
    """Yield the images of a split, each decoded and framed at its phases.

    Raises:
        InputError: Some images can't be read. It names all of them.
    """

    def read(image: tuple[Path, Region | None]) -> Inputs | InputError:
        try:
            return predictor.read(*image)
        except InputError as error:
            return error

    faults: list[Fault] = []
    with threads(usable_cores()) as pool:
        for inputs in pool.map(read, zip(images.image_paths(), images.regions(), strict=True)):
            if isinstance(inputs, InputError):
                faults.extend(inputs.faults)
            elif not faults:  # otherwise the rest is only read for its faults
                yield inputs
    if faults:
        raise InputError(faults)


def _count_impossible(months: NDArray[np.float64]) -> dict[str, int]:
    """Return the number of answers that are no bone age, if any: they stay in the scores."""
    count = int(np.sum(~possible_answers(months)))
    return {"impossible_answers": count} if count else {}


def impossible_answers(scored: Path, metrics: Mapping[str, Any]) -> Fault | None:
    """Return a fault if some scored answers are no bone age, else None.

    Args:
        scored: The model or the table of predictions that was scored.
        metrics: The answer of `evaluate_run` or `evaluate_predictions`.
    """
    count = metrics.get("impossible_answers", 0)
    if not count:
        return None
    return Fault(
        str(scored),
        f"{count:,} of {metrics['n']:,} answers are no bone age from 0 to {MAX_AGE_MONTHS:g} "
        "months, and they are part of these scores",
        f"See {metrics['predictions']['file']}. The model is damaged, untrained or another one.",
    )


def score_answers(
    table: pd.DataFrame,
    by: Groups | None = None,
    intervals: Bounds | None = None,
    *,
    with_groups: bool = True,
) -> dict[str, Any]:
    """Score predictions, with intervals by patient if the patients are known.

    Args:
        table: The four `PREDICTION_COLUMNS`, and perhaps `patient_id`.
        by: Further groups.
        intervals: The prediction intervals of the images.
        with_groups: Score the groups, too.

    Returns:
        The answer of `metrics.score`.
    """
    patients = known_patients(table)
    columns = (table["age_months"], table["predicted_age_months"], table["sex"].to_numpy(str))
    options: dict[str, Any] = {"by": by, "intervals": intervals, "with_groups": with_groups}
    return score(*columns, patients=patients, **options)


def known_patients(table: pd.DataFrame) -> NDArray[np.str_] | None:
    """Return the patient of each image (n,), "" if unknown; None if no patient is known.

    A column of numbers with gaps is saved as 12.0, which is the patient 12.
    """
    if PATIENT not in table:
        return None
    patients = table[PATIENT].fillna("").astype(str).map(whole_number).to_numpy(str)
    return patients if (patients != "").any() else None


def score_table(
    table: pd.DataFrame,
    training: pd.DataFrame | None,
    by: Groups | None = None,
    intervals: Bounds | None = None,
) -> dict[str, Any]:
    """Score predictions, and the baseline that predicts the median training age of each sex.

    Args:
        table: As for `score_answers`.
        training: The manifest of the run, with `age_months`, `sex` and `split`. None if unknown.
        by: Further groups.
        intervals: The prediction intervals of the images.

    Returns:
        The answer of `metrics.score`, with `baseline`.
    """
    sexes = table["sex"].to_numpy(str)
    scores = score_answers(table, by, intervals)
    baseline: dict[str, Any] = {
        "mae_months": None,
        "note": "the training ages are unknown: the manifest of the run is gone or changed",
    }
    if training is not None:
        train = training[training["split"] == "train"]
        medians = baseline_median_by_sex(
            train["age_months"], train["sex"].to_numpy(str), table["age_months"], sexes
        )
        guess = table.assign(predicted_age_months=medians)
        baseline = {"mae_months": score_answers(guess, with_groups=False)["mae_months"]}
    return {**scores, "baseline": {"median_by_sex": baseline}}


def write_evaluation(
    results: Run, name: str, table: pd.DataFrame, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Write `predictions-<name>.csv` and `metrics-<name>.json`; return what the latter holds."""
    path = results.predictions_path(name)
    write_text(path, table.to_csv(index=False))
    metrics = {**metrics, "predictions": {"file": path.name, "digest": file_digest(path)}}
    write_json(results.metrics_path(name), metrics)
    return metrics


def run_manifest(run: Run) -> Manifest:
    """Read the manifest that a run was trained with.

    Raises:
        InputError: The manifest is gone or has changed since.
    """
    recorded = run.read_info(MANIFEST_KEYS)["manifest"]
    path = Path(recorded["path"])
    if is_release(run.folder):
        raise InputError(
            Fault(
                str(run.folder),
                "this is a released model, and its own radiographs are not included",
                "Name a manifest of your radiographs with --data MANIFEST. "
                f"{CARD_NAME} in that folder has the scores on the model's own test split.",
            )
        )
    if not path.is_file():
        raise InputError(
            Fault(
                str(run.info_path),
                f"the manifest of this run, {path}, is gone",
                "Restore it, or name its new path with --data.",
                expected=f"a file with sha256 {recorded['digest'][:12]}…",
            )
        )
    digest = file_digest(path)
    if digest != recorded["digest"]:
        raise InputError(
            Fault(
                str(path),
                f"the manifest changed since the run: its sha256 is now {digest[:12]}…",
                "Restore it, or name the changed manifest with --data for an external test.",
                expected=f"{recorded['digest'][:12]}…, as recorded in {run.info_path}",
            )
        )
    return read_manifest(path)


def _training_table(manifest: Manifest, recorded: dict[str, Any]) -> pd.DataFrame | None:
    """Return the table that the run was trained with, or None if it is gone or changed.

    Its column `file` holds the real path of each image. The images themselves may be gone.
    """
    if manifest.digest == recorded["digest"]:
        files = [os.path.realpath(path) for path in manifest.image_paths()]
        return manifest.table.assign(file=files)
    if (cells := read_recorded_manifest(recorded)) is None:
        return None
    folder = Path(recorded["path"]).parent.resolve()
    return cells.table.assign(
        age_months=numbers(cells, "age_months"),
        file=[os.path.realpath(image_path(folder, name)) for name in cells.table["image"]],
    )


def _count_overlap(training: pd.DataFrame | None, images: Manifest) -> dict[str, int] | None:
    """Count the images that the run was trained or selected on; None if that is unknown."""
    if training is None:
        return None
    tested = pd.Series([os.path.realpath(path) for path in images.image_paths()])
    return {
        split: int(tested.isin(training["file"][training["split"] == split]).sum())
        for split in ("train", "val")
    }
