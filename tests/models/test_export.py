import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.models.builder import build_model
from boneage.models.export import (
    FORMATS,
    as_float16,
    check_packages,
    with_named_answers,
    with_pixels,
)

pytestmark = pytest.mark.slow

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8)
GENDER = np.array([[0], [1], [1], [0], [1]], np.float32)


@pytest.fixture(scope="module")
def network(tiny_network):
    """An untrained network whose statistics and kernels are as those of a released model."""
    keras.utils.set_random_seed(0)
    model = build_model("tiny", 32, head="distribution", gender_units=4, dense_units=(8,))
    rng = np.random.default_rng(0)
    weights = [
        each.astype(np.float16).astype(np.float32)
        if each.ndim > 1
        else rng.uniform(0.5, 2, each.shape).astype(np.float32)
        for each in model.get_weights()
    ]
    model.set_weights(weights)
    return with_named_answers(model)


def written(network, folder, name, storage=None):
    chosen = FORMATS[name]
    for package in chosen.packages:
        pytest.importorskip(package, reason='needs the extra "export"')
    path = folder / chosen.file
    chosen.write(with_pixels(network), path, storage or chosen.storages[0])
    return path


def expected(network, rows=slice(None)):
    return network.predict_on_batch([PIXELS[rows].astype(np.float32) / 255, GENDER[rows]])


@pytest.mark.parametrize("name", FORMATS)
def test_an_exported_network_answers_as_keras_again_and_again_in_any_batch(network, tmp_path, name):
    path = written(network, tmp_path, name)
    exported = FORMATS[name].load(path)
    for rows in (slice(None), slice(0, 1), slice(1, 2), slice(None), slice(2, 5)):
        found, own = exported(PIXELS[rows], GENDER[rows]), expected(network, rows)
        assert set(found) == {"age_months", "age_distribution", "pooled"}
        for answer, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, own[answer], atol=2e-4, rtol=1e-5)


def test_an_onnx_file_has_named_inputs_a_free_batch_and_half_the_weights(network, tmp_path):
    path = written(network, tmp_path, "onnx")
    import onnx

    graph = onnx.load(path).graph
    shapes = {
        value.name: [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "image": ["batch", 32, 32, 1], "gender": ["batch", 1], "age_months": ["batch", 1],
        "age_distribution": ["batch", 241], "pooled": ["batch", 16],
    }  # fmt: skip
    stored = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    assert onnx.TensorProto.FLOAT16 in stored
    text = path.read_bytes()
    assert b"Research use only" in text
    assert str(tmp_path).encode() not in text
    assert b"site-packages" not in text


def test_a_network_of_one_number_without_the_sex_keeps_both_inputs(tiny_network, tmp_path):
    model = build_model("tiny", 32, gender=False, dense_units=())
    network = with_named_answers(model)
    path = written(network, tmp_path, "onnx", "float32")
    found = FORMATS["onnx"].load(path)(PIXELS, GENDER)
    assert set(found) == {"age_months", "pooled"}
    np.testing.assert_allclose(
        found["age_months"], expected(network)["age_months"], atol=1e-3, rtol=0
    )


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnx, tf2onnx.*boneage\[export\]"):
        check_packages("onnx")


def test_another_backend_than_tensorflow_is_refused(network, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match=r"is jax, which .* Set KERAS_BACKEND to tensorflow"):
        with_pixels(network)


def test_vectors_and_values_that_float16_can_not_hold_stay_float32():
    assert as_float16(np.ones((2, 2), np.float32)).dtype == np.float16
    for values in (np.ones(4), np.full((2, 2), 1e6), np.full((2, 2), 1e-8)):
        assert as_float16(values.astype(np.float32)) is None
