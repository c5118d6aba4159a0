"""One recipe, one seed, one complete run folder."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.models.builder import build_model
from boneage.models.losses import compile_for_training
from boneage.pipeline.generator import DataGenerator, EpochRemainder
from boneage.pipeline.store import Store, prepare
from boneage.recipe import Recipe, Training
from boneage.run import TRAINED, Run
from boneage.runtime.files import write_json
from boneage.runtime.provenance import command_line, provenance, usable_cores
from boneage.training.batch_memory import BatchTooLargeError, check_batch, within_memory
from boneage.training.checkpoint import Place
from boneage.training.distributed.device_group import Group, accelerator, joined
from boneage.training.distributed.hosts import Hosts
from boneage.training.fine_tuning import begin_with
from boneage.training.recorder import DivergedError, Records, StoppedError
from boneage.training.resume import (
    check_same,
    check_same_init,
    first_init,
    info_resumed,
    last_checkpoint,
)
from boneage.training.stop_signals import Stop

_SAME = "Give every host the same command and files."
_SHARED = "Is the run folder one that all hosts share?"


def train(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    *,
    progress: bool = True,
    resume: bool = False,
    init: Run | None = None,
    stop: Stop | None = None,
    hosts: Hosts | None = None,
    require_gpu: bool = False,
) -> Run:
    """Trains one recipe on a manifest's train split, choosing by its val split.

    The store is prepared when it is missing. The folder gets `recipe.json` (fully resolved),
    `run.json`, `history.csv`, `best.keras` (lowest validation MAE) and `checkpoint.npz`; nothing
    is made before every input has been found good. However the training is cut off, it goes on
    from its checkpoint to the very weights and history that it would have had.

    Args:
        recipe: What to train; its seed rules weights, order and augmentation.
        manifest: The cohort, with train and val splits.
        out: The run folder; it must not hold anything yet, or with `resume` the run.
        progress: Whether to show progress.
        resume: Go on with a run that was cut off, by the same recipe and manifest; a finished one
            is given back as it is.
        init: A run whose network is begun with, in place of a random one.
        stop: What tells the training to end after a batch, with a checkpoint.
        hosts: The processes that train together, each of them called like this; the first one
            writes the folder, which all of them see. Batches, learning rate and result are those
            of one process.
        require_gpu: Whether it is an error that there is none.

    Raises:
        InputError: The folder is taken or in use, the manifest has no such split, an image can't
            be read, recipe, manifest or images are not those of the run to be resumed, `init` is
            of another network, TensorBoard or a GPU is asked for and absent, a batch doesn't fit
            into memory, the disk is full, the loss is no longer a number, or one of the hosts is
            lost.
        KeyboardInterrupt: As it came, after `run.json` was written.
        Terminated: SIGTERM came to `stop`; likewise.
    """
    _check_tensorboard(recipe.training)
    before = check_same(Run(out), recipe, manifest) if resume else None
    if before is not None and before["stopped"] in TRAINED:
        return Run(out)
    stop = stop or Stop()
    with joined(hosts, out) as group:
        if require_gpu and accelerator() is None:
            raise InputError(_no_gpu())
        group.check_same("recipe", _digest(recipe), _SAME)
        group.check_same("manifest", manifest.digest[:12], _SAME)
        return _train(recipe, manifest, out, before, init, stop, progress and group.writes, group)


def _train(
    recipe: Recipe,
    manifest: Manifest,
    out: Path,
    before: dict[str, Any] | None,
    init: Run | None,
    stop: Stop,
    progress: bool,
    group: Group,
) -> Run:
    run, settings = Run(out), recipe.training
    restored = before is not None and run.checkpoint_path.exists()
    if before is not None:
        init = None if restored else first_init(before)
    elif group.writes:
        _check_out(out)
    group.check_batch(settings.batch_size)
    train_split, val_split = manifest.split("train"), manifest.split("val")
    keras.utils.set_random_seed(recipe.seed)
    network = build_model(
        image_size=recipe.framing.size,
        precision=settings.precision,
        **{**recipe.model.model_dump(), **({"weights": "none"} if init or restored else {})},
    )
    started = time.perf_counter()
    told = None if init is None else begin_with(network, init, recipe, manifest)
    if told is not None and before is not None:
        check_same_init(told, before)
    store = prepare(manifest, recipe.framing, progress=progress)
    seconds = round(time.perf_counter() - started, 2)
    training = _generator(store, train_split, recipe, training=True)
    validation = _generator(store, val_split, recipe, training=False)
    model = compile_for_training(network, recipe, _optimizer(settings, len(training)))
    training, validation = group.divide(model, training, validation)
    check_batch(model, min(settings.batch_size, len(train_split.table)))

    with run.locked() if group.writes else contextlib.nullcontext():
        if before is not None:
            info = info_resumed(run, before, store, _made_by())
        else:
            if group.writes:
                _check_out(out)  # once more: nobody else may make anything in it from here on
                write_json(run.recipe_path, recipe.model_dump(mode="json"))
            info = _info(recipe, manifest, store, network)
            info["seconds"]["prepare"] = seconds
            info["init"] = told
        info["devices"] = group.devices
        if group.writes:
            write_json(run.info_path, info)
        with training, validation:
            models = (model, network)
            _fit(run, recipe, models, (training, validation), info, stop, progress, group)
    return run


def _fit(
    run: Run,
    recipe: Recipe,
    models: tuple[keras.Model, keras.Model],
    generators: tuple[DataGenerator, DataGenerator],
    info: dict[str, Any],
    stop: Stop,
    progress: bool,
    group: Group,
) -> None:
    """Fits from where the run's checkpoint is to the end, and keeps `run.json` true."""
    values = recipe.model_dump(mode="json")
    batch_size = min(recipe.training.batch_size, info["manifest"]["counts"]["train"])
    place, too_large = Place(), False
    info["stopped"] = "failed"
    try:
        while True:  # an unfinished epoch is one pass, all others are the next
            group.wait()  # until the checkpoint of the pass before is written
            checkpoint = last_checkpoint(run, values)
            others = _callbacks(run, recipe.training, writes=group.writes)
            records = Records(
                run, values, models[1], generators[0], others, stop, checkpoint, group
            )
            place = records.place
            group.check_same("checkpoint", str(place), _SHARED)
            if place.ended or place.epoch == recipe.training.epochs:
                break
            with stop.heeded(), within_memory(models[0], batch_size):
                _one_pass(models[0], *generators, [*others, records], recipe.training, progress)
        info["stopped"] = "finished" if place.epoch == recipe.training.epochs else "early"
    except DivergedError as error:
        info["stopped"] = "diverged"
        raise InputError(error.fault) from None
    except StoppedError:
        pass
    except KeyboardInterrupt:
        info["stopped"] = "interrupted"
        raise
    except BatchTooLargeError:
        too_large = True
        raise
    finally:
        if stop.asked is not None and info["stopped"] == "failed":
            info["stopped"] = "interrupted" if stop.asked == signal.SIGINT else "terminated"
        info["epochs"] = place.epoch
        if place.best is not None:
            info["best_epoch"] = int(place.best["epoch"])
            info["best_val_mae_months"] = place.best["val_mae"]
        info["seconds"]["fit"] = round(place.seconds, 2)
        if group.writes:
            # On a full disk what is raised already says what to do; "running" stays there.
            failed = info["stopped"] == "failed"
            with contextlib.suppress(InputError) if failed else contextlib.nullcontext():
                write_json(run.info_path, info)
            cut_off = too_large or info["stopped"] == "interrupted"
            if cut_off and not run.checkpoint_path.exists():
                shutil.rmtree(run.folder, ignore_errors=True)  # nothing was learned yet
    if info["stopped"] not in TRAINED:
        stop.raise_it()


