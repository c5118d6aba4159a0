"""What `fit` trains: the network, or its logits for a distribution head."""

import keras
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.evaluation.scoring import evaluate_run
from boneage.models.builder import LOGITS, MONTHS, build_model
from boneage.models.losses import compile_for_training
from boneage.recipe import Recipe, read_recipe
from boneage.training.trainer import train

pytestmark = pytest.mark.slow


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


@pytest.fixture
def recipe(tiny_network):
    values = {"backbone": "tiny", "dense_units": (8,), "head": "distribution"}
    return Recipe(name="x", model=values, training={"spread_months": 5.0})


@pytest.fixture
def network(recipe):
    keras.utils.set_random_seed(0)
    return build_model(image_size=32, **recipe.model.model_dump())


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return rng.random((4, 32, 32, 1), np.float32), np.array([[0], [1], [1], [0]], np.float32)


def test_a_number_is_fitted_as_the_network_itself():
    network = build_model("mini_xception", 64, dense_units=(8,))
    model = compile_for_training(network, Recipe(name="x"), keras.optimizers.Adam())
    assert model is network
    assert model.loss == "mae"


def test_the_answer_is_the_mean_of_the_distribution(network, inputs):
    logits = keras.Model(network.inputs, network.get_layer(LOGITS).output)
    shares = softmax(logits.predict(inputs, verbose=0).astype(np.float64))
    answers = network.predict(inputs, verbose=0)
    assert answers.shape == (4, 1)
    np.testing.assert_allclose(answers[:, 0], shares @ np.arange(241.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("slope", "spreads"), [(0.0, [5.0] * 4), (0.04, [2.4, 5.0, 5.0, 5.0]), (0.02, [2.2, 4, 5, 5])]
)
def test_the_loss_is_the_error_and_the_distance_of_the_distributions(
    network, recipe, inputs, slope, spreads
):
    settings = recipe.training.model_copy(update={"spread_by_age": slope})
    recipe = recipe.model_copy(update={"training": settings})
    model = compile_for_training(network, recipe, keras.optimizers.Adam())
    ages = np.array([[10.0], [100.0], [200.0], [228.0]])
    metrics = model.evaluate(inputs, ages, verbose=0, return_dict=True)
    logits = model.predict(inputs, verbose=0).astype(np.float64)
    error = np.abs(softmax(logits) @ np.arange(241.0) - ages[:, 0])
    likely = np.exp(-0.5 * ((np.arange(241.0) - ages) / np.array(spreads)[:, None]) ** 2)
    likely /= likely.sum(axis=1, keepdims=True)
    distance = -(likely * np.log(softmax(logits))).sum(axis=1)
    assert metrics["mae"] == pytest.approx(error.mean(), rel=1e-4)
    assert metrics["loss"] == pytest.approx((error + 10 * distance).mean(), rel=1e-4)


def test_training_the_part_trains_the_network_and_leaves_the_months(network, recipe, inputs):
    before = network.predict(inputs, verbose=0)
    model = compile_for_training(network, recipe, keras.optimizers.Adam(1e-2))
    ages = np.full((4, 1), 30.0)
    for _ in range(30):
        model.train_on_batch(inputs, ages)
    after = network.predict(inputs, verbose=0)
    assert np.abs(after - 30).mean() < np.abs(before - 30).mean() / 2
    np.testing.assert_array_equal(network.get_layer("age_months").get_weights()[0][:, 0], MONTHS)


def test_a_run_answers_as_well_as_its_history_says(cohort, tiny_recipe, tiny_network, tmp_path):
    recipe = read_recipe(tiny_recipe, ["model.head=distribution", "model.backbone=tiny"])
    manifest = read_manifest(cohort)
    run = train(recipe, manifest, tmp_path / "run", progress=False)
    history = pd.read_csv(run.history_path)
    assert (history["loss"] > history["mae"]).all()
    metrics = evaluate_run(run, split="val", progress=False)
    best = run.read_info()["best_val_mae_months"]
    assert metrics["mae_months"]["value"] == pytest.approx(best, abs=0.01)
