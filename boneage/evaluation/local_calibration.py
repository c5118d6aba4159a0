"""Fit a correction of a model's answers to local radiographs: an offset or a line by sex.

Everything is judged by leaving one child out: its answers are corrected by what the other children
say. A line replaces an offset only where its error is smaller by more than the standard error of
the difference. The whole is refused unless the interval of the gain is above 0.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage import __version__
from boneage.datasets.label_rules import SPLITS
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.known_ids import KnownIds, find_known_ids
from boneage.evaluation.metrics import SEX_WORDS
from boneage.evaluation.paired import bootstrap_mean, number_groups, standard_error
from boneage.evaluation.scoring import estimate_split, in_order, known_patients, views_used
from boneage.prediction.calibration import VERSION, Correction, Kind, mean_deviations
from boneage.prediction.intervals import fit_scores, new_intervals
from boneage.prediction.possible_ages import answer_faults
from boneage.prediction.predictor import Predictor, mean_answer
from boneage.prediction.shipped import identify_model
from boneage.prediction.test_time_views import join_outputs
from boneage.run import MANIFEST_KEYS, Run
from boneage.runtime.files import check_file_writable, write_json

MIN_CHILDREN = 100
"""Children in all. Fewer decide nothing, and give no 99 % interval."""
MIN_CHILDREN_OF_SEX = 30
"""Children of a sex whose answers are corrected."""
ENOUGH_MONTHS = 0.1
"""So many children are enough that all of them lower the MAE by no more than this."""

_SHOWN_FAULTS, _LEVEL = 5, 0.9
_SIZES = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)
_LARGEST_SHARE = 0.8  # of the children; the others are what a size is measured on
_DRAWS, _CELLS = 200, 4_000_000  # of the learning curve; at most so many numbers at once
_LEAST_VARIANCE = 1.0  # months², of answers to which a line is fitted

Months = npt.NDArray[np.float64]


def calibrate_run(
    run: Run,
    out: Path,
    *,
    data: Path,
    others: Sequence[Run] = (),
    split: Sequence[str] | None = None,
    views: int | None = None,
    phases: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit the correction of a run's answers to the radiographs of a manifest, and write it.

    Args:
        run: A finished run.
        out: The file to write; see `boneage.prediction.calibration`.
        data: The manifest of the local radiographs.
        others: Further runs whose answers are averaged with those of the run.
        split: Splits to use. Default: every split of the manifest.
        views: Test-time views averaged per image. Default: the recipe's value.
        phases: Phases averaged per radiograph. Default: the recipe's value.
        progress: Show progress on standard error.

    Returns:
        The content of the file.

    Raises:
        InputError: The manifest is faulty; it has training images of the run; an image or the model
            can't be read; there are too few children; or a calibration would not help.
    """
    check_file_writable(out)
    predictor = Predictor([run, *others], views=views, phases=phases)
    manifest = read_manifest(data)
    present = [name for name in SPLITS if (manifest.table["split"] == name).any()]
    splits = in_order(split or present)
    _refuse_training_images(predictor.runs, manifest, splits)
    parts = [manifest.split(name).table for name in splits]
    table = pd.concat(parts, ignore_index=True)
    labels, sexes = table["age_months"].to_numpy(np.float64), table["sex"].to_numpy(str)
    patients = known_patients(table)
    _refuse_few(sexes, number_groups(patients, len(table)))
    outputs = [estimate_split(predictor, manifest, name, progress=progress) for name in splits]
    joined = [join_outputs(each) for each in zip(*outputs, strict=True)]
    answers = mean_answer(joined)
    if faults := answer_faults(table["image_id"].tolist(), answers):
        raise InputError(faults[:_SHOWN_FAULTS])
    fit = fit_corrections(answers, labels, sexes, patients)
    refuse_without_gain(f"--data {data}", fit.measured)
    models = [new_intervals(each) for each in predictor.runs]
    errors, deviations = np.abs(fit.left_out - labels), mean_deviations(models, joined)
    scores = fit_scores(errors / deviations, **views_used(predictor))
    known = _known_images(predictor.runs, table)
    values = {
        "version": VERSION,
        "models": [vars(identify_model(each)) for each in predictor.runs],
        **views_used(predictor),
        "n": len(table),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "boneage": __version__,
        "manifest": {
            "file": manifest.path.name,
            "digest": manifest.digest,
            "splits": splits,
            "known_ids": known,
        },
        "interval": {
            "level": _LEVEL,
            "median_width_months": float(2 * scores.quantile(_LEVEL) * np.median(deviations)),
        },
        "scores": scores.model_dump(),
        "corrections": {sex: vars(each) for sex, each in fit.corrections.items()},
        "leave_one_out": fit.measured,
    }
    write_json(out, values)
    return values


def _refuse_training_images(runs: Sequence[Run], manifest: Manifest, splits: Sequence[str]) -> None:
    """Raise an error if the images trained one of the runs: their errors are too small."""
    digests = {run.read_info(MANIFEST_KEYS)["manifest"]["digest"] for run in runs}
    if manifest.digest in digests and "train" in splits:
        what = "a run was trained with the split train of this manifest, so its errors are small"
        fix = "Name other radiographs, or use --split val --split test."
        raise InputError(Fault(f"--data {manifest.path}", what, fix))


