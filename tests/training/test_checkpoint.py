import io
import json
import zipfile

import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint

ROW = {"epoch": 1, "loss": 3.0, "mae": 3.0, "val_loss": float("nan"), "val_mae": 4.0,
       "learning_rate": 1e-3, "seconds": 2.5}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """A checkpoint of a model with two arrays, after one epoch and two batches."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer="sgd", loss="mae")
    state = TrainingState(rows=[ROW], best_epoch=1, batch=2, callbacks={"EarlyStopping": {}})
    write_checkpoint(tmp_path / "checkpoint.npz", model, state, {"name": "x"})
    return tmp_path / "checkpoint.npz"


def arrays_of(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_a_checkpoint_is_read_as_it_was_written(path):
    checkpoint = read_checkpoint(path)
    assert str(checkpoint.state) == "epoch 1 and 2 batches"
    assert np.isnan(checkpoint.state.rows[0]["val_loss"])
    assert isinstance(checkpoint.state.rows[0]["epoch"], int)
    assert checkpoint.variables[0].shape == (3, 2)
    checkpoint.check_position(epochs=2, batches=3)


def change_state(**values):
    def change(record):
        record["place"] |= values

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("recipe"),
        lambda record: record.update(recipe=[]),
        lambda record: record.update(place=3),
        *(lambda record, key=key: record["place"].pop(key) for key in vars(TrainingState())),
        change_state(rows="abc"),
        change_state(rows=[{}]),
        change_state(rows=[{**ROW, "epoch": 7}]),
        change_state(rows=[{**ROW, "mae": "3"}]),
        change_state(best_epoch=2),
        change_state(best_epoch=-1),
        change_state(batch=-5),
        change_state(batch=2.0),
        change_state(batch=10**30),
        change_state(train_logs={"loss": 1.0}),
        change_state(ended="no"),
        change_state(seconds=-1),
        change_state(callbacks={"EarlyStopping": {"patience": 3}}),
        change_state(callbacks={"EarlyStopping": {"wait": None}}),
        change_state(callbacks={"EarlyStopping": {"best": 1e308}}),
        change_state(callbacks={"EarlyStopping": {"best": 10**30}}),
        change_state(callbacks=[]),
    ],
)
def test_a_changed_state_is_refused_before_anything_is_computed(path, change):
    arrays = arrays_of(path)
    record = json.loads(arrays["place"].tobytes())
    change(record)
    arrays["place"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"checkpoint\.npz: "):
        read_checkpoint(path)


@pytest.mark.parametrize("text", ["", "3", "{}", "[" * 9000, '{"place": ' + "9" * 5000 + "}"])
def test_a_state_that_is_no_record_is_refused(path, text):
    arrays = arrays_of(path) | {"place": np.frombuffer(text.encode(), np.uint8)}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"checkpoint\.npz: "):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("variable-00000"),
        lambda arrays: arrays.pop("place"),
        lambda arrays: arrays.update(other=np.zeros(1)),
        lambda arrays: arrays.update({"variable-00000": np.array(["x"])}),
        lambda arrays: arrays.update({"variable-00000": np.zeros(2, complex)}),
    ],
)
def test_other_arrays_are_refused(path, change):
    arrays = arrays_of(path)
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="the checkpoint can't be read"):
        read_checkpoint(path)


def replace_member(path, name, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for each, text in (members | {name: content}).items():
            archive.writestr(each, text)


def test_an_array_larger_than_the_file_takes_no_memory(path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 2), np.float32))
    claimed = buffer.getvalue().replace(b"(3, 2), }      ", b"(30000000,20000)", 1)
    replace_member(path, "variable-00000.npy", claimed)
    with pytest.raises(InputError, match="the checkpoint can't be read"):
        read_checkpoint(path)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(30_000_000, np.uint8))
    replace_member(path, "variable-00000.npy", buffer.getvalue(), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="its arrays are larger than the file"):
        read_checkpoint(path)


def test_every_cut_and_every_flipped_bit_is_a_fault_or_changes_nothing(path):
    content, before = path.read_bytes(), read_checkpoint(path)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content), 60):
        for damaged in (content[:position], flipped(content, position)):
            path.write_bytes(damaged)
            try:
                found = read_checkpoint(path)
            except InputError:
                continue
            assert str(found.state.rows) == str(before.state.rows)
            np.testing.assert_array_equal(found.variables[0], before.variables[0])


def flipped(content, position):
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(("epochs", "batches"), [(0, 9), (1, 9), (2, 1), (2, 2)])
def test_a_position_that_the_training_can_not_have_is_refused(path, epochs, batches):
    with pytest.raises(InputError, match="written at epoch 1 and 2 batches, of"):
        read_checkpoint(path).check_position(epochs, batches)
