import ast
import hashlib
import inspect

import keras
import numpy as np
import pytest
from keras.src.applications import densenet, inception_v3
from keras.src.legacy.saving import legacy_h5_format

from boneage.errors import InputError
from boneage.models.backbones import BACKBONES
from boneage.models.builder import build_model

XCEPTION = BACKBONES["xception"].weights


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=f"'exception' is not known.*{', '.join(BACKBONES)}"):
        build_model("exception", 64)


def test_missing_imagenet_weights_name_the_file_its_digest_and_the_way_on(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError) as refused:
        build_model("xception", 96, weights="imagenet")
    message = str(refused.value)
    assert str(tmp_path / "models" / XCEPTION.name) in message
    assert XCEPTION.digest in message
    assert "--set model.weights=none" in message


def test_weights_that_are_neither_a_word_nor_a_file_are_refused():
    with pytest.raises(InputError, match=r"'imagnet'.*no such file.*'none', 'imagenet' or"):
        build_model("xception", 96, weights="imagnet")


def test_small_resnet_begins_with_its_shortcuts_alone_and_fits_into_a_dozen_megabytes():
    model = build_model("small_resnet", 128, head="distribution", dense_units=(256,))
    assert 2 * model.count_params() < 12e6  # stored as float16
    images = np.random.default_rng(0).random((2, 32, 32, 1), dtype=np.float32)
    network = BACKBONES["small_resnet"].build(32)
    before = network.predict(images, verbose=0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3):
            if layer.strides == (2, 2) and layer.input.shape[-1] == 1:
                continue  # the first one is in every way
            layer.set_weights([2 * weight for weight in layer.get_weights()])
    assert np.array_equal(network.predict(images, verbose=0), before)


def test_a_file_that_is_not_the_backbone_s_is_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    build_model("mini_xception", 64, dense_units=(16,)).save_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="its weights don't fit mini_resnet"):
        build_model("mini_resnet", 64, weights=str(path), weights_sha256=digest)


@pytest.mark.parametrize(
    ("backbone", "least"),
    [("xception", 71), ("inception_v3", 75), ("densenet169", 32), ("mini_xception", 32)],
)
def test_a_backbone_says_how_small_it_goes(backbone, least):
    expected = f"it is {least - 1} pixels; expected at least {least} for {backbone}"
    with pytest.raises(InputError, match=expected):
        build_model(backbone, least - 1)


def test_a_weights_file_with_another_digest_is_refused_and_left_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / XCEPTION.name
    path.parent.mkdir()
    path.write_bytes(b"half a download")
    with pytest.raises(InputError, match="its sha256 is .*15 bytes"):
        build_model("xception", 96, weights="imagenet")
    assert path.read_bytes() == b"half a download"


def test_a_backbone_without_imagenet_weights_names_those_that_have_some():
    with pytest.raises(
        InputError, match="for 'mini_xception'.*xception, inception_v3, densenet169"
    ):
        build_model("mini_xception", 64, weights="imagenet")


def test_xception_weights_are_read_from_a_file_in_the_published_format(tmp_path):
    import h5py

    source = BACKBONES["xception"].build(96)
    for weight in source.weights[:2]:
        weight.assign(weight + 1.5)
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    model = build_model("xception", 96, weights=str(path), weights_sha256=digest)
    loaded = model.get_layer("xception").weights
    for ours, theirs in zip(loaded, source.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def scaled(backbone: str, grey: float) -> np.ndarray:
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, BACKBONES[backbone].scaled(image, 3))
    return model.predict(np.full((1, 4, 4, 1), grey, np.float32), verbose=0)[0, 0, 0]


@pytest.mark.parametrize("grey", [0, 64, 255])
@pytest.mark.parametrize(
    ("backbone", "application"),
    [("xception", "xception"), ("inception_v3", "inception_v3"), ("densenet169", "densenet")],
)
def test_pixels_reach_a_backbone_as_keras_own_preprocessing_gives_them(backbone, application, grey):
    preprocess = getattr(keras.applications, application).preprocess_input
    expected = preprocess(np.full((4, 4, 3), grey, np.float32))[0, 0]
    np.testing.assert_allclose(scaled(backbone, grey / 255), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "module"), [("inception_v3", inception_v3), ("densenet169", densenet)]
)
def test_file_name_and_digest_are_those_that_keras_lists(backbone, module):
    source = ast.parse(inspect.getsource(module))
    listed = {
        call.args[0].value: keyword.value.value
        for call in ast.walk(source)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "file_hash"
    }
    weights = BACKBONES[backbone].weights
    assert weights.algorithm == "md5"
    assert listed[weights.name] == weights.digest


@pytest.mark.parametrize("backbone", ["inception_v3", "densenet169"])
def test_a_wrong_file_is_told_by_the_digest_that_is_known(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    weights = BACKBONES[backbone].weights
    path = tmp_path / "models" / weights.name
    path.parent.mkdir()
    path.write_bytes(b"half a download")
    with pytest.raises(InputError, match=f"its md5 is .*15 bytes.*md5 {weights.digest}"):
        build_model(backbone, 96, weights="imagenet")
    assert path.read_bytes() == b"half a download"
    digest = hashlib.sha256(b"half a download").hexdigest()
    with pytest.raises(InputError, match="its weights don't fit"):  # so the digest was right
        build_model(backbone, 96, weights=str(path), weights_sha256=digest)


def test_a_file_for_a_backbone_without_published_weights_needs_its_digest(tmp_path):
    path = tmp_path / "mine.weights.h5"
    path.touch()
    with pytest.raises(InputError, match="no model.weights_sha256 beside it; expected the sha256"):
        build_model("mini_resnet", 64, weights=str(path))


@pytest.mark.parametrize("backbone", ["xception", "inception_v3", "densenet169"])
def test_the_larger_backbones_answer_in_months_and_survive_saving(backbone, tmp_path):
    model = build_model(backbone, 96, dense_units=(16,))
    images = np.random.default_rng(0).random((2, 96, 96, 1), dtype=np.float32)
    gender = np.array([[0], [1]], np.float32)
    answers = model((images, gender), training=False).numpy()  # no graph of 600 layers to trace
    assert answers.shape == (2, 1)
    assert np.isfinite(answers).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded((images, gender), training=False).numpy(), answers)
