"""Measure how much changes of the raw radiographs move the answers of a model."""

from __future__ import annotations

import datetime
import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from boneage import __version__
from boneage.datasets.label_rules import Region
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import Fault, InputError
from boneage.evaluation import figures
from boneage.evaluation.paired import bootstrap_mean, number_groups
from boneage.evaluation.radiograph_changes import CHANGES, UNCHANGED, VERSION, Change
from boneage.evaluation.records import read_stress
from boneage.evaluation.result import MIN_IMAGES, count_scorings, prepare_results
from boneage.evaluation.scoring import (
    in_order,
    known_patients,
    name_results,
    own_manifest,
    views_used,
)
from boneage.prediction.possible_ages import possible_answers
from boneage.prediction.predictor import UNFAMILIAR, Inputs, Predictor, mean_answer
from boneage.prediction.test_time_views import BATCH_SIZE
from boneage.radiographs.framing import cut_region
from boneage.radiographs.reader import Radiograph, read_dimensions, read_radiograph
from boneage.run import Run
from boneage.runtime.files import (
    check_folder_writable,
    read_bytes,
    read_json,
    replacing,
    write_json,
    write_text,
)
from boneage.runtime.provenance import file_digest, provenance, usable_cores
from boneage.runtime.threads import threads

MAX_REFUSED, MIN_REFUSED = 0.05, 0.95
"""Share of refused images up to which a gate is passed, and from which a refusal passes."""

_FOUND = ("val-test", "test", "val", "train")

Months = npt.NDArray[np.float64]


def find_stress(run: Run) -> dict[str, Any] | None:
    """Return the result of the run's present model that says most; None without one.

    Images of the run's own manifest come first, then the largest: those with the most pixels in
    the median. Of these, `val-test` comes before `test`, `val` and `train`, then more images
    before fewer, then the shortest name.

    Args:
        run: A run folder, or a folder that `--out` named.

    Raises:
        InputError: As `read_stress`.
    """
    info = run.read_info()
    models, own = _model_digests(run, info), (info.get("manifest") or {}).get("digest")

    def rank(result: Mapping[str, Any]) -> tuple[int, ...]:
        is_external = (result.get("manifest") or {}).get("digest") != own
        width, height = result["median_size_pixels"] if is_external else (0, 0)
        return is_external, -width * height, _FOUND.index(result["split"]), -result["n"]

    paths = sorted(run.folder.glob("stress-*.json"), key=lambda path: (len(path.stem), path.stem))
    results = [
        result
        for result in map(read_stress, paths)
        if result["split"] in _FOUND and models in (None, result.get("model_digests"))
    ]
    return min(results, key=rank, default=None)


def _model_digests(run: Run, info: Mapping[str, Any]) -> list[str] | None:
    """Return the digests of the models that answer; None in the results of a shipped model.

    Such a folder holds no other results than those of its model.
    """
    if members := info.get("members"):
        return [member["digest"] for member in members]
    if run.network_path.exists():
        return [file_digest(run.network_path)]
    recorded = (info.get("digests") or {}).get(run.best_path.name)  # of a folder of --out
    return None if recorded is None else [recorded]


