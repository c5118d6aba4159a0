import hashlib

import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from boneage.errors import InputError
from boneage.model import BACKBONES, XCEPTION_IMAGENET_FILE, XCEPTION_IMAGENET_SHA256, build_model

SMALL = ("mini_xception", "mini_resnet")


def batch(size: int = 64, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    gender = (np.arange(count) % 2).astype("float32")[:, None]
    return rng.random((count, size, size, 1), dtype="float32"), gender


def test_xception_with_the_lineage_s_head_has_the_published_size():
    assert build_model("xception", 96).count_params() == 23_944_545


@pytest.mark.parametrize("backbone", SMALL)
def test_inputs_and_output_bear_the_contract_s_names_and_shapes(backbone):
    model = build_model(backbone, 64, dense_units=(16,))
    assert [tensor.name for tensor in model.inputs] == ["image", "gender"]
    assert model.output_names == ["age_months"]
    assert model.predict(batch(), verbose=0).shape == (4, 1)


def test_an_untrained_model_answers_around_its_centre_in_months():
    model = build_model("mini_xception", 64, age_centre_months=127.0, age_scale_months=1e-6)
    np.testing.assert_allclose(model.predict(batch(), verbose=0), 127.0, atol=1e-3)


def test_gender_changes_the_answer_only_where_the_recipe_lets_it():
    images, gender = batch()
    for used in (True, False):
        model = build_model("mini_xception", 64, gender=used, dense_units=(16,))
        girl = model.predict((images, 0 * gender), verbose=0)
        boy = model.predict((images, 0 * gender + 1), verbose=0)
        assert np.array_equal(girl, boy) is not used


def test_the_last_layers_stay_float32_and_the_caller_s_policy_is_given_back():
    before = keras.config.dtype_policy().name
    model = build_model("mini_resnet", 64, precision="mixed_bfloat16", dense_units=(16,))
    assert keras.config.dtype_policy().name == before
    assert model.get_layer("scaled_age").dtype_policy.name == "float32"
    assert model.output.dtype == "float32"
    assert model.get_layer("gender_branch").dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("backbone", SMALL)
def test_a_saved_model_answers_the_same_in_months_without_our_code(backbone, tmp_path):
    model = build_model(backbone, 64, dense_units=(16,))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(
        model.predict(batch(), verbose=0), loaded.predict(batch(), verbose=0)
    )


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=f"'exception' is not known.*{', '.join(BACKBONES)}"):
        build_model("exception", 64)


def test_missing_imagenet_weights_name_the_file_its_digest_and_the_way_on(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError) as refused:
        build_model("xception", 96, weights="imagenet")
    message = str(refused.value)
    assert str(tmp_path / "models" / XCEPTION_IMAGENET_FILE) in message
    assert XCEPTION_IMAGENET_SHA256 in message
    assert "--set model.weights=none" in message


def test_weights_that_are_neither_a_word_nor_a_file_are_refused():
    with pytest.raises(InputError, match=r"'imagnet'.*no such file.*'none', 'imagenet' or"):
        build_model("xception", 96, weights="imagnet")


def test_a_file_that_is_not_the_backbone_s_is_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    build_model("mini_xception", 64, dense_units=(16,)).save_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="its weights don't fit mini_resnet"):
        build_model("mini_resnet", 64, weights=str(path), weights_sha256=digest)


def test_xception_says_how_small_it_goes():
    with pytest.raises(InputError, match="it is 64 pixels; expected at least 71 for xception"):
        build_model("xception", 64)


def test_a_weights_file_with_another_digest_is_refused_and_left_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / XCEPTION_IMAGENET_FILE
    path.parent.mkdir()
    path.write_bytes(b"half a download")
    with pytest.raises(InputError, match="its sha256 is .*15 bytes"):
        build_model("xception", 96, weights="imagenet")
    assert path.read_bytes() == b"half a download"


def test_imagenet_weights_are_for_xception_only():
    with pytest.raises(InputError, match="no ImageNet weights for 'mini_xception'"):
        build_model("mini_xception", 64, weights="imagenet")


def test_xception_weights_are_read_from_a_file_in_the_published_format(tmp_path):
    import h5py

    source = BACKBONES["xception"](96)
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
