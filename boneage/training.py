"""One recipe, one seed, one complete run folder."""

from __future__ import annotations

import datetime
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.files import write_json, write_text
from boneage.model import build_model
from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.store import Store, prepare
from boneage.provenance import command_line, provenance, usable_cores
from boneage.recipe import Recipe, Training
from boneage.run import Run


def train(recipe: Recipe, manifest: Manifest, out: Path, *, progress: bool = True) -> Run:
    """Trains one recipe on a manifest's train split, choosing by its val split.

    The store is prepared when it is missing. The folder gets `recipe.json` (fully resolved),
    `run.json`, `history.csv`, `best.keras` (lowest validation MAE) and `last.keras`; nothing is
    made before every input has been found good. An interrupt keeps what the finished epochs left
    and is recorded in `run.json`.

    Args:
        recipe: What to train; its seed rules weights, order and augmentation.
        manifest: The cohort, with train and val splits.
        out: The run folder; it must not hold anything yet.
        progress: Whether to show progress.

    Raises:
        InputError: The folder is taken, the manifest has no such split, an image can't be read,
            TensorBoard is asked for and absent, or the loss is no longer a number.
        KeyboardInterrupt: As it came, after `run.json` was written.
    """
    _check_out(out)
    if recipe.training.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            Fault(
                "training.tensorboard",
                "tensorboard is not installed",
                "the package tensorboard",
                "Install it with pip install 'boneage[tensorboard]', or turn it off.",
            )
        )
    train_split, val_split = manifest.split("train"), manifest.split("val")
    settings = recipe.training
    keras.utils.set_random_seed(recipe.seed)
    model = build_model(
        image_size=recipe.framing.size,
        precision=settings.precision,
        **recipe.model.model_dump(),
    )
    started = time.perf_counter()
    store = prepare(manifest, recipe.framing, progress=progress)
    prepared = time.perf_counter()

    run = Run(out)
    info = _info(recipe, manifest, store, model)
    info["seconds"]["prepare"] = round(prepared - started, 2)
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    write_json(run.info_path, info)

    training = _generator(store, train_split, recipe, training=True)
    model.compile(
        optimizer=_optimizer(settings, len(training)),
        loss="mae",
        metrics=["mae"],
    )
    records = _Records(run)
    info["stopped"] = "failed"
    try:
        with training, _generator(store, val_split, recipe, training=False) as validation:
            model.fit(
                training,
                validation_data=validation,
                epochs=settings.epochs,
                verbose=("auto" if sys.stdout.isatty() else 2) if progress else 0,
                callbacks=[records, *_callbacks(run, settings)],
            )
        if records.diverged:
            info["stopped"] = "diverged"
            raise InputError(_divergence(out, settings))
        info["stopped"] = "finished" if len(records.rows) == settings.epochs else "early"
    except KeyboardInterrupt:
        info["stopped"] = "interrupted"
        raise
    finally:
        info["epochs"] = len(records.rows)
        if records.best is not None:
            info["best_epoch"] = int(records.best["epoch"])
            info["best_val_mae_months"] = records.best["val_mae"]
        info["seconds"]["fit"] = round(time.perf_counter() - prepared, 2)
        write_json(run.info_path, info)
        if info["stopped"] == "interrupted" and not records.rows:
            shutil.rmtree(out)  # nothing was learned yet
    return run


def _check_out(out: Path) -> None:
    """Refuses a run folder that can't be made, before anything long is begun."""
    if out.is_dir() and any(out.iterdir()):
        raise InputError(
            Fault(str(out), "the folder is not empty", "a new run folder", "Name another --out.")
        )
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = f"{there} can't be written to" if there.is_dir() else f"{there} is a file"
        raise InputError(Fault(str(out), what, "a place for a run folder", "Name another --out."))


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
    if settings.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
    return keras.optimizers.Adam(rate)


class _Records(keras.callbacks.Callback):
    """Writes `history.csv` and both checkpoints after each epoch, each whole or not at all.

    Keras' own ModelCheckpoint writes into the file that it replaces, so an interrupt at that moment
    would cost the best model; and its CSVLogger would be left open.

    Attributes:
        rows: One an epoch: `epoch` (from 1), `loss`, `mae`, `val_loss`, `val_mae` in months,
            `learning_rate`, `seconds`.
        best: The row with the lowest finite `val_mae`.
        diverged: Whether the loss of the last epoch is no number.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.diverged = False
        self._run = run
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None  # Keras always gives them; the type is its own
        self.diverged = not math.isfinite(logs["loss"])
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        row = {
            "epoch": epoch + 1,
            **{key: float(logs[key]) for key in ("loss", "mae", "val_loss", "val_mae")},
            "learning_rate": float(rate),
            "seconds": round(time.perf_counter() - self._started, 2),
        }
        lowest = math.inf if self.best is None else self.best["val_mae"]
        is_best = row["val_mae"] < lowest and not self.diverged  # the first is never true of nan
        self._save(is_best=is_best)
        self.best = row if is_best else self.best
        self.rows.append(row)
        write_text(self._run.history_path, pd.DataFrame(self.rows).to_csv(index=False))

    def _save(self, *, is_best: bool) -> None:
        last, best = (self._run.folder / f".{name}.part.keras" for name in ("last", "best"))
        try:
            self.model.save(last)
            if is_best:
                shutil.copyfile(last, best)
                best.replace(self._run.best_path)
            last.replace(self._run.last_path)
        finally:
            for part in (last, best):
                part.unlink(missing_ok=True)  # gone already when all went well


def _divergence(out: Path, settings: Training) -> Fault:
    return Fault(
        str(out),
        "the loss is no longer a number",
        "a finite loss",
        f"Lower the learning rate: --set training.learning_rate={settings.learning_rate / 3:.1g}.",
    )


def _callbacks(run: Run, settings: Training) -> list[keras.callbacks.Callback]:
    callbacks: list[keras.callbacks.Callback] = [
        keras.callbacks.TerminateOnNaN(),
    ]
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
    if settings.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(str(run.tensorboard_path)))
    return callbacks


def _info(recipe: Recipe, manifest: Manifest, store: Store, model: keras.Model) -> dict[str, Any]:
    splits = manifest.table["split"].value_counts()
    sources: Sequence[str] = (
        manifest.table["source"].unique().tolist() if "source" in manifest.table else []
    )
    made_by = provenance()
    made_by["backend"] = keras.backend.backend()
    made_by["device"] = accelerator() or made_by["device"]
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "command": command_line(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": {},
        "provenance": made_by,
        "manifest": {
            "path": str(manifest.path.resolve()),
            "digest": manifest.digest,
            "counts": {str(split): int(count) for split, count in splits.items()},
            "source": ", ".join(sources),
        },
        "store": {"folder": str(store.folder.resolve()), "digest": store.digest},
        "model": {"parameters": model.count_params()},
        "stopped": "running",
    }


def accelerator() -> str | None:
    """The name of the GPU that Keras computes on; None without one."""
    if not any(name.startswith(("gpu", "cuda")) for name in keras.distribution.list_devices()):
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "gpu"
    return ", ".join(names.split("\n")).strip(", ")