def stress_run(
    run: Run,
    *,
    others: Sequence[Run] = (),
    data: Path | None = None,
    split: str | Sequence[str] = "test",
    limit: int | None = None,
    views: int | None = None,
    phases: int | None = None,
    out: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Change every raw radiograph of a split in many ways, and compare the answers.

    Several splits are one, such as `val-test`.

    A changed radiograph is framed, refused or answered as `predict` does it. The answers of every
    finished change are kept in the folder `stress-NAME` of the results, so a repeated call
    continues. With another model or version, it starts again. NAME is that of an evaluation's
    files, see `name_results`, then the number of images where `limit` leaves some out.

    Args:
        run: A finished run.
        others: Further runs whose answers are averaged with those of the run.
        data: Another manifest than the run's own.
        split: `train`, `val` or `test`, or several of them.
        limit: Use so many images, drawn by a fixed seed. Default: all.
        views: Test-time views averaged per image. Default: the recipe's value.
        phases: Phases averaged per radiograph. Default: the recipe's value.
        out: Folder for the results; see `result.prepare_results` for the default.
        progress: Show progress on standard error.

    Returns:
        The content of `stress-NAME.json`. `n` images are answered unchanged, and
        `refused_unchanged` are not; `patients` are those of the `n`, if known. `changes` holds for
        each change: `n`; `refused`; the shift of the answer and the difference of the MAE, changed
        minus unchanged, on images that are answered both times, None for fewer than five; `gate`,
        the largest difference that passes, or None; and `passed`. All intervals are 95 % bootstrap
        intervals, by patient where the manifest has `patient_id`. `test_scorings` counts how often
        the test split was scored, if it was now. `file` is the name of the result.

    Raises:
        InputError: The manifest is missing, faulty or changed; the split is empty; an image or the
            model can't be read; fewer than five images are answered; or the results can't go into
            that folder.
    """
    predictor = Predictor([run, *others], views=views, phases=phases)
    manifest = own_manifest(predictor.runs) if data is None else read_manifest(data)
    splits = in_order(split)
    tables = [manifest.split(each).table for each in splits]
    split = "-".join(splits)
    everything = replace(manifest, table=pd.concat(tables, ignore_index=True))
    images = _draw(everything, limit)
    name = name_results(split, predictor, manifest, views, phases)
    name += f"-{len(images)}-images" if len(images) < len(everything) else ""
    results = prepare_results(run, out, others)
    cohort = _Cohort(images, predictor)
    kept = _KeptAnswers(results.folder / f"stress-{name}", images.table["image_id"].tolist())
    kept.begin(_task(cohort, split))
    answers = {}
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("", total=(len(CHANGES) + 1) * len(images))
        for change in (UNCHANGED, *CHANGES):
            bar.update(task, description=f"{change.name:<22}")
            months = kept.read(change)
            if months is None:
                advance = functools.partial(bar.advance, task)
                months = cohort.predict(change, advance)
                kept.write(change, months)
            else:
                bar.advance(task, len(images))
            answers[change.name] = months
            if (answered := int(np.isfinite(answers[UNCHANGED.name]).sum())) < MIN_IMAGES:
                what = f"only {answered} of {len(images)} {split} images get an answer"
                fix = "Use more images. Check them: boneage data check."
                expected = f"at least {MIN_IMAGES}, because means of fewer reveal single images"
                raise InputError(Fault(str(manifest.path), what, fix, expected))
    path = results.stress_path(name)
    result = _result(cohort, answers, split) | {
        "manifest": {
            "file": manifest.path.name,
            "digest": manifest.digest,
            "split_digest": manifest.split_digest,
        },
        "model_digests": [file_digest(each.network_path) for each in predictor.runs],
        "boneage": __version__,
        "stressed": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "file": path.name,
    }
    if "test" in splits:
        result["test_scorings"] = 1 + count_scorings(results, "test", manifest.digest)
    write_json(path, result)
    _draw_pictures(path, cohort, result)
    return result


def _draw(images: Manifest, limit: int | None) -> Manifest:
    if limit is None or limit >= len(images):
        return images
    rows = np.sort(np.random.default_rng(0).permutation(len(images))[:limit])
    return replace(images, table=images.table.iloc[rows].reset_index(drop=True))


def _task(cohort: _Cohort, split: str) -> dict[str, Any]:
    """Return what the answers depend on."""
    return {
        "boneage": __version__,
        "commit": provenance()["commit"],
        "changes": VERSION,
        "models": [run.digests() for run in cohort.predictor.runs],
        "manifest": cohort.images.digest,
        "split": split,
        "images": len(cohort.images),
        **views_used(cohort.predictor),
    }


@dataclass(frozen=True)
class _Cohort:
    """The images that are changed, and the runs that answer."""

    images: Manifest
    predictor: Predictor

    @functools.cached_property
    def files(self) -> list[tuple[Path, Region | None]]:
        """The file of every radiograph, and the part of it that is used."""
        return list(zip(self.images.image_paths(), self.images.regions(), strict=True))

    def radiograph(self, row: int) -> Radiograph:
        """Decode the radiograph of a row; only its region, if it has one."""
        path, region = self.files[row]
        radiograph = read_radiograph(path)
        return radiograph if region is None else cut_region(radiograph, region)

    def change(self, row: int, change: Change, radiograph: Radiograph) -> Radiograph:
        """Return the radiograph of a row, changed."""
        size = self.predictor.groups[0].framing.size
        return change(radiograph, str(self.images.table["image_id"][row]), size)

    def frame(self, radiograph: Radiograph) -> tuple[Inputs, float] | None:
        """Frame a radiograph as `predict` does; None if that refuses it.

        Returns:
            The framed images, and the confidence of the hand's orientation.
        """
        found = self.predictor.assess(radiograph)
        if found.inputs is None or found.refusal is not None:
            return None
        return found.inputs, found.confidence

    def predict(self, change: Change, advance: Callable[[int], None]) -> Months:
        """Return the answers for the changed radiographs; NaN where there is none.

        Args:
            change: The change.
            advance: Receives the number of images that were answered since the last call.

        Returns:
            float64 (n,), months.
        """
        gender = self.images.gender()
        gender = 1 - gender if change.wrong_sex else gender
        months = np.full(len(self.images), np.nan)

        def prepare(row: int) -> tuple[Inputs, float] | None:
            return self.frame(self.change(row, change, self.radiograph(row)))

        with threads(usable_cores()) as pool:
            framed = enumerate(pool.map(prepare, range(len(self.images))))
            while batch := list(islice(framed, BATCH_SIZE)):
                usable = [(row, *found) for row, found in batch if found is not None]
                rows = [row for row, *_ in usable]
                outputs = self.predictor.estimate([each for _, each, _ in usable], gender[rows])
                judged = self.predictor.judge(outputs, [confidence for *_, confidence in usable])
                known = [each is None or each.code != UNFAMILIAR for each in judged]
                months[rows] = np.where(known, mean_answer(outputs), np.nan)
                advance(len(batch))
        return np.where(possible_answers(months), months, np.nan)

    def median_size(self) -> list[int]:
        """Return the median width and height of the radiographs, pixels."""
        sizes = [
            (region[2] - region[0], region[3] - region[1]) if region else read_dimensions(path)
            for path, region in self.files
        ]
        return [round(float(side)) for side in np.median(sizes, axis=0)]


@dataclass(frozen=True)
class _KeptAnswers:
    """The answers of finished changes: a CSV for each in a folder, and `task.json`."""

    folder: Path
    image_ids: list[str]

    def _path(self, change: Change) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', change.name)}.csv"

    def begin(self, task: Mapping[str, Any]) -> None:
        """Remove the answers of another task, and record this one."""
        check_folder_writable(self.folder)
        path = self.folder / "task.json"
        if path.exists() and read_json(path) == task:
            return
        for change in (UNCHANGED, *CHANGES):
            self._path(change).unlink(missing_ok=True)
        write_json(path, dict(task))

    def read(self, change: Change) -> Months | None:
        """Return the answers, (n,) months; None if they are missing or damaged."""
        if not self._path(change).exists():
            return None
        try:
            text = io.BytesIO(read_bytes(self._path(change)))
            table = pd.read_csv(text, dtype=str, keep_default_na=False)
            # pandas 2 reads a number itself with an error in its last digit.
            texts = table["predicted_age_months"].replace("", "nan")
            months = np.array(texts.tolist(), dtype=np.float64)
        except (InputError, ValueError, KeyError):
            return None
        same = table["image_id"].tolist() == self.image_ids
        return months if same else None

    def write(self, change: Change, months: Months) -> None:
        """Keep the answers, (n,) months."""
        table = pd.DataFrame({"image_id": self.image_ids, "predicted_age_months": months})
        write_text(self._path(change), table.to_csv(index=False))


def _result(cohort: _Cohort, answers: Mapping[str, Months], split: str) -> dict[str, Any]:
    table, unchanged = cohort.images.table, answers[UNCHANGED.name]
    answered = np.isfinite(unchanged)
    ages = table["age_months"].to_numpy(np.float64)
    known = known_patients(table)
    patients = np.full(len(table), "") if known is None else known  # "" is a patient of its own
    error = np.abs(unchanged - ages)
    changes = []
    for change in CHANGES:
        months = answers[change.name]
        both = answered & np.isfinite(months)
        refused = int(answered.sum() - both.sum())
        if both.sum() < MIN_IMAGES:
            both = np.zeros_like(both)  # means of fewer reveal single images
        shift = (months - unchanged)[both]
        worse = (np.abs(months - ages) - error)[both]
        found = {
            "name": change.name,
            "n": int(answered.sum()),
            "refused": refused,
            "shift_months": bootstrap_mean(shift, patients[both]),
            "mean_absolute_shift_months": float(np.abs(shift).mean()) if len(shift) else None,
            "mae_difference_months": bootstrap_mean(worse, patients[both]),
            "gate": change.gate,
            "refusal_passes": change.refusal_passes,
        }
        changes.append({**found, "passed": _is_passed(found)})
    return {
        "n": int(answered.sum()),
        "patients": None
        if known is None
        else len(set(number_groups(known[answered], answered.sum()))),
        "refused_unchanged": int((~answered).sum()),
        "split": split,
        **views_used(cohort.predictor),
        "median_size_pixels": cohort.median_size(),
        "mae_months": bootstrap_mean(error[answered], patients[answered]),
        "changes": changes,
    }


def _is_passed(found: Mapping[str, Any]) -> bool | None:
    """Return whether a change passes its gate; None without one."""
    if found["gate"] is None:
        return None
    refused, difference = found["refused"] / found["n"], found["mae_difference_months"]["value"]
    if found["refusal_passes"] and refused >= MIN_REFUSED:
        return True
    is_answered = found["refusal_passes"] or refused <= MAX_REFUSED
    return is_answered and difference is not None and difference <= found["gate"]


def _draw_pictures(path: Path, cohort: _Cohort, result: Mapping[str, Any]) -> None:
    """Write the chart of a result, and a picture of one radiograph under every change."""
    with replacing(path.with_suffix(".png")) as part:
        figures.save_png(figures.mae_by_change(result["changes"]), part)
    cells, radiograph = [], cohort.radiograph(0)
    for change in (UNCHANGED, *CHANGES):
        changed = cohort.change(0, change, radiograph)
        framed = cohort.frame(changed)
        cells.append((change.name, changed, None if framed is None else framed[0][0][0]))
    with replacing(path.with_name(f"{path.stem}-radiograph.png")) as part:
        figures.save_png(figures.changed_radiographs(cells), part)
