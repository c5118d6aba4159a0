"""Write the history, the checkpoint and the best model of a training while it runs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import pandas as pd

from boneage.errors import Fault, InputError
from boneage.pipeline.generator import DataGenerator, whole_batch_rows
from boneage.run import Run
from boneage.runtime.files import replacing, write_text
from boneage.training.checkpoint import Checkpoint, Row, TrainingState, write_checkpoint
from boneage.training.distributed import DeviceGroup
from boneage.training.stop_signals import Stop
from boneage.training.weight_average import WeightAverage, copies

WRITING_SHARE = 0.02
"""Largest share of the time that checkpoints may take. After short epochs some are skipped."""

_REMEMBERED = ("wait", "best", "cooldown_counter")  # attributes of callbacks, kept in a checkpoint


class StoppedError(Exception):
    """The training was asked to stop, and its checkpoint has been written."""


class DivergedError(InputError):
    """The loss is no longer a finite number."""


class RunRecorder(keras.callbacks.Callback):
    """Writes `history.csv`, the checkpoint and the best model, each whole or not at all.

    A training reaches the same end from any of its checkpoints. So a checkpoint is only written
    when writing the last one took less than `WRITING_SHARE` of the time since.

    It must be the last callback, because the checkpoint holds what the others decide at the end
    of an epoch. Keras' ModelCheckpoint writes into the file that it replaces. Its CSVLogger keeps
    the file open. Its BackupAndRestore does not keep the state of other callbacks.

    Args:
        run: The run folder.
        recipe: The resolved recipe, as JSON values.
        network: The network that is saved as the best model. It shares the trained weights.
        training: The training batches. A message names their images.
        others: The other callbacks, whose state is kept in the checkpoint.
        stop: Asks the training to end. It is read after each batch.
        checkpoint: Where to continue, or None to begin.
        group: The devices that train together. One process of them writes.
        average: The averaged weights, which are validated and kept, or None.

    Attributes:
        state: How far the training has come.
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
        group: DeviceGroup,
        average: WeightAverage | None = None,
    ) -> None:
        super().__init__()
        self.state = TrainingState() if checkpoint is None else checkpoint.state
        self._checkpoint = checkpoint
        self._run, self._recipe, self._training = run, recipe, training
        self._network = network
        self._stop, self._group = stop, group
        self._others = {type(other).__name__: other for other in others}
        self._first = self.state.batch  # index of this epoch's first batch that `fit` trains on
        self._began = time.perf_counter()
        self._epoch_began = self._began
        self._average = average
        self._best: keras.Model | None = None  # the network alone, without an optimizer to save
        self._best_is_new = False
        self._next_write = -math.inf

    def on_train_begin(self, logs: Row | None = None) -> None:
        """Restore the checkpoint. Keras has reset callbacks and metrics by now."""
        self._best = type(self._network).from_config(self._network.get_config())
        if self._checkpoint is None:
            return
        self._checkpoint.restore(self.model)
        for name, other in self._others.items():  # only the first process has TensorBoard's
            kept = self.state.callbacks.get(name, {})
            vars(other).update({key: float(value) for key, value in kept.items()})

    def on_epoch_begin(self, epoch: int, logs: Row | None = None) -> None:
        """Restore the metrics of an unfinished epoch."""
        self._training.epoch = epoch  # on JAX, Keras ends an epoch that it only peeked into
        self._epoch_began = time.perf_counter() - self.state.epoch_seconds
        if 0 < self._first < len(self._training) and self._checkpoint is not None:
            self._checkpoint.restore_metrics(self.model)

    def on_train_batch_end(self, batch: int, logs: Row | None = None) -> None:
        """End a training that diverged or was asked to end."""
        assert logs is not None
        done = self._first + batch + 1
        if not math.isfinite(logs["loss"]):
            raise DivergedError(self._divergence(done))
        # After the last batch the validation stops the training: `fit` needs at least one batch.
        if self._group.should_stop(self._stop) and done < len(self._training):
            self.state.batch = done
            self._break_off()

    def on_test_begin(self, logs: Row | None = None) -> None:
        """Put the averaged weights into the model, if the recipe averages them."""
        if self.state.train_logs is None:
            results = self.model.get_metrics_result()
            self.state.train_logs = {key: float(value) for key, value in results.items()}
        if self._average is not None:
            self._average.swap_in()

    def on_test_batch_end(self, batch: int, logs: Row | None = None) -> None:
        """Break off a validation when the training was asked to end."""
        if self._group.should_stop(self._stop):
            self.state.batch = len(self._training)
            self._break_off()

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        """Write the history, and the best model and the checkpoint if it is time."""
        assert logs is not None
        now = time.perf_counter()
        rate = logs.get("learning_rate")  # this epoch's rate, if a callback has changed it since
        if rate is None:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {
            "epoch": epoch + 1,
            **{key: float(logs[key]) for key in ("loss", "mae", "val_loss", "val_mae")},
            "learning_rate": float(rate),
            "seconds": round(now - self._epoch_began, 2),
        }
        state = self.state
        lowest = math.inf if state.best is None else state.best["val_mae"]
        state.rows.append(row)
        if row["val_mae"] < lowest:  # never true of NaN
            state.best_epoch = state.epoch
            self._keep_best()
        self._restore_weights()
        state.batch, state.epoch_seconds, state.train_logs = 0, 0.0, None
        state.ended = state.ended or self.model.stop_training
        if self._group.writes:
            with self._saving():
                rows = pd.DataFrame(state.rows).to_csv(index=False)
                write_text(self._run.history_path, rows)
        is_last = state.ended or state.epoch == self._recipe["training"]["epochs"]
        should_stop = self._group.should_stop(self._stop)
        if is_last or should_stop or time.perf_counter() >= self._next_write:
            self._save()
        self._first = 0
        if should_stop and not is_last:
            raise StoppedError

    def _break_off(self) -> None:
        self._restore_weights()
        self.state.epoch_seconds = time.perf_counter() - self._epoch_began
        self._save()
        raise StoppedError

    def _keep_best(self) -> None:
        assert self._best is not None
        now = copies(self._network.variables)
        for kept, value in zip(self._best.variables, now, strict=True):
            kept.assign(value)
        self._best_is_new = True

    def _save(self) -> None:
        """Write the best model, then the checkpoint. After a kill in between the epoch repeats."""
        if not self._group.writes:
            return
        state, began = self.state, time.perf_counter()
        with self._saving():
            if self._best_is_new and self._best is not None:
                with replacing(self._run.best_path, ".keras") as part:
                    self._best.save(part)
                self._best_is_new = False
            state.seconds, self._began = state.seconds + began - self._began, began
            state.callbacks = {
                name: {
                    key: float(vars(other)[key])
                    for key in _REMEMBERED
                    if vars(other).get(key) is not None
                }
                for name, other in self._others.items()
            }
            write_checkpoint(self._run.checkpoint_path, self.model, state, self._recipe)
        now = time.perf_counter()
        self._next_write = now + (now - began) / WRITING_SHARE

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Explain a file that can't be written: what is lost, and how to continue."""
        try:
            yield
        except InputError as error:
            has_checkpoint = self._run.checkpoint_path.exists()
            command = f"boneage train --resume {self._run.folder}"
            repeat = command if has_checkpoint else "repeat the same command"
            raise InputError(
                Fault(
                    str(self._run.folder),
                    f"{self.state} could not be saved: {error.faults[0].what}",
                    f"Free some disk space, then continue from the last checkpoint: {repeat}.",
                )
            ) from error

    def _restore_weights(self) -> None:
        if self._average is not None:
            self._average.restore()

    def _divergence(self, done: int) -> Fault:
        epoch = self.state.epoch
        rows = whole_batch_rows(self._training, done - 1, epoch)
        known = self._training.image_ids
        ids = ", ".join(str(row if known is None else known[row]) for row in rows)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        highest = self._recipe["training"]["learning_rate"]
        return Fault(
            str(self._run.folder),
            f"the loss is not a finite number in epoch {epoch + 1}, batch {done} of "
            f"{len(self._training)}, at a learning rate of {rate:.1g}; image_id {ids}",
            "Check these images, or lower the learning rate: "
            f"--set training.learning_rate={highest / 3:.1g}.",
        )