def _one_pass(
    model: keras.Model,
    training: DataGenerator,
    validation: DataGenerator,
    callbacks: list[keras.callbacks.Callback],
    settings: Training,
    progress: bool,
) -> None:
    """The rest of an unfinished epoch where there is one, else all epochs to the end."""
    (records,) = (callback for callback in callbacks if isinstance(callback, Records))
    place = records.place
    training.epoch = place.epoch
    verbose = ("auto" if sys.stdout.isatty() else 2) if progress else 0
    if place.train_logs is not None:
        _only_validate(model, validation, callbacks, place)
        return
    if place.batch:  # metrics have no variables to restore before a batch was seen
        model.test_on_batch(*training[place.batch])
    if not model.optimizer.built:  # left to the first step, TensorFlow traces that a second time
        model.optimizer.build(model.trainable_variables)
    model.fit(
        EpochRemainder(training, place.batch) if place.batch else training,
        validation_data=validation,
        initial_epoch=place.epoch,
        epochs=place.epoch + 1 if place.batch else settings.epochs,
        verbose=verbose,
        callbacks=callbacks,
    )


def _only_validate(
    model: keras.Model,
    validation: DataGenerator,
    callbacks: list[keras.callbacks.Callback],
    place: Place,
) -> None:
    """The end of an epoch that was trained on whole, as `fit` would have come to it."""
    assert place.train_logs is not None
    logs, epoch = dict(place.train_logs), place.epoch
    every = keras.callbacks.CallbackList(callbacks, model=model)
    model.stop_training = False
    every.on_train_begin()
    every.on_epoch_begin(epoch)
    answers = model.evaluate(validation, callbacks=every, verbose=0, return_dict=True)
    every.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in answers.items()})
    every.on_train_end()


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:12]


