import ast
import hashlib
import inspect

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import convnext, densenet, efficientnet_v2, inception_v3
from keras.src.legacy.saving import legacy_h5_format

from boneage.errors import InputError
from boneage.models.backbones import BACKBONES
from boneage.models.builder import build_model
from boneage.models.pretrained import IMAGENET

pytestmark = pytest.mark.slow


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """Makes a damaged file of a backbone's ImageNet weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def write(backbone):
        path = tmp_path / "models" / IMAGENET[backbone].name
        path.parent.mkdir()
        path.write_bytes(b"half a download")
        return path

    return write


def test_a_missing_file_of_imagenet_weights_is_described(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError) as refused:
        build_model("xception", 96, weights="imagenet")
    message = str(refused.value)
    assert str(tmp_path / "models" / IMAGENET["xception"].name) in message
    assert IMAGENET["xception"].digest in message
    assert "--set model.weights=none" in message


def test_a_file_of_another_backbone_is_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    build_model("mini_xception", 64, dense_units=(16,)).save_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="don't fit mini_resnet"):
        build_model("mini_resnet", 64, weights=str(path), weights_sha256=digest)


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("xception", "imagnet", r"'imagnet'.*does not exist.*'none', 'imagenet' or"),
        ("mini_xception", "imagenet", "'mini_xception'.*xception, inception_v3, densenet169"),
    ],
)
def test_weights_that_do_not_exist_are_refused(backbone, weights, message):
    with pytest.raises(InputError, match=message):
        build_model(backbone, 96, weights=weights)


def test_xception_weights_are_read_from_a_file_in_the_published_format(tmp_path):
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
    assert IMAGENET[backbone].algorithm == "md5"
    assert listed[IMAGENET[backbone].name] == IMAGENET[backbone].digest


@pytest.mark.parametrize(
    ("backbone", "application", "listed", "algorithm"),
    [
        ("convnext_tiny", "ConvNeXtTiny", convnext.WEIGHTS_HASHES["convnext_tiny"], "sha256"),
        ("efficientnet_v2_s", "EfficientNetV2S", efficientnet_v2.WEIGHTS_HASHES["-s"], "md5"),
    ],
)
def test_newer_networks_have_the_file_that_keras_lists(backbone, application, listed, algorithm):
    parameters = inspect.signature(getattr(keras.applications, application)).parameters
    assert IMAGENET[backbone].name == f"{parameters['name'].default}_notop.h5"
    assert (IMAGENET[backbone].algorithm, IMAGENET[backbone].digest) == (algorithm, listed[1])


def test_convnext_weights_are_read_from_a_file_in_the_published_format(tmp_path, tiny_convnext):
    source = tiny_convnext.build(64)
    for weight in source.weights:
        weight.assign(weight + 0.01)
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    settings = {"weights": str(path), "weights_sha256": digest, "drop_path": 0.2}
    model = build_model("tiny_convnext", 64, dense_units=(8,), **settings)
    images = np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)
    ours = model.get_layer("convnext")(images, training=False)
    np.testing.assert_allclose(ours, source(images, training=False), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "algorithm"),
    [("xception", "sha256"), ("densenet169", "md5"), ("convnext_tiny", "sha256")],
)
def test_a_file_with_another_digest_is_refused_and_kept(backbone, algorithm, damaged):
    path = damaged(backbone)
    expected = f"the {algorithm} of this file is .*15 bytes.*{IMAGENET[backbone].digest}"
    with pytest.raises(InputError, match=expected):
        build_model(backbone, 96, weights="imagenet")
    assert path.read_bytes() == b"half a download"


def test_the_recipe_s_digest_replaces_the_published_one(damaged):
    digest = hashlib.sha256(b"half a download").hexdigest()
    with pytest.raises(InputError, match="don't fit"):  # so the digest was right
        build_model("xception", 96, weights=str(damaged("xception")), weights_sha256=digest)


def test_a_file_for_a_backbone_without_published_weights_needs_its_digest(tmp_path):
    path = tmp_path / "mine.weights.h5"
    path.touch()
    with pytest.raises(InputError, match=r"model\.weights_sha256 is missing.*sha256sum"):
        build_model("mini_resnet", 64, weights=str(path))
