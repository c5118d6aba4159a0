"""One recipe, one seed, one complete run folder."""

import keras
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.models.backbones import BACKBONES, Backbone
from boneage.models.builder import build_model
from boneage.pipeline.generator import DataGenerator
from boneage.prediction.shipped import open_run
from boneage.recipe import read_recipe
from boneage.run import Run
from boneage.runtime.files import read_json
from boneage.training.checkpoint import read_checkpoint
from boneage.training.trainer import make_optimizer, train

pytestmark = pytest.mark.slow
TINY = "model.backbone=tiny"


@pytest.fixture(scope="module")
def manifest(cohort):
    return read_manifest(cohort)


@pytest.fixture(scope="module")
def recipe(tiny_recipe, tiny_network):
    return read_recipe(tiny_recipe, [TINY])


@pytest.fixture(scope="module")
def run(recipe, manifest, tmp_path_factory):
    """A finished run. Read only."""
    return train(recipe, manifest, tmp_path_factory.mktemp("run") / "run", progress=False)


def test_a_run_folder_holds_recipe_provenance_history_and_both_models(run):
    info = run.read_info()
    assert info["stopped"] == "finished"
    assert info["epochs"] == 2
    assert info["manifest"]["counts"] == {"train": 48, "val": 6, "test": 6}
    assert info["model"]["parameters"] > 1000
    assert set(info["seconds"]) == {"prepare", "fit"}
    assert info["provenance"]["versions"]["keras"]
    assert run.best_path.exists()
    assert run.checkpoint_path.exists()
    history = pd.read_csv(run.history_path)
    assert list(history["epoch"]) == [1, 2]
    columns = ["epoch", "loss", "mae", "val_loss", "val_mae", "learning_rate", "seconds"]
    assert list(history.columns) == columns


def test_validation_mae_of_fit_is_that_of_evaluation_to_a_hundredth(finished_run):
    metrics = read_json(finished_run.metrics_path("val"))
    best = finished_run.read_info()["best_val_mae_months"]
    assert metrics["mae_months"]["value"] == pytest.approx(best, abs=0.01)


def test_the_same_recipe_and_seed_give_the_same_history_and_trace_the_step_once(
    run, recipe, manifest, tmp_path, monkeypatch
):
    steps = []
    own = keras.Model.train_step

    def counted(*arguments):
        steps.append(arguments)
        return own(*arguments)

    monkeypatch.setattr(keras.Model, "train_step", counted)
    again = train(recipe, manifest, tmp_path / "run", progress=False)
    columns = ["loss", "val_mae", "learning_rate"]
    first, second = (pd.read_csv(each.history_path)[columns] for each in (run, again))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert len(steps) == 1


def test_a_taken_folder_is_refused_and_left_as_it_is(recipe, manifest, tmp_path):
    (tmp_path / "best.keras").write_text("precious")
    with pytest.raises(InputError, match=r"the folder is not empty.*Name another --out"):
        train(recipe, manifest, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["best.keras"]


def test_the_same_command_restarts_a_training_that_was_killed_before_it_began(
    recipe, manifest, tmp_path
):
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / ".run.json.a1b2c3.part").write_text("{")
    run = train(recipe, manifest, tmp_path, progress=False)
    assert run.read_recipe().model.backbone == "tiny"
    assert not list(tmp_path.glob(".*"))


