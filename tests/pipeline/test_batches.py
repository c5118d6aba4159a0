"""The shards of several processes, put together, are the batches that one process makes."""

import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.pipeline.augmentation import Augment, build_augmentation
from boneage.pipeline.batches import Batches, DeviceShard, Mixture
from boneage.pipeline.generator import (
    DataGenerator,
    last_batch_counts,
    shard_for_devices,
    whole_batch_rows,
)
from boneage.pipeline.sources import TwoFramings
from boneage.pipeline.store import prepare
from boneage.recipe import Augmentation, Framing


def images(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 24, 24), dtype=np.uint8)


def generator(count, augmentation, **arguments):
    ages = np.arange(float(count)) * 9 % 240
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


@pytest.fixture(scope="module")
def two_framings(cohort):
    manifest = read_manifest(cohort)
    ids = manifest.table["image_id"].tolist()
    hand, whole = (
        prepare(manifest, Framing(size=64, crop=crop), progress=False).select(ids)
        for crop in ("hand", "none")
    )
    return TwoFramings(hand, whole, 0.4)


def mixed(framings, augmentation=None, **arguments):
    ages, sexes = np.arange(60.0) * 3, np.arange(60) % 2
    return DataGenerator(framings, sexes, ages, 8, True, augmentation, 5, **arguments)


def passes(generator, epochs):
    """The images of some epochs, in the order of the dataset: (epochs, n, size, size)."""
    found = np.empty((epochs, 60, 64, 64), np.float32)
    for epoch in range(epochs):
        generator.epoch = epoch
        for index in range(len(generator)):
            found[epoch, generator.batch_rows(index)] = generator[index][0][0][..., 0]
    return found


def test_each_epoch_draws_hand_or_whole_radiograph_for_every_image(two_framings):
    hand, whole = (
        np.stack([view[row] for row in range(60)]) / np.float32(255)
        for view in (two_framings.usual, two_framings.other)
    )
    assert (hand != whole).any(axis=(1, 2)).all()
    served = passes(mixed(two_framings), 10)
    is_hand, is_whole = ((served == each).all(axis=(2, 3)) for each in (hand, whole))
    assert (is_hand != is_whole).all()
    assert 0.35 < is_whole.mean() < 0.45  # 600 draws
    assert len({tuple(epoch) for epoch in is_whole}) == 10  # not always the same images
    np.testing.assert_array_equal(passes(mixed(two_framings), 10), served)


@pytest.mark.parametrize("augmentation", [None, Augmentation(noise=0.5, whole_image=0.4)])
def test_hand_or_whole_radiograph_is_the_same_in_workers_and_shards(two_framings, augmentation):
    alone = passes(mixed(two_framings, augmentation), 2)
    with mixed(two_framings, augmentation, workers=2, use_multiprocessing=True) as generator:
        np.testing.assert_array_equal(passes(generator, 2), alone)
    generator = mixed(two_framings, augmentation)
    shards = [shard_for_devices(generator, rank, 1, 2) for rank in (0, 1)]
    for served in (generator, *shards):
        served.epoch = 1
    for index in range(len(generator)):
        rows = generator.batch_rows(index)
        pixels = together(shards, index)[0][: len(rows), ..., 0]
        np.testing.assert_array_equal(pixels, alone[1][rows])


def test_whole_images_that_nobody_has_are_refused():
    with pytest.raises(InputError, match=r"augmentation\.whole_image: the whole radiographs"):
        generator(16, Augmentation(whole_image=0.4))


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


SOURCES = ["large"] * 60 + ["small"] * 7 + ["middle"] * 33


def counted(mixture, epochs):
    """How often each image is served, by source."""
    counts = np.zeros(len(SOURCES), int)
    for epoch in epochs:
        np.add.at(counts, mixture.rows(epoch), 1)
    return {name: counts[np.array(SOURCES) == name] for name in ("large", "small", "middle")}


def test_an_epoch_has_as_many_images_of_each_source_as_the_balance_says():
    shares = {balance: Mixture(SOURCES, balance, 0).counts for balance in (0.0, 0.5, 1.0)}
    assert shares[0.0] == {"large": 60, "middle": 33, "small": 7}
    assert shares[1.0] in [
        {"large": a, "middle": b, "small": 100 - a - b} for a, b in ((33, 34), (34, 33), (33, 33))
    ]
    roots = np.sqrt([60, 33, 7])
    expected = 100 * roots / roots.sum()
    assert np.abs(np.array([*shares[0.5].values()]) - expected).max() < 1
    assert all(sum(counts.values()) == 100 for counts in shares.values())


@pytest.mark.parametrize("balance", [0.3, 1.0])
def test_large_sources_rotate_and_small_ones_are_repeated_evenly(balance):
    mixture = Mixture(SOURCES, balance, 5)
    for epoch in (0, 1, 7):
        counts = counted(mixture, [epoch])
        assert counts["large"].max() == 1
        assert np.ptp(counts["small"]) <= 1
        assert {name: sum(each) for name, each in counts.items()} == mixture.counts
    for counts in counted(mixture, range(9)).values():
        assert counts.min() > 0
        assert np.ptp(counts) <= 1


def test_balanced_batches_are_the_same_in_any_order_and_in_shards_and_differ_by_epoch_and_seed():
    pictures = images(100)

    def served(seed, *keys):
        batches = Batches(pictures, None, 8, True, seed, Mixture(SOURCES, 1.0, seed))
        return [batches.rows(index, epoch).tolist() for index, epoch in keys]

    keys = [(index, epoch) for epoch in (0, 1, 2) for index in range(13)]
    assert served(5, *keys) == served(5, *keys[::-1])[::-1]
    assert served(5, (0, 0)) != served(5, (0, 1))
    assert served(5, (0, 0)) != served(6, (0, 0))
    whole = generator(100, Augmentation(), sources=SOURCES, balance_sources=1.0)
    shards = [shard_for_devices(whole, rank, 1, 2) for rank in (0, 1)]
    for index in (0, 12):
        (pixels, _), ages = whole[index]
        np.testing.assert_array_equal(together(shards, index)[0][: len(ages)], pixels)


def test_one_source_or_no_balance_is_served_as_without():
    plain = generator(24, None)
    for arguments in (
        {"sources": ["a"] * 24, "balance_sources": 0.7},
        {"sources": ["a", "b"] * 12, "balance_sources": 0},
    ):
        assert np.array_equal(generator(24, None, **arguments)[1][1], plain[1][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"balance_sources": 1.5, "sources": ["a"] * 24}, "balance_sources: it is 1.5"),
        ({"balance_sources": True, "sources": ["a"] * 24}, "balance_sources: it is True"),
        ({"balance_sources": 0.5}, "balance_sources: sources are missing"),
        ({"balance_sources": 0.5, "sources": ["a"] * 23}, "sources: it has 23 values for 24"),
        ({"balance_sources": 0.5, "sources": ["a"] * 23 + [None]}, "1 of 24 values are invalid"),
        ({"balance_sources": 0.5, "sources": ["a"] * 24, "shuffle": False}, "it needs shuffle"),
    ],
)
def test_wrong_sources_are_refused(arguments, message):
    arguments = {"shuffle": True, **arguments}
    with pytest.raises(InputError, match=message):
        DataGenerator(images(24), [1] * 24, np.arange(24.0) * 9, **arguments)
