import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.models.builder import build_model

pytestmark = pytest.mark.slow


def batch(size: int = 64, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    gender = (np.arange(count) % 2).astype("float32")[:, None]
    return rng.random((count, size, size, 1), dtype="float32"), gender


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": (64, 64)}, r"image_size: it is \(64, 64\)"),
        ({"image_size": "64"}, "image_size: it is '64'"),
        ({"dense_units": 16}, "dense_units is 16"),
        ({"dropout": 2}, "dropout is 2"),
        ({"gender_units": 10**12}, "gender_units is 1000000000000"),
        ({"age_scale_months": math.nan}, "age_scale_months is nan"),
        ({"pooling": "max", "weights": None}, "(?s)weights is None.*pooling is 'max'"),
        ({"weights": Path("no.h5")}, "'no.h5': this file does not exist"),
    ],
)
def test_settings_of_another_kind_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model("mini_xception", **{"image_size": 64, **settings})


def test_xception_with_the_lineage_s_head_has_the_published_size():
    assert build_model("xception", 96).count_params() == 23_944_545


@pytest.mark.parametrize(
    "head", [{"dense_units": [65_536] * 4}, {"dense_units": [65_536] * 4, "gender_units": 65_536}]
)
def test_a_head_that_does_not_fit_into_memory_is_not_built(head):
    with pytest.raises(InputError, match=r"a network of [0-9,]{14,} parameters needs"):
        build_model("mini_resnet", 64, **head)


def test_an_untrained_model_answers_around_its_centre_in_months():
    model = build_model("mini_xception", 64, age_centre_months=127.0, age_scale_months=0.01)
    np.testing.assert_allclose(model.predict(batch(), verbose=0), 127.0, atol=0.02)


def test_gender_changes_the_answer_only_where_the_recipe_lets_it():
    images, gender = batch()
    for used in (True, False):
        model = build_model("mini_xception", 64, gender=used, dense_units=(16,))
        girl = model.predict((images, 0 * gender), verbose=0)
        boy = model.predict((images, 0 * gender + 1), verbose=0)
        assert np.array_equal(girl, boy) is not used


def test_the_sex_scales_and_shifts_features_that_it_leaves_alone_at_first():
    images, gender = batch()
    model = build_model("mini_xception", 64, gender_by="film", dense_units=(16,))
    pooled = keras.Model(model.inputs, model.get_layer("pooled").output)
    film = keras.Model(model.inputs, model.get_layer("by_gender").output)
    np.testing.assert_array_equal(film((images, gender)), pooled((images, gender)))
    features = pooled((images, gender)).numpy()
    for name, value in (("gender_branch", 1.0), ("gender_scale", 2.0), ("gender_shift", 3.0)):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([np.full_like(kernel, value / len(kernel)), bias])
    scale, shift = 1 + 2 * gender, 3 * gender  # of a branch that is the sex
    np.testing.assert_allclose(film((images, gender)), features * scale + shift, rtol=1e-5)
    without = build_model("mini_xception", 64, gender_by="film", gender=False, dense_units=(16,))
    assert "gender_scale" not in [layer.name for layer in without.layers]


def test_a_film_that_does_not_fit_into_memory_is_not_built():
    film = {"gender_by": "film", "gender_units": 65_536, "pooling": "flatten"}
    with pytest.raises(InputError, match=r"a network of [0-9,]{14,} parameters needs"):
        build_model("mini_resnet", 1024, dense_units=(1,), **film)


def test_the_last_layers_stay_float32_and_the_caller_s_policy_is_given_back():
    before = keras.config.dtype_policy().name
    model = build_model("mini_resnet", 64, precision="mixed_bfloat16", dense_units=(16,))
    assert keras.config.dtype_policy().name == before
    assert model.get_layer("scaled_age").dtype_policy.name == "float32"
    assert model.output.dtype == "float32"
    assert model.get_layer("gender_branch").dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("backbone", ["mini_xception", "mini_resnet"])
def test_a_saved_model_has_the_contract_s_names_and_answers_the_same(backbone, tmp_path):
    model = build_model(backbone, 64, dense_units=(16,))
    assert [tensor.name for tensor in model.inputs] == ["image", "gender"]
    assert model.output_names == ["age_months"]
    answers = model.predict(batch(), verbose=0)
    assert answers.shape == (4, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded.predict(batch(), verbose=0), answers)


def test_flattening_keeps_every_position_as_the_winner_s_network_did():
    model = build_model("mini_xception", 128, dense_units=(8,), pooling="flatten")
    assert model.get_layer("pooled").output.shape == (None, 2 * 2 * 256)
    assert build_model("mini_xception", 128).get_layer("pooled").output.shape == (None, 256)
    with pytest.raises(InputError, match=r"model.pooling: it is 'flatten', .* is only 1 x 1"):
        build_model("mini_xception", 32, pooling="flatten")


def test_the_winner_s_head_has_as_many_inputs_as_was_published():
    # 7 x 7 x 2048 + 32 = 100,384: BCV-Uniandes/Bonet, models/bonet.py. 500 pixels leave 14 x 14.
    keras.backend.clear_session()
    model = build_model("inception_v3", 500, pooling="flatten", dense_units=(8,))
    assert model.get_layer("inception_v3").output.shape == (None, 14, 14, 2048)
    assert model.get_layer("pooled").output.shape == (None, 100_352)
