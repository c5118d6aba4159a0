import subprocess
import sys

import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.models.backbones import BACKBONES
from boneage.models.builder import build_model

pytestmark = pytest.mark.slow


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=f"'exception' is not known.*{', '.join(BACKBONES)}"):
        build_model("exception", 64)


@pytest.mark.parametrize(
    ("backbone", "least"),
    [("xception", 71), ("inception_v3", 75), ("densenet169", 32), ("mini_xception", 32)],
)
def test_a_backbone_says_how_small_an_image_it_takes(backbone, least):
    with pytest.raises(
        InputError, match=f"it is {least - 1} pixels, and {backbone} needs at least {least}"
    ):
        build_model(backbone, least - 1)


def test_small_resnet_begins_with_its_shortcuts_alone_and_fits_into_12_megabytes():
    model = build_model("small_resnet", 128, head="distribution", dense_units=(256,))
    assert 2 * model.count_params() < 12e6  # stored as float16
    images = np.random.default_rng(0).random((2, 32, 32, 1), dtype=np.float32)
    network = BACKBONES["small_resnet"].build(32)
    before = network.predict(images, verbose=0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3):
            if layer.strides == (2, 2) and layer.input.shape[-1] == 1:
                continue  # every path has the first layer in it
            layer.set_weights([2 * weight for weight in layer.get_weights()])
    assert np.array_equal(network.predict(images, verbose=0), before)


@pytest.mark.parametrize("grey", [0, 64, 255])
@pytest.mark.parametrize(
    ("backbone", "application"),
    [("xception", "xception"), ("inception_v3", "inception_v3"), ("densenet169", "densenet")],
)
def test_pixels_are_scaled_as_by_keras_own_preprocessing(backbone, application, grey):
    preprocess = getattr(keras.applications, application).preprocess_input
    expected = preprocess(np.full((4, 4, 3), grey, np.float32))[0, 0]
    image = np.full((1, 4, 4, 1), grey / 255, np.float32)
    scaled = BACKBONES[backbone].scaled(image, 3)[0, 0, 0]
    np.testing.assert_allclose(scaled, expected, atol=1e-6)


def answers(model, size=64):
    images = np.random.default_rng(0).random((2, size, size, 1), dtype=np.float32)
    return model((images, np.array([[0], [1]], np.float32)), training=False).numpy()


def dropouts(model):
    every = [layer for inner in model.layers for layer in getattr(inner, "layers", [inner])]
    return [layer for layer in every if isinstance(layer, keras.layers.Dropout)]


def test_branches_are_dropped_more_often_towards_the_end_and_never_in_prediction(tiny_convnext):
    model = build_model("tiny_convnext", 64, dense_units=(8,), drop_path=0.2)
    assert [layer.rate for layer in dropouts(model)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert {layer.noise_shape for layer in dropouts(model)} == {(None, 1, 1, 1)}
    without = build_model("tiny_convnext", 64, dense_units=(8,))
    assert not any(layer.rate for layer in dropouts(without))
    without.set_weights(model.get_weights())
    np.testing.assert_array_equal(answers(without), answers(model))


def test_branches_are_dropped_for_each_image_and_the_rest_is_scaled_up(tiny_convnext):
    network = tiny_convnext.adapted(tiny_convnext.build(64), 0.5)
    last = network.get_layer("convnext_stage_3_block_0_identity")
    branch = last(np.ones((64, 2, 2, 3), np.float32), training=True).numpy()
    each = branch.reshape(64, -1)
    assert (each == each[:, :1]).all()
    assert set(np.unique(each)) == {0.0, 2.0}


def test_branches_of_a_backbone_without_any_are_not_dropped():
    with pytest.raises(InputError, match="is 0.1, and xception has no branches.*convnext_tiny"):
        build_model("xception", 96, drop_path=0.1)


def test_a_saved_convnext_is_read_in_another_process_without_this_package(tiny_convnext, tmp_path):
    settings = {"dense_units": (8,), "drop_path": 0.2, "gender_by": "film"}
    model = build_model("tiny_convnext", 64, **settings)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "answers.npz", answers(model))
    script = """
import sys, keras, numpy as np
model = keras.models.load_model("model.keras", compile=False, safe_mode=True)
images = np.random.default_rng(0).random((2, 64, 64, 1), dtype=np.float32)
found = model((images, np.array([[0], [1]], np.float32)), training=False)
np.testing.assert_array_equal(found, np.load("answers.npz")["arr_0"])
assert not any(name.startswith("boneage") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("backbone", "application", "atol"),
    [("convnext_tiny", "ConvNeXtTiny", 1e-4), ("efficientnet_v2_s", "EfficientNetV2S", 5e-2)],
)
def test_newer_networks_answer_as_keras_own_do_on_pixels_of_0_to_255(backbone, application, atol):
    image = np.random.default_rng(0).random((2, 64, 64, 1), dtype=np.float32)
    shape = {"input_shape": (64, 64, 3), "include_top": False, "weights": None}
    theirs = getattr(keras.applications, application)(**shape)
    chosen = BACKBONES[backbone]
    ours = chosen.adapted(chosen.build(64), 0.2)
    for new, old in zip(ours.weights, theirs.weights, strict=True):
        new.assign(keras.ops.reshape(old, new.shape))
    expected = theirs(255 * image.repeat(3, axis=-1), training=False)
    found = ours(chosen.scaled(image, 3), training=False)  # EfficientNetV2 divides by 128
    np.testing.assert_allclose(found, expected, atol=atol)


def test_a_large_backbone_answers_in_months_and_survives_saving(tmp_path):
    model = build_model("densenet169", 96, dense_units=(16,))
    images = np.random.default_rng(0).random((2, 96, 96, 1), dtype=np.float32)
    gender = np.array([[0], [1]], np.float32)
    answers = model((images, gender), training=False).numpy()  # no graph of 600 layers to trace
    assert answers.shape == (2, 1)
    assert np.isfinite(answers).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded((images, gender), training=False).numpy(), answers)
