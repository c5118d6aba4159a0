import io
import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.models.builder import build_model
from boneage.models.saved import load_model
from boneage.recipe import Framing, Model, Recipe
from boneage.run import Run
from boneage.runtime.files import write_json

pytestmark = pytest.mark.slow


class Halved(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2


SMALL = {"backbone": "mini_xception", "gender_units": 4, "dense_units": (8,)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a recipe, an untrained model and nothing else."""
    run = Run(tmp_path_factory.mktemp("run"))
    recipe = Recipe(name="small", framing=Framing(size=32), model=Model(**SMALL))
    write_json(run.recipe_path, recipe.model_dump(mode="json"))
    model = build_model(image_size=32, **SMALL)
    write_json(run.info_path, {"model": {"parameters": model.count_params()}})
    model.save(run.best_path)
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def replace_member(run, name, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(run.best_path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    members[name] = content
    with zipfile.ZipFile(run.best_path, "w", compression) as archive:
        for each, text in members.items():
            archive.writestr(each, text)


def config_of(run):
    with zipfile.ZipFile(run.best_path) as archive:
        return archive.read("config.json")


def widened(config, units):
    """The network with another number of units in its last hidden layer."""
    config = config.replace(b'"units": 8', b'"units": ' + units)
    return config.replace(b"[null, 8]", b"[null, " + units + b"]")


def test_a_model_is_loaded_with_its_weights(run):
    model = load_model(run)
    images, gender = np.zeros((1, 32, 32, 1), np.float32), np.ones((1, 1), np.float32)
    assert model.predict_on_batch((images, gender)).shape == (1, 1)


@pytest.mark.parametrize("content", [b"", b"not a model", b"{}", b"PK\3\4" + bytes(100)])
def test_a_file_that_is_not_a_model_is_refused_by_its_name(run, content):
    run.best_path.write_bytes(content)
    with pytest.raises(InputError, match=r"best\.keras: the model can't be read"):
        load_model(run)


def test_a_flipped_bit_anywhere_is_a_fault_or_changes_nothing(run):
    content = run.best_path.read_bytes()
    weights = load_model(run).get_weights()
    for position in np.random.default_rng(0).integers(0, len(content), 20):
        changed = bytearray(content)
        changed[position] ^= 1
        run.best_path.write_bytes(changed)
        try:
            found = load_model(run).get_weights()
        except InputError:
            continue
        for old, new in zip(weights, found, strict=True):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: b"[" * 5000 + b"]" * 5000, "RecursionError"),
        (lambda config: config + b" " * 20_000_000, "it has 3 parts, of .* bytes"),
        (lambda config: widened(config, b"100000000"), "needs .* values"),
        (lambda config: widened(config, b"9"), "its network has .* parameters; expected"),
        (lambda config: config.replace(b'"units": 8', b'"units": 9'), "the model can't be read"),
        (lambda config: config.replace(b"[null, 32, 32, 1]", b"[null, 64, 64, 1]"), "inputs of"),
        (lambda config: config.replace(b'"Dense"', b'"Lambda"'), "the model can't be read"),
        (lambda config: b'{"class_name": "int", "config": 3}', "the model can't be read"),
    ],
)
def test_another_network_is_refused_before_it_takes_memory(run, change, message):
    replace_member(run, "config.json", change(config_of(run)), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=message):
        load_model(run)
    # Keras makes the values of what it has put off when it meets a layer without a known output.
    assert Halved()(keras.Input((4,))).shape == (None, 4)


def test_code_in_a_model_is_never_run_and_nobody_is_advised_to_allow_it(run):
    config = json.loads(config_of(run))
    code = {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None,
                                                   "closure": None}}  # fmt: skip
    layer = config["config"]["layers"][-1]
    layer |= {"module": "keras.layers", "class_name": "Lambda"}
    layer["config"] = {"name": "age_months", "function": code}
    replace_member(run, "config.json", json.dumps(config).encode())
    with pytest.raises(InputError, match="it holds code, which is never run") as refused:
        load_model(run)
    assert "safe_mode" not in str(refused.value)


def test_weights_that_are_not_finite_are_refused(run):
    with zipfile.ZipFile(run.best_path) as archive:
        stored = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(stored, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        file[names[0]][...] = np.nan
    replace_member(run, "model.weights.h5", stored.getvalue())
    with pytest.raises(InputError, match="some of its weights are not finite numbers"):
        load_model(run)


def test_a_changed_weight_with_a_right_checksum_is_refused_if_the_run_recorded_its_model(run):
    info = {**run.read_info(), "digests": run.digests()}
    write_json(run.info_path, info)
    load_model(run)
    with zipfile.ZipFile(run.best_path) as archive:
        weights = bytearray(archive.read("model.weights.h5"))
    weights[len(weights) // 2] ^= 1
    replace_member(run, "model.weights.h5", bytes(weights))
    with pytest.raises(InputError, match="best.keras: the file is missing or is not"):
        load_model(run)


@pytest.mark.parametrize(("count", "size"), [(2, 3 * 2**20), (2000, 0)], ids=["large", "many"])
def test_a_file_with_much_besides_its_weights_is_refused(run, count, size):
    with zipfile.ZipFile(run.best_path, "a", zipfile.ZIP_DEFLATED) as archive:
        for number in range(count):
            archive.writestr(f"assets/{number}", bytes(size))
    with pytest.raises(InputError, match=r"it has [\d,]+ parts, of [\d,]+ bytes"):
        load_model(run)


def test_weights_that_unpack_to_a_hundred_times_their_size_are_refused(run):
    replace_member(run, "model.weights.h5", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"model\.weights\.h5 has 50,000,000 bytes"):
        load_model(run)
