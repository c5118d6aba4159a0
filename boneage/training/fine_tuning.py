"""Start a training with the weights of another run."""

from __future__ import annotations

from typing import Any

import keras

from boneage.datasets.manifest import Manifest
from boneage.errors import InputError
from boneage.evaluation.known_ids import find_known_ids
from boneage.models.saved import load_model
from boneage.prediction.shipped import is_release, release_name
from boneage.recipe import Recipe
from boneage.run import Run
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
        are the numbers of images of the new `val` and `test` splits whose ids the run knew, or the
        models that it started from. They are None if the ids of one of these are unknown. Those of
        a release are upper limits, and `known_ids_by_chance` is the share of images that it takes
        for known ones. The same ids may be other children, so they are not refused.

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
        "name": release_name(init.folder) if is_release(init.folder) else init.read_recipe().name,
        "folder": str(init.folder.resolve()),
        "digest": file_digest(init.best_path),
        **_known_ids(init, manifest),
    }


def _known_ids(init: Run, manifest: Manifest) -> dict[str, Any]:
    table, known = manifest.table, find_known_ids(init)
    if known is None or not known.complete:
        return {"known_ids": None}
    counts = {split: known.count(table[table["split"] == split]) for split in ("val", "test")}
    by_chance = known.by_chance(table)
    return {"known_ids": counts, **({"known_ids_by_chance": by_chance} if by_chance else {})}
