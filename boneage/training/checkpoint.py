"""Read and write the checkpoint of a training: one `.npz` file without code.

The file holds every variable of the model and of the optimizer as an array, and the rest as JSON.
It is written in a twentieth of a second. Keras' own format takes three seconds.
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

# Names inside the file. Earlier versions wrote the same ones.
_STATE, _VARIABLE, _METRIC = "place", "variable", "metric"

Row = dict[str, float]


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
        state: How far the training had come.
        recipe: The resolved recipe of the training, as JSON values.
        variables: The variables of the model, then those of the optimizer.
        metrics: The variables of the metrics, for an unfinished epoch.
    """

    state: TrainingState
    recipe: dict[str, Any]
    variables: list[np.ndarray]
    metrics: list[np.ndarray]

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
                    "checkpoint",
                    f"its {len(self.variables)} variables do not match the {len(own)} of the model",
                    "Resume with the version of boneage that wrote it, or train in a new folder.",
                )
            )
        for variable, array in zip(own, self.variables, strict=True):
            variable.assign(array)

    def restore_metrics(self, model: keras.Model) -> None:
        """Set the variables of the metrics, which sum over the batches of an unfinished epoch."""
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
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            record = json.loads(file[_STATE].tobytes())
            state = TrainingState(**record["place"])
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
                "If it is a copy, copy it again. Otherwise train in a new folder.",
            )
        ) from None
    return Checkpoint(state, record["recipe"], kinds[_VARIABLE], kinds[_METRIC])


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