def _no_gpu() -> Fault:
    return Fault(
        "--require-gpu",
        "Keras sees no GPU",
        "Is its driver there, and in Docker --gpus all? Or leave --require-gpu away.",
        expected="a GPU that it can compute on",
    )


def _check_tensorboard(settings: Training) -> None:
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            Fault(
                "training.tensorboard",
                "tensorboard is not installed",
                "Install it with pip install tensorboard, or turn it off.",
                expected="the package tensorboard",
            )
        )


def _check_out(out: Path) -> None:
    """Refuses a run folder that can't be made, before anything long is begun."""
    if Run(out).others():
        fix = "Name another --out"
        if Run(out).is_begun:
            fix += f", or go on with that run: boneage train --resume {out}"
        raise InputError(
            Fault(str(out), "the folder is not empty", f"{fix}.", expected="a new run folder")
        )
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = f"{there} can't be written to" if there.is_dir() else f"{there} is a file"
        raise InputError(
            Fault(str(out), what, "Name another --out.", expected="a place for a run folder")
        )


def _generator(store: Store, split: Manifest, recipe: Recipe, *, training: bool) -> DataGenerator:
    return DataGenerator(
        store.select(list(split.table["image_id"])),
        split.gender(),
        split.age_months(),
        batch_size=recipe.training.batch_size,
        shuffle=training,
        augmentation=recipe.augmentation if training else None,
        seed=recipe.seed,
        **(_workers(recipe.training) if training else {}),  # without augmentation there's no work
    )


def _workers(settings: Training) -> dict[str, Any]:
    # Processes need no result of their own: batches are the same however they are made.
    processes = settings.use_multiprocessing and os.name == "posix"
    return {"workers": settings.workers or usable_cores(), "use_multiprocessing": processes}


def _optimizer(settings: Training, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        warmup = round(settings.warmup_epochs * steps_per_epoch)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else settings.learning_rate,
            decay_steps=max(1, settings.epochs * steps_per_epoch - warmup),
            alpha=settings.minimum_learning_rate / settings.learning_rate,
            warmup_target=settings.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    average: dict[str, Any] = (
        {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
    )
    if settings.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, **average)
    return keras.optimizers.Adam(rate, **average)


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


def _info(recipe: Recipe, manifest: Manifest, store: Store, model: keras.Model) -> dict[str, Any]:
    splits = manifest.table["split"].value_counts()
    sources: Sequence[str] = (
        manifest.table["source"].unique().tolist() if "source" in manifest.table else []
    )
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "command": command_line(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": {},
        "provenance": _made_by(),
        "manifest": {
            "path": str(manifest.path.resolve()),
            "digest": manifest.digest,
            "counts": {str(split): int(count) for split, count in splits.items()},
            "source": ", ".join(sources),
        },
        "store": store.metadata(),
        "model": {"parameters": model.count_params()},
        "stopped": "running",
    }


def _made_by() -> dict[str, Any]:
    made_by = provenance()
    made_by["backend"] = keras.backend.backend()
    made_by["device"] = accelerator() or made_by["device"]
    return made_by
