"""Predict the bone ages of radiograph files with one finished run or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from boneage.errors import Fault, InputError
from boneage.prediction.answers import answer_faults
from boneage.prediction.predictor import Inputs, Predictor
from boneage.prediction.test_time_views import BATCH_SIZE
from boneage.radiographs.dicom_headers import find_dicom_header, header_findings
from boneage.radiographs.image_quality import ImageFinding
from boneage.radiographs.reader import read_radiograph
from boneage.run import Run
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

Status = Literal["answered", "refused", "unreadable", "failed"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one radiograph, or why there is none.

    Attributes:
        image: The path of the radiograph, as given.
        sex: `F` or `M`.
        status: `answered`; `refused` for an image that is blank, or inverted without a hand;
            `unreadable` for a file that can't be decoded; `failed` if the model's answer is no bone
            age.
        predicted_age_months: Months; None unless answered.
        fault: Why it is not answered, and what to do; None if answered.
        warnings: What a person should check. `data check` has the same findings.
    """

    image: str
    sex: str
    status: Status
    predicted_age_months: float | None = None
    fault: Fault | None = None
    warnings: tuple[ImageFinding, ...] = ()


def predict_radiographs(
    run: Run,
    radiographs: Sequence[str | Path],
    sex: str,
    *,
    others: Sequence[Run] = (),
    views: int | None = None,
    phases: int | None = None,
) -> Iterator[Prediction]:
    """Predict the bone ages of children of one sex, a batch at a time.

    No file ends the job. The model is loaded when the first image is ready.

    Args:
        run: A finished run.
        radiographs: Image files, read and framed exactly as in training.
        sex: `F` or `M`.
        others: Further runs whose answers are averaged with those of the run.
        views: Test-time views averaged per image. Default: the recipe's value.
        phases: Phases averaged per radiograph. Default: the recipe's value.

    Returns:
        One prediction for each file, in their order.

    Raises:
        InputError: As `Predictor`, or a model can't be read.
    """
    # Wrong numbers are refused here, before any file is decoded.
    predictor = Predictor([run, *others], views=views, phases=phases)
    return _predict_each(predictor, radiographs, sex)


def _predict_each(
    predictor: Predictor, radiographs: Sequence[str | Path], sex: str
) -> Iterator[Prediction]:
    with threads(usable_cores()) as pool:
        prepared = pool.map(partial(_prepare, predictor=predictor, sex=sex), radiographs)
        while batch := list(islice(prepared, BATCH_SIZE)):
            inputs = [framed for _, framed in batch if framed is not None]
            gender = np.full((len(inputs), 1), float(sex == "M"), dtype=np.float32)
            months = iter(predictor.answer(inputs, gender).tolist())
            for prediction, framed in batch:
                yield prediction if framed is None else _answered(prediction, next(months))


def _answered(prediction: Prediction, months: float) -> Prediction:
    """Add the answer of the model, or the fault of an answer that is no bone age."""
    for fault in answer_faults([prediction.image], np.array([months])):
        return replace(prediction, status="failed", fault=fault)
    return replace(prediction, predicted_age_months=months)


def _prepare(
    radiograph: str | Path, *, predictor: Predictor, sex: str
) -> tuple[Prediction, Inputs | None]:
    """Decode, check and frame one file. Without an image, the prediction says why."""
    name = str(radiograph)
    try:
        image = read_radiograph(radiograph)
        found = predictor.frame_or_refuse(image, name)
        if isinstance(found, Fault):
            return Prediction(name, sex, "refused", fault=found), None
        framed, findings = found
        header = find_dicom_header(Path(radiograph))
        if header is not None:
            findings = [*header_findings(header, sex), *findings]
    except InputError as error:
        fault = replace(error.faults[0], where=name)
    except Exception as error:  # noqa: BLE001 - no file may cost the others their answers
        what = f"the file can't be decoded ({type(error).__name__})"
        fault = Fault(name, what, "Save it as a grey PNG.")
    else:
        return Prediction(name, sex, "answered", warnings=tuple(findings)), framed
    return Prediction(name, sex, "unreadable", fault=fault), None
