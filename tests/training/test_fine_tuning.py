"""A training that starts with the weights of another run."""

import shutil

import keras
import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.evaluation.known_ids import ids_of_table, write_known_ids
from boneage.models.builder import build_model
from boneage.recipe import read_recipe
from boneage.run import Run
from boneage.runtime.files import write_json
from boneage.runtime.provenance import file_digest
from boneage.training.fine_tuning import load_initial_weights
from boneage.training.trainer import train

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe_with(tiny_recipe, tiny_network):
    def read(*overrides):
        return read_recipe(tiny_recipe, ["model.backbone=tiny", "training.epochs=1", *overrides])

    return read


@pytest.fixture(scope="module")
def source(cohort, tiny_recipe, tiny_network, tmp_path_factory):
    """A finished run. Read only."""
    recipe = read_recipe(tiny_recipe, ["model.backbone=tiny", "training.epochs=1"])
    folder = tmp_path_factory.mktemp("source") / "run"
    return train(recipe, read_manifest(cohort), folder, progress=False)


@pytest.mark.parametrize("size", [64, 96])
def test_the_network_answers_as_the_other_run_s_best_at_any_size(source, cohort, recipe_with, size):
    recipe = recipe_with(f"framing.size={size}", "model.dropout=0.2")
    model = build_model(image_size=size, **recipe.model.model_dump())
    initial = load_initial_weights(model, source, recipe, read_manifest(cohort))
    theirs = keras.models.load_model(source.best_path)
    for ours, weight in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, weight)
    if size == 64:
        images = np.random.default_rng(0).random((3, 64, 64, 1), np.float32)
        answers = [m.predict((images, np.ones((3, 1))), verbose=0) for m in (model, theirs)]
        np.testing.assert_allclose(*answers, rtol=1e-6)
    assert initial["digest"] == file_digest(source.best_path)
    assert initial["known_ids"] == {"val": 6, "test": 0}  # it has not seen its test split


def test_a_release_says_how_many_of_the_new_ids_it_knew_at_most(
    source, cohort, recipe_with, tmp_path
):
    first, manifest = Run(shutil.copytree(source.folder, tmp_path / "first")), read_manifest(cohort)
    write_known_ids(first.folder, ids_of_table(manifest.table))
    write_json(first.folder / "release.json", {"name": "tiny-best"})
    recipe = recipe_with("framing.size=64")
    model = build_model(image_size=64, **recipe.model.model_dump())
    initial = load_initial_weights(model, first, recipe, manifest)
    assert initial["known_ids"] == {"val": 6, "test": 0}
    assert initial["known_ids_by_chance"] == pytest.approx(0.01)
    assert initial["name"] == "tiny-best"


def test_another_network_is_refused_by_its_differences_and_leaves_no_folder(
    source, cohort, recipe_with, tmp_path
):
    recipe = recipe_with("model.gender=false", "model.dense_units=[8]")
    with pytest.raises(InputError) as refused:
        train(recipe, read_manifest(cohort), tmp_path / "run", progress=False, init=source)
    assert "model.gender is False, and True in that run" in str(refused.value)
    assert "model.dense_units is (8,), and (16,) in that run" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_run_json_names_the_source_and_training_continues_from_it(
    source, cohort, recipe_with, tmp_path
):
    recipe = recipe_with("training.learning_rate=1e-9")
    run = train(recipe, read_manifest(cohort), tmp_path / "run", progress=False, init=source)
    assert run.read_info()["init"]["name"] == "tiny"
    # At so low a learning rate only BatchNorm's statistics change.
    ours, theirs = (keras.models.load_model(r.best_path) for r in (run, source))
    for weight, initial in zip(ours.trainable_weights, theirs.trainable_weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), initial.numpy(), atol=1e-6)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_killed_run_needs_the_source_only_before_its_first_checkpoint(
    source, cohort, recipe_with, tmp_path, train_until, epoch
):
    first, out = Run(shutil.copytree(source.folder, tmp_path / "first")), tmp_path / "run"
    recipe, manifest = recipe_with("training.epochs=2"), read_manifest(cohort)
    train_until("on_epoch_begin", epoch, epoch, recipe, manifest, out, init=first)
    if epoch:
        shutil.rmtree(first.folder)
    else:
        kept, info = first.best_path.read_bytes(), first.read_info()
        model = keras.models.load_model(first.best_path)
        model.trainable_weights[0].assign_add(model.trainable_weights[0])
        model.save(first.best_path)
        write_json(first.info_path, {**info, "digests": first.digests()})  # as if trained again
        with pytest.raises(InputError, match="its model has changed since the run began"):
            train(recipe, manifest, out, progress=False, resume=True)
        first.best_path.write_bytes(kept)
        write_json(first.info_path, info)
    info = train(recipe, manifest, out, progress=False, resume=True).read_info()
    assert (info["stopped"], info["init"]["name"]) == ("finished", "tiny")
