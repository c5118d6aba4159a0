"""The shards of several processes, put together, are the batches that one process makes."""

import numpy as np
import pytest

from boneage.pipeline.augmentation import Augment, build_augmentation
from boneage.pipeline.batches import Batches, DeviceShard
from boneage.pipeline.generator import (
    DataGenerator,
    last_batch_counts,
    shard_for_devices,
    whole_batch_rows,
)
from boneage.recipe import Augmentation


def images(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 24, 24), dtype=np.uint8)


def generator(count, augmentation, **arguments):
    ages = np.arange(float(count)) * 9
    sexes = np.arange(count) % 2
    return DataGenerator(images(count), sexes, ages, 8, True, augmentation, 5, **arguments)


def together(shards, index):
    """What all devices get, in their order."""
    batches = [shard[index] for shard in shards]
    parts = [[inputs[0] for inputs, _ in batches], [inputs[1] for inputs, _ in batches]]
    return [np.concatenate(part) for part in (*parts, [ages for _, ages in batches])]


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        Augmentation(),
        Augmentation(resample=0.5, blur=0.5, noise=0.5, jpeg=0.5, erase=0.5),
        build_augmentation(Augmentation(affine=0.5)),  # may draw by the image, for all we know
        lambda image: image[::-1],
    ],
    ids=["none", "settings", "lower quality", "albumentations", "function"],
)
@pytest.mark.parametrize("count", [24, 21, 17])
def test_shards_are_the_batch_of_one_process(augmentation, count):
    whole = generator(count, augmentation)
    shards = [shard_for_devices(whole, first, own, 4) for first, own in ((0, 1), (1, 2), (3, 1))]
    for epoch in (0, 1):
        for served in (whole, *shards):
            served.epoch = epoch
        for index in range(len(whole)):
            (pixels, sexes), ages = whole[index]
            rows = len(ages)
            for expected, found in zip((pixels, sexes, ages), together(shards, index), strict=True):
                np.testing.assert_array_equal(found[:rows], expected)


def test_no_image_is_in_two_shards_and_only_the_last_batch_is_padded():
    whole = Batches(images(21), None, 8, True, 5)
    first, second = DeviceShard(whole, 0, 1, 2), DeviceShard(whole, 1, 1, 2)
    seen = [[*first.rows(index, 0), *second.rows(index, 0)] for index in range(3)]
    assert sorted([*seen[0], *seen[1], *seen[2][:5]]) == list(range(21))
    assert seen[2][5:] == [seen[2][4]]


def test_training_can_ask_a_shard_about_the_whole_batch():
    whole = generator(21, None)
    shard = shard_for_devices(whole, 1, 1, 2)
    assert last_batch_counts(whole) == (5, 0)
    assert last_batch_counts(shard) == (5, 1)
    assert np.array_equal(whole_batch_rows(shard, 1, 3), whole_batch_rows(whole, 1, 3))
    assert len(whole_batch_rows(shard, 1, 3)) == 8


def test_a_padded_batch_never_has_the_size_of_a_full_one():
    whole = generator(15, Augmentation())  # 8, then 7: one more would make it 8
    shards = [shard_for_devices(whole, rank, 1, 2) for rank in (0, 1)]
    assert last_batch_counts(shards[0]) == (7, 3)
    (pixels, _), _ = whole[1]
    np.testing.assert_array_equal(together(shards, 1)[0][:7], pixels)


def test_only_a_process_own_images_are_decoded():
    source = images(16)
    read = []

    class Counting:
        shape = source.shape

        def __len__(self):
            return len(source)

        def __getitem__(self, row):
            read.append(int(row))
            return source[row]

    shard = DeviceShard(Batches(Counting(), Augment(Augmentation()), 8, True, 5), 1, 1, 2)
    shard.fill(np.empty(shard.shape(0), np.float32), 0, 0)
    assert read == list(shard.rows(0, 0))
    assert len(read) == 4
