"""Read and write the checkpoint of a training: one `.npz` file without code.

The file holds every variable of the model and of the optimizer as an array, and the rest as JSON.
It is written in a twentieth of a second. Keras' own format takes three seconds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from pydantic import ConfigDict, Field, model_validator

from boneage.errors import Fault, InputError
from boneage.runtime.arrays import ARRAY_ERRORS, read_arrays
from boneage.runtime.files import replacing
from boneage.runtime.schemas import Count, FileSchema, Text, check_values

# Names inside the file. Earlier versions wrote the same ones.
_STATE, _VARIABLE, _METRIC = "place", "variable", "metric"

Row = dict[str, float]

_EPOCH_KEYS = {"epoch", "loss", "mae", "val_loss", "val_mae", "learning_rate"}


class StateRecord(FileSchema):
    """The attributes of `TrainingState` in the file."""

    model_config = ConfigDict(allow_inf_nan=True)  # a validation may give NaN

    rows: list[dict[Text, float]]
    best_epoch: Count
    batch: Count
    train_logs: dict[Text, float] | None
    ended: bool
    seconds: float = Field(ge=0, le=1e12)
    epoch_seconds: float = Field(ge=0, le=1e12)
    callbacks: dict[Text, dict[Literal["wait", "best", "cooldown_counter"], float]]

    @model_validator(mode="after")
    def _is_consistent(self) -> StateRecord:
        for number, row in enumerate(self.rows, 1):
            if not row.keys() >= _EPOCH_KEYS or row["epoch"] != number:
                raise ValueError(f"row {number} of the history is not that of epoch {number}")
        if self.best_epoch > len(self.rows):
            raise ValueError(f"best_epoch is {self.best_epoch}, after {len(self.rows)} epochs")
        if self.train_logs is not None and not self.train_logs.keys() >= {"loss", "mae"}:
            raise ValueError("train_logs has no loss or no mae")
        kept = [value for values in self.callbacks.values() for value in values.values()]
        if any(1e12 < abs(value) < math.inf for value in kept):  # before an epoch `best` is inf
            raise ValueError("a callback has a number that no training gives")
        return self


class Record(FileSchema):
    """The JSON of the file."""

    place: StateRecord
    recipe: dict[str, Any]


@dataclass
class TrainingState:
    """How far a training has come.

    Attributes:
        rows: The rows of `history.csv`, one for each finished epoch.
        best_epoch: Number of the epoch with the lowest validation MAE, from 1. 0 means none yet.
        batch: Number of batches of the next epoch that have been trained on.
        train_logs: Training metrics of that epoch if only its validation is missing, or None.
        ended: Whether the training has ended early.
        seconds: Seconds that the training has taken so far.
        epoch_seconds: Seconds of the unfinished epoch.
        callbacks: The attributes that each callback must remember.
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
        """Return the number of finished epochs."""
        return len(self.rows)

    @property
    def best(self) -> Row | None:
        """Return the row of the best epoch, or None."""
        return self.rows[self.best_epoch - 1] if self.best_epoch else None

    def __str__(self) -> str:
        """Return text such as `epoch 3` or `epoch 3 and 17 batches`."""
        return f"epoch {self.epoch}" + (f" and {self.batch} batches" if self.batch else "")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        path: The file.
        state: How far the training had come.
        recipe: The resolved recipe of the training, as JSON values.
        variables: The variables of the model, then those of the optimizer.
        metrics: The variables of the metrics, for an unfinished epoch.
    """

    path: Path
    state: TrainingState
    recipe: dict[str, Any]
    variables: list[np.ndarray]
    metrics: list[np.ndarray]

    def check_position(self, epochs: int, batches: int) -> None:
        """Check that a training of so many epochs and batches can be at this point.

        Raises:
            InputError: It can't.
        """
        state = self.state
        is_validating = state.train_logs is not None
        if (
            state.epoch > epochs
            or (state.epoch == epochs and state.batch)
            or state.batch > batches
            or (state.batch == batches) != is_validating
        ):
            what = f"it was written at {state}, of {epochs} epochs of {batches} batches"
            raise InputError(_unreadable(self.path, what))

    def restore(self, model: keras.Model) -> None:
        """Set the variables of a compiled model and of its optimizer.

        Raises:
            InputError: The checkpoint is of another model.
        """
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        own = _variables(model)
        if [tuple(v.shape) for v in own] != [array.shape for array in self.variables]:
            raise InputError(
                Fault(
                    str(self.path),
                    f"its {len(self.variables)} variables do not match the {len(own)} of the model",
                    "Resume with the version of boneage that wrote it, or train in a new folder.",
                )
            )
        for variable, array in zip(own, self.variables, strict=True):
            variable.assign(array)

    def restore_metrics(self, model: keras.Model) -> None:
        """Set the variables of the metrics, which sum over the batches of an unfinished epoch.

        Raises:
            InputError: The checkpoint has other metrics.
        """
        own = [tuple(variable.shape) for variable in model.metrics_variables]
        if own != [array.shape for array in self.metrics]:
            raise InputError(_unreadable(self.path, "its metrics are not those of the model"))
        for variable, array in zip(model.metrics_variables, self.metrics, strict=True):
            variable.assign(array)


def write_checkpoint(
    path: Path, model: keras.Model, state: TrainingState, recipe: dict[str, Any]
) -> None:
    """Write a checkpoint in one step. After a kill or on a full disk the previous one remains.

    Raises:
        InputError: The file can't be written.
    """
    record = {"place": dataclasses.asdict(state), "recipe": recipe}
    arrays = {_STATE: np.frombuffer(json.dumps(record).encode(), np.uint8)}
    metrics = model.metrics_variables if state.batch and state.train_logs is None else []
    for kind, variables in ((_VARIABLE, _variables(model)), (_METRIC, metrics)):
        for number, variable in enumerate(variables):
            arrays[f"{kind}-{number:05d}"] = keras.ops.convert_to_numpy(variable)
    with replacing(path, ".npz") as part:
        np.savez(part, allow_pickle=False, **arrays)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check that it is complete.

    Raises:
        InputError: The file is missing, damaged or from an incompatible version.
    """
    try:
        arrays = read_arrays(path)
        record = json.loads(arrays.pop(_STATE).tobytes())
        kinds = {kind: _numbered(arrays, kind) for kind in (_VARIABLE, _METRIC)}
    except ARRAY_ERRORS as error:
        raise InputError(_unreadable(path, str(error))) from None
    if arrays:
        raise InputError(_unreadable(path, f"it holds the unknown array {min(arrays)!r:.100}"))
    values = check_values(record, Record, str(path))
    known = {item.name for item in dataclasses.fields(TrainingState)}
    state = TrainingState(**{k: v for k, v in values["place"].items() if k in known})
    return Checkpoint(path, state, record["recipe"], kinds[_VARIABLE], kinds[_METRIC])


def _numbered(arrays: dict[str, np.ndarray], kind: str) -> list[np.ndarray]:
    """Remove and return the arrays `kind-00000`, `kind-00001` and so on."""
    names = [name for name in arrays if name.startswith(f"{kind}-")]
    return [arrays.pop(f"{kind}-{number:05d}") for number in range(len(names))]


def _unreadable(path: Path, what: str) -> Fault:
    return Fault(
        str(path),
        f"the checkpoint can't be read: {what:.300}",
        "If it is a copy, copy it again. Otherwise train in a new folder.",
    )


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