def _known_images(runs: Sequence[Run], table: pd.DataFrame) -> dict[str, Any] | None:
    """Return how many images at most the runs knew by their ids; None if that is unknown."""
    together = KnownIds()
    for run in runs:
        if (known := find_known_ids(run)) is None:
            return None
        together |= known
    return {"at_most": together.count(table), "false_positives": together.by_chance(table)}


@dataclass(frozen=True)
class LocalFit:
    """A correction by sex, and what it changes on the radiographs that it was fitted to.

    Attributes:
        corrections: For each sex.
        left_out: (n,) answers, each corrected without the radiographs of the same child.
        measured: JSON values: `n`, `children`, `mae_before_months`, `mae_after_months` (left out),
            `gain_months` with `value`, `low` and `high`; the same for each `sex`; and
            `learning_curve` and `enough_children`.
    """

    corrections: dict[str, Correction]
    left_out: Months
    measured: dict[str, Any]


def fit_corrections(
    answers: Months,
    labels: Months,
    sexes: npt.NDArray[np.str_],
    patients: Sequence[str] | npt.NDArray[np.str_] | None = None,
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> LocalFit:
    """Fit the correction of each sex.

    A sex with fewer than 30 children is not corrected. Nor is one for which the correction is
    worse than none on the child that is left out.

    Args:
        answers: (n,) answers of the model, months.
        labels: (n,) labelled bone ages, months.
        sexes: (n,) `F` or `M`.
        patients: (n,) patient of each radiograph; "" is a patient of its own. None if unknown.
        bootstrap: Number of resamples of the intervals.
        seed: Seed of intervals and of the learning curve.

    Raises:
        InputError: There are fewer than 100 children, or fewer than 30 of each sex.
    """
    children = number_groups(patients, len(answers))
    _refuse_few(sexes, children)
    fits = {
        sex: _SexFit(answers[rows], labels[rows], children[rows])
        for sex in SEX_WORDS
        if (rows := sexes == sex).any()
    }
    kinds = {sex: fit.choose() for sex, fit in fits.items()}
    left_out = answers.copy()
    for sex, fit in fits.items():
        left_out[sexes == sex] = fit.leave_one_out(kinds[sex])
    before, after = np.abs(answers - labels), np.abs(left_out - labels)

    def measure(rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        gain = bootstrap_mean((before - after)[rows], children[rows], draws=bootstrap, seed=seed)
        return {
            "n": int(rows.sum()),
            "children": len(set(children[rows].tolist())),
            "mae_before_months": float(before[rows].mean()),
            "mae_after_months": float(after[rows].mean()),
            "gain_months": gain,
        }

    measured = measure(np.ones(len(answers), dtype=bool))
    measured["sex"] = {sex: measure(sexes == sex) for sex in fits}
    curve = _learning_curve([(fit, kinds[sex]) for sex, fit in fits.items()], seed)
    limit = measured["mae_after_months"] + ENOUGH_MONTHS
    enough = [point["children"] for point in curve if point["mae_months"] <= limit]
    measured |= {"learning_curve": curve, "enough_children": min(enough, default=None)}
    return LocalFit({sex: fit.correct(kinds[sex]) for sex, fit in fits.items()}, left_out, measured)


def refuse_without_gain(where: str, measured: dict[str, Any]) -> None:
    """Raise an error unless the correction lowers the error of children that are left out.

    Args:
        where: The radiographs, for the message.
        measured: That of a `LocalFit`.

    Raises:
        InputError: The 95 % interval of the gain includes 0. It has the measurement.
    """
    gain = measured["gain_months"]
    if gain["low"] > 0:
        return
    before, after = measured["mae_before_months"], measured["mae_after_months"]
    interval = f"[{gain['low']:.2f}, {gain['high']:.2f}]"
    what = (
        f"a calibration would not help: MAE {before:.2f} months without it, {after:.2f} with it on "
        f"the child left out, gain {gain['value']:.2f} {interval}, n = {measured['n']:,}"
    )
    fix = "Use the model as it is."
    if gain["value"] > 0:
        error = (gain["high"] - gain["low"]) / 2
        needed = math.ceil(measured["children"] * (error / gain["value"]) ** 2 / 10) * 10
        fix += f" If the gain stays the same, about {needed:,} children could show it."
    raise InputError(Fault(where, what, fix))


def _refuse_few(sexes: npt.NDArray[np.str_], children: npt.NDArray[np.intp]) -> None:
    """Raise an error if there are too few children; see `fit_corrections`."""
    counts = {sex: len(set(children[sexes == sex].tolist())) for sex in SEX_WORDS}
    total = len(set(children.tolist()))
    if total >= MIN_CHILDREN and max(counts.values()) >= MIN_CHILDREN_OF_SEX:
        return
    of_sex = " and ".join(f"{count:,} {SEX_WORDS[sex]}" for sex, count in counts.items())
    what = f"there are {total:,} children with a labelled radiograph ({of_sex})"
    expected = f"at least {MIN_CHILDREN}, and {MIN_CHILDREN_OF_SEX} of a sex to correct it"
    raise InputError(Fault("calibration", what, "Add radiographs with labels.", expected))


class _SexFit:
    """Answers and labels of one sex, as sums of each child.

    Lines without one child, and those of many random parts, are then a difference or a product.
    """

    def __init__(self, answers: Months, labels: Months, children: npt.NDArray[np.intp]) -> None:
        self._centre = float(answers.mean())
        self._x, self._y = answers - self._centre, labels - self._centre
        self._child = np.unique(children, return_inverse=True)[1]
        self.children = int(self._child.max()) + 1
        columns = [np.ones_like(self._x), self._x, self._y, self._x**2, self._x * self._y]
        self._sums = np.zeros((self.children, len(columns)))
        np.add.at(self._sums, self._child, np.stack(columns, axis=1))
        self._answers = answers

    def choose(self) -> Kind:
        """Return the kind of correction that leaving one child out recommends."""
        if self.children < MIN_CHILDREN_OF_SEX:
            return "none"
        kind: Kind = "offset"
        none, offset, linear = (
            np.abs(self.leave_one_out(each) - self._centre - self._y)
            for each in ("none", "offset", "linear")
        )
        difference = linear - offset
        if float(difference.mean()) < -standard_error(difference, self._child):
            kind = "linear"
        chosen = linear if kind == "linear" else offset
        return kind if chosen.mean() < none.mean() else "none"

    def leave_one_out(self, kind: Kind) -> Months:
        """Return the answers (n,), each corrected without its child."""
        intercept, slope = self._lines(self._sums.sum(axis=0) - self._sums, kind)
        return np.asarray(
            self._centre + intercept[self._child] + slope[self._child] * self._x, dtype=np.float64
        )

    def correct(self, kind: Kind) -> Correction:
        """Return the correction that all children give."""
        intercept, slope = (
            float(each[0]) for each in self._lines(self._sums.sum(axis=0)[None], kind)
        )
        low, high = np.percentile(self._answers, (1, 99)).tolist()
        return Correction(
            kind=kind,
            children=self.children,
            intercept_months=intercept + (1 - slope) * self._centre,
            slope=slope,
            low_months=low,
            high_months=high,
        )

    def errors_of_the_others(
        self, chosen: npt.NDArray[np.bool_], kind: Kind
    ) -> tuple[Months, npt.NDArray[np.int64]]:
        """Correct by some children, and sum up the absolute errors of the others.

        Args:
            chosen: bool (draws, children).
            kind: The correction.

        Returns:
            For each draw the sum of the errors, months, and the number of the images.
        """
        intercept, slope = self._lines(chosen @ self._sums, kind)
        errors = np.abs(intercept[:, None] + slope[:, None] * self._x - self._y)
        others = ~chosen[:, self._child]
        return (errors * others).sum(axis=1), others.sum(axis=1)

    def _lines(self, sums: Months, kind: Kind) -> tuple[Months, Months]:
        """Return intercept and slope of the label on the answer, around the centre.

        Args:
            sums: (m, 5) of the images that each line is fitted to.
            kind: `none` and `offset` have slope 1.
        """
        count, x, y, xx, xy = sums.T
        mean_x, mean_y = x / count, y / count
        slope = np.ones_like(count)
        if kind == "none":
            return np.zeros_like(count), slope
        if kind == "linear":
            variance = xx / count - mean_x**2
            covariance = xy / count - mean_x * mean_y
            has_slope = (variance > _LEAST_VARIANCE) & (covariance > 0)
            np.divide(covariance, variance, out=slope, where=has_slope)
        return mean_y - slope * mean_x, slope


def _learning_curve(fits: Sequence[tuple[_SexFit, Kind]], seed: int) -> list[dict[str, Any]]:
    """Return what corrections by fewer children would give, measured on all others.

    Returns:
        For each size `children`, and the MAE of the others in months: `mae_months`, the mean over
        random draws, and `low` and `high`, between which 80 % of the draws are.
    """
    total = sum(fit.children for fit, _ in fits)
    images = sum(len(fit._x) for fit, _ in fits)
    draws = max(20, min(_DRAWS, _CELLS // images))
    generator = np.random.default_rng(seed)
    curve = []
    for size in _SIZES:
        if size > _LARGEST_SHARE * total:
            break
        errors, counts = np.zeros(draws), np.zeros(draws)
        for fit, kind in fits:
            first = max(2, round(size * fit.children / total))
            chosen = np.tile(np.arange(fit.children) < first, (draws, 1))
            sums, others = fit.errors_of_the_others(generator.permuted(chosen, axis=1), kind)
            errors, counts = errors + sums, counts + others
        mae = errors / counts
        low, high = np.percentile(mae, (10, 90)).tolist()
        curve.append({"children": size, "mae_months": float(mae.mean()), "low": low, "high": high})
    return curve
