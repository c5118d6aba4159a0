"""Decide whether a run may continue, and from which checkpoint."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.pipeline.store import Store
from boneage.recipe import Recipe, differing_settings
from boneage.run import MANIFEST_KEYS, Run, recipe_from_run

if TYPE_CHECKING:
    from boneage.training.checkpoint import Checkpoint

_NEEDED = (*MANIFEST_KEYS, "manifest.counts", "store.digest", "stopped", "seconds")
_RECORDED = ("boneage", "commit", "uncommitted_changes", "backend", "device")


def last_checkpoint(run: Run, recipe: Recipe, batches: int) -> Checkpoint | None:
    """Read the checkpoint of a run, or return None if it has none.

    Args:
        run: The run.
        recipe: Its recipe.
        batches: Number of training batches in an epoch.

    Raises:
        InputError: The checkpoint is damaged, or another recipe trained it.
    """
    if not run.checkpoint_path.exists():
        return None
    from boneage.training.checkpoint import read_checkpoint  # imports Keras

    checkpoint = read_checkpoint(run.checkpoint_path)
    previous = recipe_from_run(checkpoint.recipe, where=str(run.checkpoint_path))
    _check_recipe(str(run.recipe_path), previous, recipe)
    checkpoint.check_position(recipe.training.epochs, batches)
    return checkpoint


def check_same(run: Run, recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Return the content of `run.json` if the run has this recipe and this manifest.

    Raises:
        InputError: The recipe or the manifest is another. The message names every difference.
    """
    info = run.read_info(_NEEDED)
    _check_recipe(str(run.folder), run.read_recipe(), recipe)
    if manifest.digest != info["manifest"]["digest"]:
        raise InputError(
            Fault(
                str(manifest.path),
                f"the manifest is not the one that the run began with: its sha256 is "
                f"{manifest.digest[:12]}…",
                f"Resume with {info['manifest']['path']}, whose sha256 was "
                f"{info['manifest']['digest'][:12]}…, or train in a new folder.",
            )
        )
    return info


def _check_recipe(where: str, previous: Recipe, recipe: Recipe) -> None:
    changed = [
        f"{key} is {new!r}, was {old!r}"
        for key, (old, new) in differing_settings(previous, recipe).items()
    ]
    if changed:
        raise InputError(
            Fault(
                where,
                f"the recipe has changed since the run began: {'; '.join(changed)}",
                "Restore these values. Or train in a new folder, with --init to keep the weights.",
            )
        )


def first_init(info: dict[str, Any]) -> Run | None:
    """Return the run whose weights a run began with, from its `run.json`, or None."""
    initial = info.get("init")
    if initial is None:
        return None
    return Run(Path(initial.get("folder") or initial["name"]))


def check_same_init(initial: dict[str, Any], info: dict[str, Any]) -> None:
    """Check that a run without a checkpoint begins again with the same weights.

    Args:
        initial: The result of `load_initial_weights`.
        info: The content of `run.json`.

    Raises:
        InputError: The weights have changed.
    """
    if initial["digest"] != info["init"]["digest"]:
        raise InputError(
            Fault(
                f"--init {initial['folder']}",
                "its model has changed since the run began: its sha256 is "
                f"{initial['digest'][:12]}…, and was {info['init']['digest'][:12]}…",
                "Restore the model, or train in a new folder.",
            )
        )


def resumed_run_info(
    run: Run, info: dict[str, Any], store: Store, made_by: dict[str, Any]
) -> dict[str, Any]:
    """Return `run.json` of a run that continues, with the time and the provenance added.

    Raises:
        InputError: The images, the recipe or the best model have changed since the run began.
    """
    if store.differs_from(info["store"]):
        raise InputError(
            Fault(
                str(store.folder),
                f"the images have changed since the run began: their digest is "
                f"{store.digest[:12]}…, and {run.info_path} records "
                f"{info['store']['digest'][:12]}…",
                "Restore the images, or train in a new folder.",
            )
        )
    run.check_files(info)
    kept = {key: value for key, value in info.items() if key != "digests"}  # until the end
    now = {key: made_by[key] for key in _RECORDED}
    now |= {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    return {**kept, "resumed": [*(info.get("resumed") or []), now], "stopped": "running"}
