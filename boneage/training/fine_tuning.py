"""Start a training with the weights of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import InputError
from boneage.evaluation.known_ids import read_known_ids
from boneage.models.saved import load_model
from boneage.recipe import Recipe
from boneage.run import MANIFEST_KEYS, Run
from boneage.runtime.provenance import file_digest
from boneage.training.input_checks import check_same_network, other_network


def load_initial_weights(
    model: keras.Model, init: Run, recipe: Recipe, manifest: Manifest
) -> dict[str, Any]:
    """Copy the weights of a finished run's best model. The image sizes may differ.

    Args:
        model: The new model, built from `recipe`.
        init: The finished run.
        recipe: The recipe of the new model. Its network must be that of the run.
        manifest: The dataset that the new model is trained on.

    Returns:
        Values for `run.json`: `name`, `folder`, `digest` of the model file, and `known_ids`. These
        are the numbers of image_ids of the new `val` and `test` splits that the run was trained or
        selected on, or None if its manifest is gone. Those of a release are upper limits, and
        `known_ids_by_chance` is the share of ids that it takes for known ones. The same ids may be
        other children, so they are not refused.

    Raises:
        InputError: The run has another network, or can't be read.
    """
    check_same_network(init, recipe)
    source = load_model(init)
    shapes = [[tuple(weight.shape) for weight in each.weights] for each in (model, source)]
    if shapes[0] != shapes[1]:
        raise InputError(other_network(init, "the weights have other shapes"))
    for weight, value in zip(model.weights, source.weights, strict=True):
        weight.assign(value)
    return {
        "name": init.read_recipe().name,
        "folder": str(init.folder.resolve()),
        "digest": file_digest(init.best_path),
        **_known_ids(init, manifest),
    }


def _known_ids(init: Run, manifest: Manifest) -> dict[str, Any]:
    table = manifest.table
    if (ids := read_known_ids(init.folder)) is not None:
        counts = {split: ids.count(table[table["split"] == split]) for split in ("val", "test")}
        return {"known_ids": counts, "known_ids_by_chance": ids.by_chance(table)}
    recorded = init.read_info(MANIFEST_KEYS)["manifest"]
    path = Path(recorded["path"])
    if not path.is_file() or file_digest(path) != recorded["digest"]:
        return {"known_ids": None}
    seen = read_manifest(path).table
    known = table["image_id"].isin(seen["image_id"][seen["split"] != "test"])
    counts = {split: int(known[table["split"] == split].sum()) for split in ("val", "test")}
    return {"known_ids": counts}
