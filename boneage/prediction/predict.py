"""Predict bone ages with a finished run: for radiograph files, or for framed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.prediction.answers import limit_answers
from boneage.prediction.engines import Engine, load_engine
from boneage.prediction.test_time_views import test_time_views
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import read_radiograph
from boneage.run import Run
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

BATCH_SIZE = 64


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
    """The predicted bone age of one radiograph.

    Attributes:
        image: The path of the radiograph, as given.
        sex: `F` or `M`.
        predicted_age_months: Months.
    """

    image: str
    sex: str
    predicted_age_months: float


def predict_radiographs(
    run: Run, radiographs: Sequence[Path], sex: str, *, views: int | None = None
) -> list[Prediction]:
    """Predict the bone ages of children of one sex.

    Args:
        run: A finished run.
        radiographs: Image files, read and framed exactly as in training.
        sex: `F` or `M`.
        views: Test-time views averaged per image. Default: the recipe's value.

    Returns:
        One prediction for each file, in their order.

    Raises:
        InputError: Files can't be read (all of them are named), or there is no such number of
            views.
    """
    recipe = run.read_recipe()
    views = recipe.prediction.views if views is None else views
    test_time_views(views)  # refuses a wrong number before any file is decoded

    def read(path: Path) -> npt.NDArray[np.uint8] | InputError:
        try:
            return frame(read_radiograph(path), recipe.framing).pixels
        except InputError as error:
            return error

    images: list[npt.NDArray[np.uint8]] = []
    faults: list[Fault] = []
    with threads(usable_cores()) as pool:
        for answer in pool.map(read, radiographs):
            if isinstance(answer, InputError):
                faults += answer.faults
            else:
                images.append(answer)
    if faults:
        raise InputError(faults)
    gender = np.full((len(images), 1), float(sex == "M"), dtype=np.float32)
    months = predict_images(load_engine(run), images, gender, views=views)
    return [
        Prediction(str(path), sex, float(age))
        for path, age in zip(radiographs, months, strict=True)
    ]


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
