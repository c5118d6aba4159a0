"""Predict bone ages with a finished run: for radiograph files, or for framed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.prediction.answers import answer_faults, limit_answers
from boneage.prediction.engines import Engine, load_engine
from boneage.prediction.test_time_views import test_time_views
from boneage.radiographs.dicom_headers import find_dicom_header, header_findings
from boneage.radiographs.framing import frame, framing_findings
from boneage.radiographs.image_quality import (
    ImageFinding,
    assess_quality,
    find_blank,
    quality_findings,
)
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing
from boneage.run import Run
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

BATCH_SIZE = 64

Status = Literal["answered", "refused", "unreadable", "failed"]


class Images(Protocol):
    """Framed images by row: an array (n, size, size), a list of arrays, or a store."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        """Return one image: uint8 (size, size)."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The answer for one radiograph, or why there is none.

    Attributes:
        image: The path of the radiograph, as given.
        sex: `F` or `M`.
        status: `answered`; `refused` for an image that is blank; `unreadable` for a file that
            can't be decoded; `failed` if the model's answer is no bone age.
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
    run: Run, radiographs: Sequence[str | Path], sex: str, *, views: int | None = None
) -> Iterator[Prediction]:
    """Predict the bone ages of children of one sex, a batch at a time.

    No file ends the job. The model is loaded when the first image is ready.

    Args:
        run: A finished run.
        radiographs: Image files, read and framed exactly as in training.
        sex: `F` or `M`.
        views: Test-time views averaged per image. Default: the recipe's value.

    Returns:
        One prediction for each file, in their order.

    Raises:
        InputError: There is no such number of views, or the model can't be read.
    """
    recipe = run.read_recipe()
    views = recipe.prediction.views if views is None else views
    test_time_views(views)  # refuses a wrong number before any file is decoded
    return _predict_each(run, recipe.framing, radiographs, sex, views)


def _predict_each(
    run: Run, framing: Framing, radiographs: Sequence[str | Path], sex: str, views: int
) -> Iterator[Prediction]:
    engine: Engine | None = None
    with threads(usable_cores()) as pool:
        inputs = pool.map(partial(_prepare, framing=framing, sex=sex), radiographs)
        while batch := list(islice(inputs, BATCH_SIZE)):
            images = [image for _, image in batch if image is not None]
            months = iter(())
            if images:
                engine = engine or load_engine(run)
                gender = np.full((len(images), 1), float(sex == "M"), dtype=np.float32)
                months = iter(predict_images(engine, images, gender, views=views).tolist())
            for prediction, image in batch:
                yield prediction if image is None else _answered(prediction, next(months))


def _answered(prediction: Prediction, months: float) -> Prediction:
    """Add the answer of the model, or the fault of an answer that is no bone age."""
    for fault in answer_faults([prediction.image], np.array([months])):
        return replace(prediction, status="failed", fault=fault)
    return replace(prediction, predicted_age_months=months)


def _prepare(
    radiograph: str | Path, *, framing: Framing, sex: str
) -> tuple[Prediction, npt.NDArray[np.uint8] | None]:
    """Decode, check and frame one file. Without an image, the prediction says why."""
    name = str(radiograph)
    try:
        image = read_radiograph(radiograph)
        blank = find_blank(image)
        if blank is not None:
            fault = Fault(name, blank.what, blank.fix)
            return Prediction(name, sex, "refused", fault=fault), None
        framed = frame(image, framing)
        header = find_dicom_header(Path(radiograph))
        findings = [
            *(header_findings(header, sex) if header is not None else ()),
            *quality_findings(assess_quality(image)),
            *framing_findings(framed),
        ]
    except InputError as error:
        fault = replace(error.faults[0], where=name)
    except Exception as error:  # noqa: BLE001 - no file may cost the others their answers
        what = f"the file can't be decoded ({type(error).__name__})"
        fault = Fault(name, what, "Save it as a grey PNG.")
    else:
        return Prediction(name, sex, "answered", warnings=tuple(findings)), framed.pixels
    return Prediction(name, sex, "unreadable", fault=fault), None


def predict_images(
    engine: Engine,
    images: Images,
    gender: npt.NDArray[np.float32],
    *,
    views: int = 1,
    batch_size: int = BATCH_SIZE,
) -> npt.NDArray[np.float64]:
    """Return the predicted age of every image, averaged over its test-time views.

    An answer of up to a year outside 0 to 240 months becomes the nearest of these ages. See
    `boneage.prediction.answers` for what else is no bone age.

    Args:
        engine: The network.
        images: Framed as the network was trained.
        gender: float32 (n, 1), 1.0 = male.
        views: Test-time views averaged per image.
        batch_size: Images per batch; it does not change the answers.

    Returns:
        float64 (n,), months.
    """
    batches = predict_batches(engine, images, gender, views=views, batch_size=batch_size)
    return np.concatenate([np.empty(0), *batches])


def predict_batches(
    engine: Engine,
    images: Images,
    gender: npt.NDArray[np.float32],
    *,
    views: int = 1,
    batch_size: int = BATCH_SIZE,
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the answers of `predict_images` batch by batch: float64 (b,), months."""
    make_views = test_time_views(views)
    for first in range(0, len(images), batch_size):
        rows = range(first, min(first + batch_size, len(images)))
        batch = [images[row] for row in rows]
        total = np.zeros(len(batch))
        for make_view in make_views:
            pixels = np.stack([make_view(image) for image in batch])[..., np.newaxis]
            total += engine.predict(
                pixels.astype(np.float32) / np.float32(255), gender[rows.start : rows.stop]
            )
        yield limit_answers(total / views)
