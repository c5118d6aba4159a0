"""Check the inputs of a training before Keras is imported, which takes seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.models.backbones import find_backbone, require_backbone
from boneage.models.pretrained import find_weights
from boneage.recipe import Recipe, Training
from boneage.run import Run
from boneage.runtime.extras import install_command
from boneage.runtime.files import check_folder_writable
from boneage.runtime.machine import check_workers
from boneage.runtime.nvidia import check_kernels
from boneage.training.resume import check_same

# Keys of [model] that may differ, because they do not change the meaning of the weights.
_MAY_DIFFER = {"weights", "weights_sha256", "dropout", "drop_path"}


def check_inputs(
    recipe: Recipe,
    manifest: Manifest | None,
    out: Path,
    *,
    init: Run | None = None,
    resume: bool = False,
) -> None:
    """Check what a training needs, as `train` does.

    Args:
        recipe: What to train.
        manifest: The data; None if it is not made yet.
        out: The run folder.
        init: A run to take the initial weights from.
        resume: Whether the run folder holds the run.

    Raises:
        InputError: The recipe can't be trained here, a split is missing, or a folder is refused.
    """
    if resume:
        require_backbone(Run(out))
    check_recipe(recipe, needs_weights=init is None and not resume)
    if manifest is not None:
        for split in ("train", "val"):
            manifest.split(split)
        check_sources(recipe.training, manifest)
    if init is not None:
        check_same_network(init, recipe)
    if not resume:
        check_out(out)
    elif manifest is not None:
        check_same(Run(out), recipe, manifest)


def check_recipe(recipe: Recipe, *, needs_weights: bool = True) -> None:
    """Check that a recipe can be trained on this machine.

    Raises:
        InputError: The backbone is unknown or takes no images of this size, the weights file is
            missing, there are too many workers, TensorBoard is not installed, or the backend has no
            kernels for the GPU.
    """
    check_kernels()
    check_settings(recipe.training)
    model = recipe.model
    find_backbone(model.backbone, recipe.framing.size, model.drop_path)
    if needs_weights:
        find_weights(model.backbone, model.weights, model.weights_sha256)


def check_settings(settings: Training) -> None:
    """Refuse more workers than this machine can use, and TensorBoard if it is not installed.

    Raises:
        InputError: There are too many workers, or TensorBoard is not installed.
    """
    if settings.workers is not None:
        check_workers(settings.workers, "training.workers")
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            Fault(
                "training.tensorboard",
                "tensorboard is not installed",
                f"Run {install_command('tensorboard')}, or set training.tensorboard=false.",
            )
        )


def check_sources(settings: Training, manifest: Manifest) -> None:
    """Refuse to balance the sources of a manifest that does not name them.

    Raises:
        InputError: The manifest has no column `source`.
    """
    if settings.balance_sources and "source" not in manifest.table:
        what = f"training.balance_sources is {settings.balance_sources:g}, but there is no column"
        fix = "Add the column, or set training.balance_sources=0."
        raise InputError(Fault(str(manifest.path), f"{what} source", fix))


def check_out(out: Path) -> None:
    """Refuse a run folder that is not empty or can't be written.

    Raises:
        InputError: The folder is refused.
    """
    run = Run(out)
    if run.other_files():
        fix = "Name another --out."
        if run.is_started:
            fix += f" To continue that run: boneage train --resume {out}."
        raise InputError(Fault(str(out), "the folder is not empty", fix))
    check_folder_writable(out)


def check_same_network(init: Run, recipe: Recipe) -> None:
    """Refuse initial weights of another network than that of the recipe.

    Raises:
        InputError: The networks differ. The message names every difference.
    """
    theirs, ours = init.read_recipe().model.model_dump(), recipe.model.model_dump()
    differing = [
        f"model.{key} is {ours[key]!r}, and {theirs[key]!r} in that run"
        for key in ours
        if key not in _MAY_DIFFER and ours[key] != theirs[key]
    ]
    if differing:
        raise InputError(other_network(init, "; ".join(differing)))


def other_network(init: Run, differences: str) -> Fault:
    """Return the fault of initial weights that do not fit."""
    return Fault(
        f"--init {init.folder}",
        f"the run has another network: {differences}",
        "Use the run's values in the recipe, with --set, or name another run.",
    )
