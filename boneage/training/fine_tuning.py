"""A network that begins with what another run has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import Fault, InputError
from boneage.models.saved import load_model
from boneage.recipe import Recipe
from boneage.run import Run
from boneage.runtime.provenance import file_digest

# What of a recipe's [model] doesn't change what the weights mean.
_FREE = {"weights", "weights_sha256", "dropout"}


def begin_with(model: keras.Model, init: Run, recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Gives a model the weights of a finished run's best one; image sizes may differ.

    Args:
        model: The new one, built by `recipe`.
        init: The run.
        recipe: Of the new model; its network must be that of the run.
        manifest: What the new model is to be trained with.

    Returns:
        For `run.json`: `name`, `folder`, `digest` of the model file, and `known_ids`: how many
        image_ids of the new `val` and `test` splits the run was trained or chosen by (None where
        its manifest is gone). The same ids may be other children, so this is not refused.

    Raises:
        InputError: The run is of another network, or can't be read.
    """
    theirs, ours = init.read_recipe().model.model_dump(), recipe.model.model_dump()
    differing = [
        f"model.{key} is {ours[key]!r}, there {theirs[key]!r}"
        for key in ours
        if key not in _FREE and ours[key] != theirs[key]
    ]
    source = load_model(init.best_path)
    shapes = [[tuple(weight.shape) for weight in one.weights] for one in (model, source)]
    if not differing and shapes[0] != shapes[1]:
        differing = ["the weights have other shapes"]
    if differing:
        raise InputError(
            Fault(
                f"--init {init.folder}",
                f"it is another network: {'; '.join(differing)}",
                "Take its values into the recipe with --set, or name another run.",
                expected="a run of the same [model], of any image size",
            )
        )
    for weight, value in zip(model.weights, source.weights, strict=True):
        weight.assign(value)
    return {
        "name": init.read_recipe().name,
        "folder": str(init.folder.resolve()),
        "digest": file_digest(init.best_path),
        "known_ids": _known_ids(init, manifest),
    }


def _known_ids(init: Run, manifest: Manifest) -> dict[str, int] | None:
    recorded = init.read_info()["manifest"]
    path = Path(recorded["path"])
    if not path.is_file() or file_digest(path) != recorded["digest"]:
        return None
    seen, asked = read_manifest(path).table, manifest.table
    known = asked["image_id"].isin(seen["image_id"][seen["split"] != "test"])
    return {split: int(known[asked["split"] == split].sum()) for split in ("val", "test")}
