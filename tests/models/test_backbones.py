import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.models.backbones import BACKBONES
from boneage.models.builder import build_model


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


@pytest.mark.slow
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
