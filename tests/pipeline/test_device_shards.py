"""The shares of several processes, put together, are the batches that one process makes."""

import numpy as np
import pytest

from boneage.pipeline.augmentation import build_augmentation
from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.sources import image_source
from boneage.recipe import Augmentation


def images(count):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 24, 24), dtype=np.uint8)


def generator(count, augmentation, source=None, **arguments):
    pixels = images(count) if source is None else source
    ages = np.arange(float(count))
    sexes = np.arange(count) % 2
    return DataGenerator(pixels, sexes, ages, 8, True, augmentation, 5, **arguments)


def together(shares, index):
    """What all of the devices are given, in their order."""
    batches = [share[index] for share in shares]
    parts = [[inputs[0] for inputs, _ in batches], [inputs[1] for inputs, _ in batches]]
    return [np.concatenate(part) for part in (*parts, [ages for _, ages in batches])]


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        Augmentation(),
        build_augmentation(Augmentation(affine=0.5)),  # could draw by the image, as far as we know
        lambda image: image[::-1],
    ],
    ids=["none", "settings", "albumentations", "function"],
)
@pytest.mark.parametrize("count", [24, 21, 17])
def test_shares_are_the_batch_of_one_process(augmentation, count):
    whole = generator(count, augmentation)
    shares = [whole.share(first, own, 4) for first, own in ((0, 1), (1, 2), (3, 1))]
    for epoch in (0, 1):
        for one in (whole, *shares):
            one.epoch = epoch
        for index in range(len(whole)):
            (pixels, sexes), ages = whole[index]
            rows = len(ages)
            for expected, found in zip((pixels, sexes, ages), together(shares, index), strict=True):
                np.testing.assert_array_equal(found[:rows], expected)


def test_no_image_is_in_two_shares_and_only_the_last_batch_is_filled_up():
    whole = generator(21, None)
    first, second = whole.share(0, 1, 2), whole.share(1, 1, 2)
    assert second.whole is whole.whole is whole
    seen = [[*first.rows(index, 0), *second.rows(index, 0)] for index in range(3)]
    assert sorted([*seen[0], *seen[1], *seen[2][:5]]) == list(range(21))
    assert seen[2][5:] == [seen[2][4]]
    assert first.last_batch == (5, 1)
    assert whole.last_batch == (5, 0)


def test_a_filled_up_batch_never_has_the_size_of_a_full_one():
    whole = generator(15, Augmentation())  # 8, then 7: one more would make it 8
    assert whole.share(0, 1, 2).last_batch == (7, 3)
    shares = [whole.share(rank, 1, 2) for rank in (0, 1)]
    (pixels, _), _ = whole[1]
    np.testing.assert_array_equal(together(shares, 1)[0][:7], pixels)


def test_processes_make_a_share_as_threads_do():
    alone = generator(15, Augmentation()).share(1, 1, 2)
    whole = generator(15, Augmentation(), workers=2, use_multiprocessing=True)
    with whole.share(1, 1, 2) as share:
        for _ in range(6):  # some before the processes have started, some after
            for index in range(len(share)):
                np.testing.assert_array_equal(share[index][0][0], alone[index][0][0])
            share.epoch = alone.epoch = share.epoch + 1


def test_only_a_process_own_images_are_decoded():
    source = image_source(images(16), None, None)
    read = []

    class Counting:
        shape = source.shape

        def __len__(self):
            return len(source)

        def __getitem__(self, row):
            read.append(int(row))
            return source[row]

    share = generator(16, Augmentation()).share(1, 1, 2)
    share._batches.source = Counting()
    share[0]
    assert read == list(share.rows(0, 0))
    assert len(read) == 4
