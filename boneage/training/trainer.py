"""Train a recipe on a manifest into a complete run folder."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.models.backbones import backbone_source
from boneage.models.builder import build_model
from boneage.models.losses import compile_for_training
from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.sources import TwoFramings
from boneage.pipeline.store import Store, prepare
from boneage.recipe import Recipe, Training
from boneage.run import TRAINED, Run
from boneage.runtime.files import write_json
from boneage.runtime.machine import check_memory
from boneage.runtime.provenance import command_line, provenance, usable_cores
from boneage.training.distributed import DeviceGroup, accelerator, joined
from boneage.training.fine_tuning import load_initial_weights
from boneage.training.hosts import Hosts
from boneage.training.input_checks import check_out, check_settings, check_sources
from boneage.training.resume import check_same, check_same_init, first_init, resumed_run_info
from boneage.training.session import Parts, TrainingSession
from boneage.training.stop_signals import Stop
from boneage.training.weight_average import WeightAverage

_BYTES_TRAINED = 16  # of a parameter: its value, its gradient and two moments of Adam


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
    """Train a recipe on the train split of a manifest. The val split selects the best epoch.

    The store is prepared if it is missing. All inputs are checked before the run folder is made.
    `boneage.run.Run` describes its files. A training that is cut off continues from its checkpoint.
    The result is then the same, bit for bit, as without the interruption.

    Args:
        recipe: What to train. Its seed decides weights, order and augmentation.
        manifest: The dataset, with a train and a val split.
        out: The run folder. It must be empty, or with `resume` hold the run.
        progress: Whether to show progress.
        resume: Continue a run, with the same recipe and manifest. A finished run is returned
            unchanged.
        init: A run to take the initial weights from.
        stop: Ends the training after the present batch, with a checkpoint, when it is asked to.
        hosts: The processes that train together. Each of them calls this function. The first
            process writes the run folder, which all of them must see.
        require_gpu: Whether to refuse to train without a GPU.

    Raises:
        InputError: The folder is not empty or in use. A split is missing. An image can't be read.
            The run to resume had another recipe, manifest or image. `init` is another network.
            TensorBoard or a GPU is missing. A batch does not fit into memory. The disk is full.
            The loss is not a finite number. A host was lost.
        KeyboardInterrupt: Ctrl-C was pressed. `run.json` is written first.
        Terminated: `stop` received SIGTERM. `run.json` is written first.
    """
    check_settings(recipe.training)
    run = Run(out)
    previous = check_same(run, recipe, manifest) if resume else None
    if previous is not None and previous["stopped"] in TRAINED:
        return run
    with joined(hosts, out) as group:
        if require_gpu and accelerator() is None:
            raise InputError(_no_gpu())
        group.check_same("recipe", recipe.model_dump_json())
        group.check_same("manifest", manifest.digest)
        group.check_batch_size(recipe.training.batch_size)
        check_sources(recipe.training, manifest)
        is_restored = previous is not None and run.checkpoint_path.exists()
        if previous is not None:
            init = None if is_restored else first_init(previous)
        elif group.writes:
            check_out(out)
        network = _build_network(recipe, has_weights=init is not None or is_restored)
        if accelerator() is None:
            _check_memory(network)
        started = time.perf_counter()
        initial = None if init is None else load_initial_weights(network, init, recipe, manifest)
        if initial is not None and previous is not None:
            check_same_init(initial, previous)
        shows = progress and group.writes
        stores = [prepare(manifest, each, progress=shows) for each in recipe.framings()]
        seconds = round(time.perf_counter() - started, 2)
        parts = _make_parts(recipe, manifest, network, stores, group)
        with run.locked() if group.writes else contextlib.nullcontext():
            if previous is not None:
                info = resumed_run_info(run, previous, stores[0], _provenance())
            else:
                if group.writes:
                    check_out(out)  # again, because the folder was not locked until now
                    write_json(run.recipe_path, recipe.model_dump(mode="json"))
                info = _new_run_info(recipe, manifest, stores[0], network)
                info |= {"seconds": {"prepare": seconds}, "init": initial}
            info["devices"] = group.devices
            if group.writes:
                write_json(run.info_path, info)
            session = TrainingSession(recipe, run, group, stop or Stop(), info)
            with parts.training, parts.validation:
                session.train(parts, progress=progress and group.writes)
    return run


def _build_network(recipe: Recipe, *, has_weights: bool) -> keras.Model:
    """Build the network of a recipe, with random weights if other weights will replace them."""
    keras.utils.set_random_seed(recipe.seed)
    settings = recipe.model.model_dump()
    if has_weights:
        settings["weights"] = "none"
    precision = recipe.training.precision
    return build_model(image_size=recipe.framing.size, precision=precision, **settings)


def _check_memory(network: keras.Model) -> None:
    count = network.count_params()
    what = f"training {count:,} parameters"
    check_memory(_BYTES_TRAINED * count, "model", what, "Set model.dense_units lower.")


def _make_parts(
    recipe: Recipe,
    manifest: Manifest,
    network: keras.Model,
    stores: Sequence[Store],
    group: DeviceGroup,
) -> Parts:
    training = _generator(stores, manifest.split("train"), recipe, is_training=True)
    validation = _generator(stores[:1], manifest.split("val"), recipe, is_training=False)
    settings, weights = recipe.training, network.trainable_variables
    inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    backbone = [weight for layer in inner for weight in layer.trainable_variables]
    optimizer = make_optimizer(settings, len(training), weights, backbone)
    model = compile_for_training(network, recipe, optimizer)
    average = WeightAverage(model, statistics=settings.ema_statistics) if settings.ema else None
    return Parts(network, model, *group.shard(model, training, validation), average)


def _no_gpu() -> Fault:
    return Fault(
        "--require-gpu",
        "Keras finds no GPU",
        "Check the GPU's driver. In Docker, add --gpus all. To train on the CPU, omit this option.",
    )


def _generator(
    stores: Sequence[Store], split: Manifest, recipe: Recipe, *, is_training: bool
) -> DataGenerator:
    settings = recipe.training
    workers: dict[str, Any] = {}
    if is_training:  # batches without augmentation need no workers
        workers["workers"] = settings.workers or usable_cores()
        workers["use_multiprocessing"] = settings.use_multiprocessing and os.name == "posix"
        if settings.balance_sources:
            workers["sources"] = list(split.table["source"])
            workers["balance_sources"] = settings.balance_sources
    views = [store.select(list(split.table["image_id"])) for store in stores]
    share = recipe.augmentation.whole_image
    return DataGenerator(
        TwoFramings(views[0], views[1], share) if len(views) > 1 else views[0],
        split.gender(),
        split.age_months(),
        batch_size=settings.batch_size,
        shuffle=is_training,
        augmentation=recipe.augmentation if is_training else None,
        seed=recipe.seed,
        infants=True,  # the manifest knows whether they are
        **workers,
    )


def make_optimizer(
    settings: Training,
    steps_per_epoch: int,
    weights: Sequence[keras.Variable] = (),
    backbone: Sequence[keras.Variable] = (),
) -> keras.optimizers.Optimizer:
    """Return the optimizer of a recipe, with its learning rate schedule and weight average.

    Args:
        settings: The recipe's settings.
        steps_per_epoch: Batches in an epoch.
        weights: The weights to train. Vectors among them may have no weight decay.
        backbone: Those of the backbone, which may have another learning rate.
    """
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
        kind = _with_backbone_rate(keras.optimizers.AdamW, settings.backbone_rate, backbone)
        adamw = kind(rate, weight_decay=settings.weight_decay, **average)
        if not settings.decay_norms_and_biases:
            adamw.exclude_from_weight_decay([each for each in weights if len(each.shape) < 2])
        return adamw
    return _with_backbone_rate(keras.optimizers.Adam, settings.backbone_rate, backbone)(
        rate, **average
    )


def _with_backbone_rate(kind: Any, factor: float, backbone: Sequence[keras.Variable]) -> Any:
    """Return a kind of optimizer, with another learning rate for some weights."""
    if factor == 1:
        return kind
    ids = {id(weight) for weight in backbone}

    class WithBackboneRate(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # TensorFlow passes its own variable, not that of Keras.
            weight = self._trainable_variables[self._get_variable_index(variable)]
            rate = learning_rate * factor if id(weight) in ids else learning_rate
            super().update_step(gradient, variable, rate)

    return WithBackboneRate


def _new_run_info(
    recipe: Recipe, manifest: Manifest, store: Store, network: keras.Model
) -> dict[str, Any]:
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
        "provenance": _provenance(),
        "manifest": {
            "path": str(manifest.path.resolve()),
            "digest": manifest.digest,
            "split_digest": manifest.split_digest,
            "counts": {str(split): int(count) for split, count in splits.items()},
            "source": ", ".join(sources),
        },
        "store": store.metadata(),
        "model": {
            "parameters": network.count_params(),
            "backbone": {"name": recipe.model.backbone, **backbone_source(recipe.model.backbone)},
        },
        "stopped": "running",
    }


def _provenance() -> dict[str, Any]:
    made_by = provenance()
    made_by["backend"] = keras.backend.backend()
    made_by["device"] = accelerator() or made_by["device"]
    return made_by
