"""Train in a run folder, from its last checkpoint to the end."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from dataclasses import dataclass, field
from typing import Any

import keras

from boneage.errors import InputError
from boneage.pipeline.generator import DataGenerator, EpochRemainder
from boneage.recipe import Recipe, Training
from boneage.run import Run
from boneage.runtime.files import write_json
from boneage.training.batch_memory import BatchTooLargeError, explain_out_of_memory
from boneage.training.checkpoint import TrainingState
from boneage.training.distributed import DeviceGroup
from boneage.training.recorder import DivergedError, RunRecorder, StoppedError
from boneage.training.resume import last_checkpoint
from boneage.training.stop_signals import Stop
from boneage.training.weight_average import WeightAverage


@dataclass(frozen=True)
class Parts:
    """What `fit` needs.

    Attributes:
        network: The network that is saved as the best model.
        model: The compiled model that is trained. It shares the network's weights.
        training: The augmented batches of the train split.
        validation: The batches of the val split.
        average: The averaged weights, if the recipe averages them.
    """

    network: keras.Model
    model: keras.Model
    training: DataGenerator
    validation: DataGenerator
    average: WeightAverage | None = None


@dataclass
class TrainingSession:
    """Trains until the recipe's last epoch. Keeps `run.json` up to date, also after an error.

    Attributes:
        recipe: What is trained.
        run: The run folder, which is locked.
        group: The devices that train together.
        stop: Asks the training to end.
        info: The content of `run.json`.
        state: How far the training has come.
    """

    recipe: Recipe
    run: Run
    group: DeviceGroup
    stop: Stop
    info: dict[str, Any]
    state: TrainingState = field(default_factory=TrainingState)

    def train(self, parts: Parts, *, progress: bool) -> None:
        """Train to the end, record the outcome, and remove a folder without a checkpoint.

        Raises:
            InputError: The training failed. The message says why and what to do.
            KeyboardInterrupt: The training was interrupted.
            Terminated: `stop` received SIGTERM.
        """
        error: BaseException | None = None
        try:
            self.run_passes(parts, progress=progress)
        except StoppedError as stopped:
            error = stopped
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.record_outcome(error)
            self.discard_if_empty(error)
        if error is not None:
            self.stop.raise_it()

    def run_passes(self, parts: Parts, *, progress: bool) -> None:
        """Run `fit` until no epoch is left. An unfinished epoch is a pass of its own."""
        values, settings = self.recipe.model_dump(mode="json"), self.recipe.training
        count = self.info["manifest"]["counts"].get("train", settings.batch_size)
        batch_size = min(settings.batch_size, count)
        while True:
            self.group.wait()  # until the first process has written the checkpoint
            checkpoint = last_checkpoint(self.run, self.recipe, len(parts.training))
            others = _callbacks(self.run, settings, writes=self.group.writes)
            recorder = RunRecorder(
                self.run,
                values,
                parts.network,
                parts.training,
                others,
                self.stop,
                checkpoint,
                self.group,
                parts.average,
            )
            self.state = recorder.state
            self.group.check_same("checkpoint", str(self.state))
            if self.state.ended or self.state.epoch == settings.epochs:
                return
            with self.stop.heeded(), explain_out_of_memory(batch_size, self.group.devices):
                _run_pass(parts, [*others, recorder], self.state, settings.epochs, progress)

    def record_outcome(self, error: BaseException | None) -> None:
        """Write into `run.json` how the training ended, and its best epoch.

        Args:
            error: What ended the training early, or None.

        Raises:
            InputError: The file can't be written.
        """
        self.info["stopped"] = self._outcome(error)
        self.info["epochs"] = self.state.epoch
        if self.state.best is not None:
            self.info["best_epoch"] = int(self.state.best["epoch"])
            self.info["best_val_mae_months"] = self.state.best["val_mae"]
        self.info["seconds"]["fit"] = round(self.state.seconds, 2)
        if self.group.writes:
            self.info["digests"] = self.run.digests()
            # On a full disk the first error already says what to do.
            failed = self.info["stopped"] == "failed"
            with contextlib.suppress(InputError) if failed else contextlib.nullcontext():
                write_json(self.run.info_path, self.info)

    def discard_if_empty(self, error: BaseException | None) -> None:
        """Remove a folder without a checkpoint after Ctrl-C or a batch that is too large."""
        cut_off = isinstance(error, BatchTooLargeError) or self.info["stopped"] == "interrupted"
        if self.group.writes and cut_off and not self.run.checkpoint_path.exists():
            shutil.rmtree(self.run.folder, ignore_errors=True)

    def _outcome(self, error: BaseException | None) -> str:
        if error is None:
            return "finished" if self.state.epoch == self.recipe.training.epochs else "early"
        if isinstance(error, DivergedError):
            return "diverged"
        if isinstance(error, KeyboardInterrupt) or self.stop.asked == signal.SIGINT:
            return "interrupted"
        return "failed" if self.stop.asked is None else "terminated"


def _run_pass(
    parts: Parts,
    callbacks: list[keras.callbacks.Callback],
    state: TrainingState,
    epochs: int,
    progress: bool,
) -> None:
    """Run the rest of an unfinished epoch, or else all epochs that are left."""
    model, training = parts.model, parts.training
    training.epoch = state.epoch
    if state.train_logs is not None:
        _validate_only(parts, callbacks, state.epoch, dict(state.train_logs))
        return
    if state.batch:  # metrics have no variables to restore before the first batch
        model.test_on_batch(*training[state.batch])
    if not model.optimizer.built:  # TensorFlow would trace the step twice
        model.optimizer.build(model.trainable_variables)
    verbose: Any = ("auto" if sys.stdout.isatty() else 2) if progress else 0
    model.fit(
        EpochRemainder(training, state.batch) if state.batch else training,
        validation_data=parts.validation,
        initial_epoch=state.epoch,
        epochs=state.epoch + 1 if state.batch else epochs,
        verbose=verbose,
        callbacks=callbacks,
    )


def _validate_only(
    parts: Parts,
    callbacks: list[keras.callbacks.Callback],
    epoch: int,
    logs: dict[str, float],
) -> None:
    """Validate at the end of an epoch whose training is complete, as `fit` would."""
    model = parts.model
    every = keras.callbacks.CallbackList(callbacks, model=model)
    model.stop_training = False
    every.on_train_begin()
    every.on_epoch_begin(epoch)
    scores = model.evaluate(parts.validation, callbacks=every, verbose=0, return_dict=True)
    every.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in scores.items()})
    every.on_train_end()


def _callbacks(run: Run, settings: Training, *, writes: bool) -> list[keras.callbacks.Callback]:
    callbacks: list[keras.callbacks.Callback] = []
    if settings.schedule == "plateau":
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_mae",
                mode="min",
                factor=settings.plateau_factor,
                patience=settings.plateau_patience,
                min_lr=settings.minimum_learning_rate,
            )
        )
    if settings.early_stop_patience:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor="val_mae", mode="min", patience=settings.early_stop_patience
            )
        )
    if settings.tensorboard and writes:
        callbacks.append(keras.callbacks.TensorBoard(str(run.tensorboard_path)))
    return callbacks
