"""Whether a run may go on, and from where: nothing of it may have changed since it began."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.pipeline.store import Store
from boneage.recipe import WITHOUT_EFFECT, Recipe
from boneage.run import Run, recipe_from_run
from boneage.training.checkpoint import Checkpoint, read_checkpoint

# Of a recipe, for a training and its evaluation.
_COUNTS = ("augmentation", "framing", "model", "prediction", "seed", "training")
_NOTED = ("boneage", "commit", "uncommitted_changes", "backend", "device")


def last_checkpoint(run: Run, recipe: dict[str, Any]) -> Checkpoint | None:
    """Reads the checkpoint of a run; None before there is one.

    Raises:
        InputError: It is damaged, or was trained by another recipe than this.
    """
    if not run.checkpoint_path.exists():
        return None
    checkpoint = read_checkpoint(run.checkpoint_path)
    before = recipe_from_run(checkpoint.recipe, where=str(run.checkpoint_path))
    if changed := _differences(before.model_dump(mode="json"), recipe):
        raise InputError(_changed(str(run.recipe_path), changed))
    return checkpoint


def check_same(run: Run, recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Returns what `run.json` says, if the run was begun with this recipe and manifest.

    Raises:
        InputError: It was not; all that differs is told.
    """
    values, info = run.read_recipe().model_dump(mode="json"), run.read_info()
    if changed := _differences(values, recipe.model_dump(mode="json")):
        raise InputError(_changed(str(run.folder), changed))
    if manifest.digest != info["manifest"]["digest"]:
        raise InputError(
            Fault(
                str(manifest.path),
                f"its sha256 is {manifest.digest[:12]}…, so it is not what the run began with",
                "Resume with that one, or train anew into another folder.",
                expected=f"{info['manifest']['path']} with sha256 {info['manifest']['digest'][:12]}…",
            )
        )
    return info


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Every key of a recipe that counts for a training and has another value."""
    pairs: list[tuple[str, Any, Any]] = []
    for name in _COUNTS:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted(old.keys() | new.keys())
            pairs += [(f"{name}.{key}", old.get(key), new.get(key)) for key in keys]
        else:
            pairs.append((name, old, new))
    return [
        f"{key} is {new!r}, was {old!r}"
        for key, old, new in pairs
        if old != new and key not in WITHOUT_EFFECT
    ]


def _changed(where: str, changed: list[str]) -> Fault:
    return Fault(
        where,
        f"the recipe changed since the run began: {'; '.join(changed)}",
        "Put it back, or train anew into another folder (with --init, from these weights).",
        expected="the same recipe to the end of a run",
    )


def first_init(info: dict[str, Any]) -> Run | None:
    """The run that a run, by its `run.json`, began with: before a checkpoint it begins anew."""
    told = info.get("init")
    return None if told is None else Run(Path(told["folder"]))


def check_same_init(told: dict[str, Any], info: dict[str, Any]) -> None:
    """Sees that a run that begins anew begins with the same weights.

    Args:
        told: What `begin_with` says now.
        info: The run's `run.json`.

    Raises:
        InputError: They are others.
    """
    if told["digest"] != info["init"]["digest"]:
        raise InputError(
            Fault(
                f"--init {told['folder']}",
                f"its model has changed since the run began: its sha256 is {told['digest'][:12]}…",
                "Put it back, or train anew into another folder.",
                expected=f"{info['init']['digest'][:12]}…",
            )
        )


def info_resumed(
    run: Run, info: dict[str, Any], store: Store, made_by: dict[str, Any]
) -> dict[str, Any]:
    """Returns `run.json` of a run that goes on: when, and by what, is noted.

    Raises:
        InputError: The images are not those that it began with.
    """
    if store.differs_from(info["store"]):
        raise InputError(
            Fault(
                str(store.folder),
                f"the images changed since the run began: their digest is {store.digest[:12]}…",
                "Put the images back as they were, or train anew into another folder.",
                expected=f"{info['store']['digest'][:12]}…, as {run.info_path} records",
            )
        )
    now = {key: made_by[key] for key in _NOTED}
    now |= {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    return {**info, "resumed": [*info.get("resumed", []), now], "stopped": "running"}
