"""Devices that train together: what is refused, and what a step is given of a last batch."""

import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.pipeline.generator import DataGenerator
from boneage.training.distributed.device_group import Group, _without_padding, joined
from boneage.training.distributed.hosts import Hosts

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="as it is refused on TensorFlow"
)


def generator(count, batch_size):
    pixels = np.zeros((count, 8, 8), np.uint8)
    return DataGenerator(pixels, [1] * count, [9.0] * count, batch_size)


@on_tensorflow
def test_several_hosts_on_tensorflow_are_told_what_to_type(tmp_path):
    with (
        pytest.raises(InputError, match=r"2 hosts: Keras runs on tensorflow.*KERAS_BACKEND=jax"),
        joined(Hosts("a:1", 2, 0), tmp_path / "run"),
    ):
        pass


@on_tensorflow
def test_one_process_on_tensorflow_trains_on_one_device(tmp_path):
    with joined(None, tmp_path / "run") as group:
        assert (group.devices, group.writes) == (1, True)
        whole = generator(5, 4)
        assert group.divide(keras.Model(), whole, whole) == (whole, whole)


def test_a_batch_that_can_t_be_divided_is_refused_with_sizes_that_can():
    group = Group(None, (0, 3, 3))
    whole = generator(9, 8)
    with pytest.raises(
        InputError, match=r"training.batch_size: 8 images can't be divided among 3 devices.*6 or 9"
    ):
        group.divide(keras.Model(), whole, whole)


def test_a_step_never_sees_the_rows_that_fill_up_the_last_batch():
    seen = []
    step = _without_padding(lambda state, data: seen.append(data), rows=3, padded=4)
    for rows in (8, 4):
        images, gender, ages = (np.arange(rows) for _ in range(3))
        step(None, ((images, gender), ages))
    sizes = [[len(part) for part in keras.tree.flatten(batch)] for batch in seen]
    assert sizes == [[8, 8, 8], [3, 3, 3]]


def test_only_the_first_process_writes():
    assert Group().writes
    assert Group(Hosts("a:1", 2, 0)).writes
    assert not Group(Hosts("a:1", 2, 1)).writes
