"""A training that begins with the network of another run."""

import shutil

import keras
import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.models.builder import build_model
from boneage.recipe import read_recipe
from boneage.run import Run
from boneage.runtime.provenance import file_digest
from boneage.training.fine_tuning import load_initial_weights
from boneage.training.recorder import RunRecorder
from boneage.training.trainer import train


def built(recipe):
    return build_model(image_size=recipe.framing.size, **recipe.model.model_dump())


@pytest.mark.parametrize("size", [64, 96])
def test_the_network_answers_as_the_other_run_s_best_at_any_size(
    finished_run, cohort, tiny_recipe, size
):
    recipe = read_recipe(tiny_recipe, [f"framing.size={size}", "model.dropout=0.2"])
    model = built(recipe)
    told = load_initial_weights(model, finished_run, recipe, read_manifest(cohort))
    theirs = keras.models.load_model(finished_run.best_path)
    for ours, weight in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, weight)
    if size == 64:
        radiographs = np.random.default_rng(0).random((3, 64, 64, 1), np.float32)
        answers = [m.predict((radiographs, np.ones((3, 1))), verbose=0) for m in (model, theirs)]
        np.testing.assert_allclose(*answers, rtol=1e-6)
    assert told["digest"] == file_digest(finished_run.best_path)
    assert told["known_ids"] == {"val": 6, "test": 0}  # its test split it has not seen


def test_another_network_is_refused_by_what_differs(finished_run, cohort, tiny_recipe):
    recipe = read_recipe(tiny_recipe, ["model.backbone=mini_resnet", "model.dense_units=[8]"])
    with pytest.raises(InputError) as refused:
        load_initial_weights(built(recipe), finished_run, recipe, read_manifest(cohort))
    assert "model.backbone is 'mini_resnet', and 'mini_xception' in that run" in str(refused.value)
    assert "model.dense_units is (8,), and (16,) in that run" in str(refused.value)


def test_a_run_says_what_it_began_with_and_learns_on(finished_run, cohort, tiny_recipe, tmp_path):
    recipe = read_recipe(tiny_recipe, ["training.epochs=1", "training.learning_rate=1e-9"])
    run = train(recipe, read_manifest(cohort), tmp_path / "run", progress=False, init=finished_run)
    info = run.read_info()
    assert info["init"]["name"] == "tiny"
    # With so low a rate it is still what it began with, but for the statistics of BatchNorm.
    ours, theirs = (keras.models.load_model(r.best_path) for r in (run, finished_run))
    for one, other in zip(ours.trainable_weights, theirs.trainable_weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_an_incompatible_run_leaves_no_folder(finished_run, cohort, tiny_recipe, tmp_path):
    recipe = read_recipe(tiny_recipe, ["model.gender=false"])
    with pytest.raises(InputError, match="model.gender is False, and True in that run"):
        train(recipe, read_manifest(cohort), tmp_path / "run", progress=False, init=finished_run)
    assert not (tmp_path / "run").exists()


class Killed(BaseException):
    """Stands for a kill: nothing in the project knows it."""


def train_until(epoch, recipe, manifest, folder, init, monkeypatch):
    """Begins a run from another one and kills it as an epoch begins."""
    own = RunRecorder.on_epoch_begin

    def on_epoch_begin(self, number, logs=None):
        if number == epoch:
            raise Killed
        own(self, number, logs)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_epoch_begin", on_epoch_begin)
        with pytest.raises(Killed):
            train(recipe, manifest, folder, progress=False, init=init)


@pytest.fixture
def first(finished_run, tmp_path):
    """A copy of a run, to be spoiled."""
    return Run(shutil.copytree(finished_run.folder, tmp_path / "first"))


def test_a_run_with_a_checkpoint_goes_on_without_the_run_it_began_with(
    first, cohort, tiny_recipe, tmp_path, monkeypatch
):
    recipe, manifest = read_recipe(tiny_recipe, ["training.epochs=2"]), read_manifest(cohort)
    train_until(1, recipe, manifest, tmp_path / "run", first, monkeypatch)
    shutil.rmtree(first.folder)
    run = train(recipe, manifest, tmp_path / "run", progress=False, resume=True)
    assert (run.read_info()["stopped"], run.read_info()["init"]["name"]) == ("finished", "tiny")


def test_a_run_without_one_begins_anew_only_from_the_same_weights(
    first, cohort, tiny_recipe, tmp_path, monkeypatch
):
    recipe, manifest = read_recipe(tiny_recipe, ["training.epochs=1"]), read_manifest(cohort)
    train_until(0, recipe, manifest, tmp_path / "run", first, monkeypatch)
    kept = first.best_path.read_bytes()
    model = keras.models.load_model(first.best_path)
    model.trainable_weights[0].assign_add(model.trainable_weights[0])
    model.save(first.best_path)
    with pytest.raises(InputError, match="its model has changed since the run began"):
        train(recipe, manifest, tmp_path / "run", progress=False, resume=True)
    first.best_path.write_bytes(kept)
    run = train(recipe, manifest, tmp_path / "run", progress=False, resume=True)
    assert run.read_info()["stopped"] == "finished"