def test_a_missing_tensorboard_is_asked_for(manifest, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = read_recipe(tiny_recipe, ["training.tensorboard=true"])
    with pytest.raises(
        InputError, match=r"tensorboard is not installed.*pip install .boneage.tensorboard"
    ):
        train(recipe, manifest, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_refused_before_a_run_folder_is_made(recipe, cohort_copy, tmp_path):
    manifest = read_manifest(cohort_copy)
    for path in manifest.image_paths()[:2]:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError) as refused:
        train(recipe, manifest, tmp_path / "run", progress=False)
    assert len(refused.value.faults) == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epochs", [0, 1])
def test_an_interrupt_keeps_finished_epochs_and_without_one_no_folder(
    recipe, manifest, tmp_path, train_until, epochs
):
    def interrupt():
        raise KeyboardInterrupt

    run = Run(tmp_path / "run")
    moment = ("on_epoch_begin", epochs, epochs)
    train_until(*moment, recipe, manifest, run.folder, then=interrupt, error=KeyboardInterrupt)
    assert run.folder.exists() == bool(epochs)
    if epochs:
        info = run.read_info()
        assert (info["stopped"], info["epochs"]) == ("interrupted", 1)
        assert read_checkpoint(run.checkpoint_path).state.epoch == 1


def test_an_interrupted_save_leaves_the_checkpoint_of_the_epoch_before(
    recipe, manifest, tmp_path, monkeypatch
):
    savez, run = np.savez, Run(tmp_path / "run")

    def interrupt_the_second(file, **arrays):
        if run.checkpoint_path.exists():
            file.write_bytes(b"half a checkpoint")
            raise KeyboardInterrupt
        savez(file, **arrays)

    monkeypatch.setattr("boneage.training.checkpoint.np.savez", interrupt_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, manifest, run.folder, progress=False)
    assert not list(run.folder.glob(".*")), "half a checkpoint was left behind"
    assert read_checkpoint(run.checkpoint_path).state.epoch == 1
    assert keras.models.load_model(run.best_path).count_params() > 0
    assert run.read_info()["stopped"] == "interrupted"


def overflowing_network(image_size):
    image = keras.Input((image_size, image_size, 1))
    return keras.Model(image, keras.layers.Rescaling(1e38, 1e38)(image))


def test_a_loss_that_is_not_finite_ends_the_training_with_the_images_of_the_batch(
    manifest, tiny_recipe, tmp_path, monkeypatch
):
    # With such a scale the answers are larger than the largest float32.
    monkeypatch.setitem(BACKBONES, "overflowing", Backbone(overflowing_network))
    recipe = read_recipe(tiny_recipe, ["model.backbone=overflowing"])
    with pytest.raises(InputError, match=r"training\.learning_rate=0\.0003") as refused:
        train(recipe, manifest, tmp_path / "run", progress=False)
    rows = np.random.default_rng([recipe.seed, 1, 0, 0]).permutation(48)[:16]
    ids = ", ".join(manifest.split("train").table["image_id"].iloc[rows])
    text = f"epoch 1, batch 1 of 3, at a learning rate of 0.001; image_id {ids}."
    assert text in str(refused.value)
    run = Run(tmp_path / "run")
    assert run.read_info()["stopped"] == "diverged"
    assert not run.best_path.exists()
    with pytest.raises(InputError, match=r"best\.keras"):
        open_run(run.folder)


def test_the_cosine_schedule_warms_up_and_ends_at_its_minimum(tiny_recipe):
    overrides = ["training.schedule=cosine", "training.warmup_epochs=1", "training.epochs=10"]
    settings = read_recipe(tiny_recipe, overrides).training
    optimizer, rates = make_optimizer(settings, steps_per_epoch=100), []
    for step in (0, 50, 100, 550, 1000):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    top, low = settings.learning_rate, settings.minimum_learning_rate
    np.testing.assert_allclose(rates, [0, top / 2, top, (top + low) / 2, low], rtol=1e-3, atol=1e-9)


def test_norms_and_biases_do_not_decay_unless_the_recipe_says_so(tiny_recipe, tiny_network):
    model = build_model("tiny", 64, dense_units=(8,), head="distribution")
    weights = model.trainable_variables
    vectors = [len(each.shape) == 1 for each in weights]
    assert 0 < sum(vectors) < len(vectors)
    for setting, decays in (("true", True), ("false", False)):
        overrides = ["training.optimizer=adamw", "training.weight_decay=0.5", "training.epochs=1"]
        overrides += [f"training.decay_norms_and_biases={setting}"]
        adamw = make_optimizer(read_recipe(tiny_recipe, overrides).training, 100, weights)
        for weight in weights:
            weight.assign(np.ones(weight.shape))
        adamw.apply([keras.ops.zeros_like(each) for each in weights], weights)
        shrunk = [float(keras.ops.max(each)) < 1 for each in weights]
        assert shrunk == [decays or not vector for vector in vectors]


def test_sources_are_balanced_in_training_only_and_must_be_named(
    cohort_copy, tiny_recipe, tiny_network, tmp_path, monkeypatch
):
    recipe = read_recipe(tiny_recipe, [TINY, "training.balance_sources=1", "training.epochs=1"])
    table = pd.read_csv(cohort_copy, dtype={"image_id": str})
    table["source"] = ["few" if number % 8 == 0 else "many" for number in range(len(table))]
    table.to_csv(cohort_copy, index=False)
    made = []
    own = DataGenerator.__init__

    def kept(self, *arguments, **options):
        own(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(DataGenerator, "__init__", kept)
    manifest = read_manifest(cohort_copy)
    train(recipe, manifest, tmp_path / "run", progress=False)
    training, validation = made[:2]
    sources = manifest.split("train").table["source"]
    served = [sources[row] for index in range(3) for row in training.batch_rows(index)]
    assert served.count("few") == served.count("many") == 24
    assert np.array_equal(validation.batch_rows(0), np.arange(6))

    table.drop(columns="source").to_csv(cohort_copy, index=False)
    with pytest.raises(InputError, match=r"balance_sources is 1, but there is no column source"):
        train(recipe, read_manifest(cohort_copy), tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_backbone_may_learn_at_another_rate(tiny_recipe, tiny_network, optimizer):
    network = build_model("tiny", 64, dense_units=(16,))
    before = network.get_weights()
    steps = []
    for factor in (1, 0.5):
        overrides = [f"training.backbone_rate={factor}", f"training.optimizer={optimizer}"]
        recipe = read_recipe(tiny_recipe, overrides)
        weights, backbone = network.trainable_variables, network.get_layer("tiny")
        network.set_weights(before)
        adam = make_optimizer(recipe.training, 3, weights, backbone.trainable_variables)
        adam.build(weights)
        adam.apply([keras.ops.ones(weight.shape) for weight in weights])  # a step of the rate
        moved = zip(network.get_weights(), before, strict=True)
        steps.append([np.abs(new - old).max() for new, old in moved if (new != old).any()])
    ratios = np.divide(steps[1], steps[0])
    count = len(backbone.trainable_variables)
    assert 0 < count < len(ratios)
    np.testing.assert_allclose(ratios[:count], 0.5, rtol=1e-3)
    np.testing.assert_allclose(ratios[count:], 1, rtol=1e-3)


def test_early_stopping_ends_a_run_and_is_recorded(manifest, tiny_recipe, tiny_network, tmp_path):
    # With such a learning rate validation soon stops improving.
    overrides = [
        *(TINY, "training.epochs=30", "training.early_stop_patience=1"),
        "training.learning_rate=1.0",
    ]
    recipe = read_recipe(tiny_recipe, overrides)
    run = train(recipe, manifest, tmp_path / "run", progress=False)
    info = run.read_info()
    history = pd.read_csv(run.history_path)
    assert info["stopped"] == "early"
    assert len(history) == info["epochs"] == info["best_epoch"] + 1
    assert info["best_val_mae_months"] == pytest.approx(history["val_mae"].min())
