"""What a training writes down while it runs: history, checkpoint and the best model."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd

from boneage.errors import Fault, InputError
from boneage.pipeline.generator import DataGenerator, whole_batch_rows
from boneage.run import Run
from boneage.runtime.files import replacing, write_text
from boneage.training.checkpoint import Checkpoint, Place, Row, write_checkpoint
from boneage.training.distributed.device_group import Group
from boneage.training.stop_signals import Stop

WRITING_SHARE = 0.02
"""Of the time, at most, goes into checkpoints: after short epochs not each is written."""

_REMEMBERED = ("wait", "best", "cooldown_counter")  # by callbacks that wait for an improvement


class StoppedError(Exception):
    """The training was asked to stop, and its checkpoint has been written."""


class DivergedError(Exception):
    """The loss is no longer a number.

    Attributes:
        fault: What is to be told.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Records(keras.callbacks.Callback):
    """Writes `history.csv`, the checkpoint and the best model, each whole or not at all.

    From whichever checkpoint a training goes on, it comes to the same end; so none is written
    before the last one's cost is two percent of the time since.

    It must be the last of the callbacks: what the others decide at the end of an epoch belongs
    into the checkpoint. Keras' own ModelCheckpoint writes into the file that it replaces, its
    CSVLogger stays open, and its BackupAndRestore forgets what other callbacks remember.

    Attributes:
        place: How far the training has come.
    """

    def __init__(
        self,
        run: Run,
        recipe: dict[str, Any],
        network: keras.Model,
        training: DataGenerator,
        others: Sequence[keras.callbacks.Callback],
        stop: Stop,
        checkpoint: Checkpoint | None,
        group: Group,
    ) -> None:
        """Begins where the checkpoint is; with none, at the beginning.

        Args:
            run: Whose files are written.
            recipe: The resolved recipe, as JSON values.
            network: What is saved as the best model; its weights are those that are trained.
            training: What is trained on: names the images of a batch.
            others: The other callbacks, whose memory is to be kept.
            stop: Looked at after each batch.
            checkpoint: Where to go on from.
            group: What trains together: one process of it writes.
        """
        super().__init__()
        self.place = Place() if checkpoint is None else checkpoint.place
        self._checkpoint = checkpoint
        self._run, self._recipe, self._training = run, recipe, training
        self._network = network
        self._stop, self._group = stop, group
        self._others = {type(other).__name__: other for other in others}
        self._first = self.place.batch  # the first batch of this epoch that `fit` is given
        self._began = time.perf_counter()
        self._epoch_began = self._began
        self._own: list[np.ndarray] | None = None  # weights, while their averages are in the model
        self._best: keras.Model | None = None  # the network alone, without an optimizer to save
        self._best_is_new = False
        self._next_write = -math.inf

    def on_train_begin(self, logs: Row | None = None) -> None:
        """Restores what the checkpoint holds: callbacks and metrics have been reset by now."""
        self._best = type(self._network).from_config(self._network.get_config())
        if self._checkpoint is None:
            return
        self._checkpoint.restore(self.model)
        for name, other in self._others.items():  # TensorBoard's is with the first process only
            vars(other).update(self.place.callbacks.get(name, {}))  # on_train_begin has reset them

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:
        """Goes on with the sums of an unfinished epoch."""
        self._training.epoch = epoch  # JAX ends one that it has only looked into
        self._epoch_began = time.perf_counter() - self.place.epoch_seconds
        if self._first and self._checkpoint is not None and self._checkpoint.metrics:
            self._checkpoint.restore_metrics(self.model)

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        """Ends a training that has become senseless, or is asked to end."""
        assert logs is not None
        done = self._first + batch + 1
        if not math.isfinite(logs["loss"]):
            raise DivergedError(self._divergence(done))
        # After the last one the validation breaks off: `fit` makes no epoch of no batches.
        if self._group.stops(self._stop) and done < len(self._training):
            self.place.batch = done
            self._break_off()

    def on_test_begin(self, logs: Row | None = None) -> None:
        """Validates the averages of the weights, where there are any."""
        if self.place.train_logs is None:
            results = self.model.get_metrics_result()
            self.place.train_logs = {key: float(value) for key, value in results.items()}
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
        if optimizer.use_ema:
            # As SwapEMAWeights does it, but exactly: that one swaps by adding and subtracting.
            averages = optimizer._model_variables_moving_average
            weights = self.model.trainable_variables
            self._own = _copies(weights)
            for weight, average in zip(weights, _copies(averages), strict=True):
                weight.assign(average)

    def on_test_batch_end(self, batch: int, logs: Row | None = None) -> None:
        """Leaves a validation when asked to end."""
        if self._group.stops(self._stop):
            self.place.batch = len(self._training)
            self._break_off()

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        """Writes everything down."""
        assert logs is not None
        now = time.perf_counter()
        rate = logs.get("learning_rate")  # as it was in this epoch, if a callback has changed it
        if rate is None:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {
            "epoch": epoch + 1,
            **{key: float(logs[key]) for key in ("loss", "mae", "val_loss", "val_mae")},
            "learning_rate": float(rate),
            "seconds": round(now - self._epoch_began, 2),
        }
        place = self.place
        lowest = math.inf if place.best is None else place.best["val_mae"]
        place.rows.append(row)
        if row["val_mae"] < lowest:  # never true of nan
            place.best_epoch = place.epoch
            self._keep_best()
        self._take_own_weights_back()
        place.batch, place.epoch_seconds, place.train_logs = 0, 0.0, None
        place.ended = place.ended or self.model.stop_training
        if self._group.writes:
            with self._kept():
                rows = pd.DataFrame(place.rows).to_csv(index=False)
                write_text(self._run.history_path, rows)
        last = place.ended or place.epoch == self._recipe["training"]["epochs"]
        asked = self._group.stops(self._stop)
        if last or asked or time.perf_counter() >= self._next_write:
            self._save()
        self._first = 0
        if asked and not last:
            raise StoppedError

    def _break_off(self) -> None:
        self._take_own_weights_back()
        self.place.epoch_seconds = time.perf_counter() - self._epoch_began
        self._save()
        raise StoppedError

    def _keep_best(self) -> None:
        assert self._best is not None
        now = _copies(self._network.variables)
        for kept, value in zip(self._best.variables, now, strict=True):
            kept.assign(value)
        self._best_is_new = True

    def _save(self) -> None:
        """The best model first: after a kill between the two the epoch makes it once more."""
        if not self._group.writes:
            return
        place, began = self.place, time.perf_counter()
        with self._kept():
            if self._best_is_new and self._best is not None:
                with replacing(self._run.best_path, ".keras") as part:
                    self._best.save(part)
                self._best_is_new = False
            place.seconds, self._began = place.seconds + began - self._began, began
            place.callbacks = {
                name: {
                    key: float(vars(other)[key])
                    for key in _REMEMBERED
                    if vars(other).get(key) is not None
                }
                for name, other in self._others.items()
            }
            write_checkpoint(self._run.checkpoint_path, self.model, place, self._recipe)
        now = time.perf_counter()
        self._next_write = now + (now - began) / WRITING_SHARE

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """Says of a file that can't be written what is lost, and what is not."""
        try:
            yield
        except InputError as error:
            raise InputError(self._not_kept(error)) from error

    def _not_kept(self, error: InputError) -> Fault:
        there = self._run.checkpoint_path.exists()
        command = f"boneage train --resume {self._run.folder}" if there else "the same command"
        return Fault(
            str(self._run.folder),
            f"{self.place} could not be kept: {error.faults[0].what}",
            f"Make room, then go on where the last good checkpoint is: {command}.",
            expected="room on the disk for it",
        )

    def _take_own_weights_back(self) -> None:
        if self._own is not None:
            for weight, array in zip(self.model.trainable_variables, self._own, strict=True):
                weight.assign(array)
            self._own = None

    def _divergence(self, done: int) -> Fault:
        epoch = self.place.epoch
        rows = whole_batch_rows(self._training, done - 1, epoch)
        known = self._training.image_ids
        ids = ", ".join(str(row if known is None else known[row]) for row in rows)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        top = self._recipe["training"]["learning_rate"]
        return Fault(
            str(self._run.folder),
            f"the loss is no longer a number in epoch {epoch + 1}, batch {done} of "
            f"{len(self._training)}, at a learning rate of {rate:.1g}; image_id {ids}",
            f"Look at these images, or lower the rate: --set training.learning_rate={top / 3:.1g}.",
            expected="a finite loss",
        )


def _copies(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    # JAX hands memory from step to step: what is not copied is gone with the next one.
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
