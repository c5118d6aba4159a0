"""A finished run answering for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage.errors import Fault, InputError
from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.store import Store, StoreView
from boneage.prediction.shipped import check_release
from boneage.prediction.test_time_views import looks
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import read_radiograph
from boneage.run import Run
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads


def load_model(run: Run) -> keras.Model:
    """The run's best model, ready to predict; a released one only if it is whole.

    Raises:
        InputError: The file is not a model that this version of Keras can read, or a released
            model's files are not those that were released.
    """
    check_release(run.folder)
    try:
        return keras.models.load_model(run.best_path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            Fault(
                str(run.best_path),
                f"the model can't be read: {str(error).splitlines()[0]}",
                "Was the file cut short or copied from elsewhere? Train again.",
                expected="a .keras file as training wrote it",
            )
        ) from None


def predict_images(
    model: keras.Model,
    images: Store | StoreView | np.ndarray,
    gender: np.ndarray,
    *,
    views: int = 1,
    batch_size: int = 64,
    progress: bool = False,
) -> np.ndarray:
    """Predicted ages, each the mean of the answers for so many views of the image.

    Args:
        model: As `load_model` gives it.
        images: uint8 (n, size, size), framed as the model was trained; an array or a store.
        gender: float32 (n, 1), 1.0 = male.
        views: How many: see `boneage.prediction.test_time_views.looks`.
        batch_size: Images at once; it does not change the answers.
        progress: Whether to show Keras' bar.

    Returns:
        float64 (n,), months.
    """
    total = np.zeros(len(gender), dtype=np.float64)
    for look in looks(views):
        batches = DataGenerator(images, gender, None, batch_size=batch_size, augmentation=look)
        answers = model.predict(batches, verbose="auto" if progress else 0)
        total += np.asarray(answers, dtype=np.float64)[:, 0]
    return total / views


def predict_radiographs(
    run: Run, radiographs: Sequence[Path], sex: str, *, views: int | None = None
) -> pd.DataFrame:
    """Predicted ages for radiograph files of children of one sex.

    Args:
        run: A finished run.
        radiographs: Image files as received; decoded and framed exactly as in training.
        sex: `"F"` or `"M"`.
        views: Of each radiograph, whose answers are averaged; if not given, as many as the run's
            recipe says.

    Returns:
        One row a file: `image`, `sex`, `predicted_age_months`.

    Raises:
        InputError: Every file that can't be read, or a number of views that there is not.
    """
    recipe = run.read_recipe()
    views = recipe.prediction.views if views is None else views
    looks(views)  # nothing is decoded for a number of views that there is not
    images: list[npt.NDArray[np.uint8]] = []
    faults: list[Fault] = []

    def framed(path: Path) -> npt.NDArray[np.uint8] | InputError:
        try:
            return frame(read_radiograph(path), recipe.framing).pixels
        except InputError as error:
            return error

    with threads(usable_cores()) as pool:
        for answer in pool.map(framed, radiographs):
            if isinstance(answer, InputError):
                faults += answer.faults
            else:
                images.append(answer)
    if faults:
        raise InputError(faults)
    gender = np.full((len(images), 1), float(sex == "M"), dtype=np.float32)
    return pd.DataFrame(
        {
            "image": [str(path) for path in radiographs],
            "sex": sex,
            "predicted_age_months": predict_images(
                load_model(run), np.stack(images), gender, views=views
            ),
        }
    )
