"""Where a training stands, whole, in one file: from it the training goes on as if never cut off.

The file is numpy's `.npz`: every variable of the model and the optimizer as an array, and the rest
as JSON. It can't hold code, and takes a twentieth of a second where Keras' own format takes three.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from boneage.errors import Fault, InputError
from boneage.runtime.files import replacing

_PLACE, _VARIABLE, _METRIC = "place", "variable", "metric"

Row = dict[str, float]


@dataclass
class Place:
    """How far a training has come.

    Attributes:
        rows: What `history.csv` holds, one row for each finished epoch.
        best_epoch: The epoch, from 1, with the lowest validation MAE; 0 before there is one.
        batch: How many batches of the next epoch have been trained on as well.
        train_logs: Those of that epoch when only its validation is missing.
        ended: Whether no further epoch is wanted.
        seconds: That the training has taken so far.
        epoch_seconds: Those of the unfinished epoch.
        callbacks: For each callback that remembers something, its attributes.
    """

    rows: list[Row] = field(default_factory=list)
    best_epoch: int = 0
    batch: int = 0
    train_logs: Row | None = None
    ended: bool = False
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    callbacks: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return len(self.rows)

    @property
    def best(self) -> Row | None:
        """The row of the best epoch."""
        return self.rows[self.best_epoch - 1] if self.best_epoch else None

    def __str__(self) -> str:
        """As in `epoch 3` or `epoch 3 and 17 batches`."""
        return f"epoch {self.epoch}" + (f" and {self.batch} batches" if self.batch else "")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        place: How far the training had come.
        recipe: The resolved recipe that it was trained by, as JSON values.
        variables: Of the model and then of the optimizer, in their order.
        metrics: The metrics' variables, for an epoch that is not finished.
    """

    place: Place
    recipe: dict[str, Any]
    variables: list[np.ndarray]
    metrics: list[np.ndarray]

    def restore(self, model: keras.Model) -> None:
        """Gives the compiled model, and its optimizer, the values they had.

        Raises:
            InputError: It is another model.
        """
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        own = _variables(model)
        if [tuple(v.shape) for v in own] != [array.shape for array in self.variables]:
            raise InputError(
                Fault(
                    "checkpoint",
                    f"its {len(self.variables)} variables are not the {len(own)} of this model",
                    "Resume with the version that began, or train anew into another folder.",
                    expected="a checkpoint of the same recipe, made by the same boneage",
                )
            )
        for variable, array in zip(own, self.variables, strict=True):
            variable.assign(array)

    def restore_metrics(self, model: keras.Model) -> None:
        """Gives the metrics the sums of the batches that were trained on."""
        for variable, array in zip(model.metrics_variables, self.metrics, strict=True):
            variable.assign(array)


def write_checkpoint(path: Path, model: keras.Model, place: Place, recipe: dict[str, Any]) -> None:
    """Writes a checkpoint in one step: a kill or a full disk leaves the one before.

    Raises:
        InputError: It can't be written.
    """
    told = {"place": dataclasses.asdict(place), "recipe": recipe}
    arrays = {_PLACE: np.frombuffer(json.dumps(told).encode(), np.uint8)}
    metrics = model.metrics_variables if place.batch and place.train_logs is None else []
    for kind, variables in ((_VARIABLE, _variables(model)), (_METRIC, metrics)):
        for number, variable in enumerate(variables):
            arrays[f"{kind}-{number:05d}"] = keras.ops.convert_to_numpy(variable)
    with replacing(path, ".npz") as part:
        np.savez(part, allow_pickle=False, **arrays)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint, and checks that it is whole.

    Raises:
        InputError: It is missing, damaged or of another boneage.
    """
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            told = json.loads(file[_PLACE].tobytes())
            place = Place(**told["place"])
            names = sorted(file.files)
            kinds = {
                kind: [file[name] for name in names if name.startswith(f"{kind}-")]
                for kind in (_VARIABLE, _METRIC)
            }
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            Fault(
                str(path),
                f"the checkpoint can't be read: {error}",
                "Was it copied only in part? Copy it again, or train anew into another folder.",
                expected="a checkpoint as training wrote it",
            )
        ) from None
    return Checkpoint(place, told["recipe"], kinds[_VARIABLE], kinds[_METRIC])


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
