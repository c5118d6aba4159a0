from __future__ import annotations

import math
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from boneage.datasets.manifest import read_manifest, write_manifest
from boneage.errors import InputError
from boneage.pipeline.augmentation import build_augmentation
from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.keras_adapter import InOrderAdapter
from boneage.pipeline.store import prepare
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Augmentation, Framing

COUNT, SIZE = 23, 32


def make(**changes: Any) -> DataGenerator:
    given: dict[str, Any] = {
        "images": np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8),
        "gender": np.arange(COUNT) % 2,
        "age_months": np.arange(COUNT, dtype=np.float64) * 10,
        "batch_size": 4,
        "shuffle": True,
        "augmentation": Augmentation(),
        "seed": 3,
    }
    return DataGenerator(**{**given, **changes})


def as_bytes(batch: Any) -> bytes:
    (image, gender), age_months = batch
    return b"".join(array.tobytes() for array in (image, gender, age_months))


def epoch_bytes(generator: DataGenerator, epoch: int) -> list[bytes]:
    generator.epoch = epoch
    return [as_bytes(batch) for batch in generator]


# What the generator must serve, written the plain way, without a thread or a cache.
def reference_batch(
    images: npt.NDArray[np.uint8],
    gender: npt.NDArray[Any],
    age_months: npt.NDArray[Any],
    *,
    seed: int,
    epoch: int,
    index: int,
    batch_size: int,
) -> bytes:
    order = np.random.default_rng([seed, 1, epoch, 0]).permutation(len(images))
    rows = order[index * batch_size : (index + 1) * batch_size]
    pipeline = build_augmentation(Augmentation())
    generator = np.random.default_rng([seed, 2, epoch, index])
    pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
    augmented = [pipeline(image=images[row])["image"] for row in rows]
    image = np.stack(augmented)[..., None].astype(np.float32) / np.float32(255)
    gender = np.array([[float(gender[row])] for row in rows], np.float32)
    return as_bytes(((image, gender), np.array([[age_months[row]] for row in rows], np.float32)))


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_are_those_of_the_reference(workers: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8)
    gender, age_months = np.arange(COUNT) % 2, np.arange(COUNT) * 10.0
    with make(workers=workers) as generator:
        for epoch in (0, 1, 5):
            generator.epoch = epoch
            words = {"seed": 3, "epoch": epoch, "batch_size": 4}
            expected = [
                reference_batch(images, gender, age_months, index=index, **words)
                for index in range(6)
            ]
            served = list(InOrderAdapter(generator).get_numpy_iterator())
            assert [as_bytes(batch) for batch in served] == expected
            assert generator.epoch == epoch + 1
            assert epoch_bytes(generator, epoch) == expected


def test_types_shapes_and_ranges() -> None:
    generator = make()
    assert len(generator) == math.ceil(COUNT / 4) == 6
    (image, gender), age_months = generator[0]
    assert isinstance(generator[0], tuple)
    assert isinstance(generator[0][0], tuple)
    assert (image.dtype, image.shape) == (np.float32, (4, SIZE, SIZE, 1))
    assert (gender.dtype, gender.shape) == (np.float32, (4, 1))
    assert (age_months.dtype, age_months.shape) == (np.float32, (4, 1))
    assert 0 <= image.min() < image.max() <= 1
    assert generator.image_shape == (SIZE, SIZE, 1)
    (image, gender), age_months = generator[5]
    assert {len(image), len(gender), len(age_months)} == {3}, "the short last batch is kept"


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_image_is_served_once_an_epoch_with_its_own_labels(shuffle: bool) -> None:
    images = np.repeat(np.arange(COUNT, dtype=np.uint8), SIZE * SIZE).reshape(-1, SIZE, SIZE)
    generator = make(images=images, shuffle=shuffle, augmentation=None)
    orders = []
    for epoch in range(3):
        generator.epoch = epoch
        served = []
        for (image, gender), age_months in generator:
            rows = np.rint(image[:, 0, 0, 0] * 255).astype(int)
            assert np.array_equal(gender[:, 0], rows % 2)
            assert np.array_equal(age_months[:, 0], rows * 10)
            served += rows.tolist()
        assert sorted(served) == list(range(COUNT))
        orders.append(tuple(served))
    assert len(set(orders)) == (3 if shuffle else 1)
    assert (orders[0] == tuple(range(COUNT))) is not shuffle


def test_global_random_state_is_neither_read_nor_changed() -> None:
    def states() -> tuple[str, object]:
        return repr(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = states()
    list(make())
    assert states() == before


def test_a_function_sees_uint8_before_it_is_divided() -> None:
    (image, _), _ = make(augmentation=lambda pixels: pixels // 2 + 1, shuffle=False)[0]
    (plain, _), _ = make(augmentation=None, shuffle=False)[0]
    assert np.array_equal(np.rint(image * 255), np.rint(plain * 255) // 2 + 1)


def test_as_a_sequence() -> None:
    generator = make()
    assert len(list(generator)) == 6
    assert as_bytes(generator[-1]) == as_bytes(generator[5])
    assert as_bytes(generator[np.int64(2)]) == as_bytes(generator[2])
    for index in (6, -7):
        with pytest.raises(IndexError, match="of 6"):
            generator[index]
    assert len(list(generator)) == 6, "a second pass serves the same epoch"
    assert generator.epoch == 0


def test_next_wraps_around_into_the_next_epoch() -> None:
    generator, expected = make(), make()
    served = [as_bytes(next(generator)) for _ in range(13)]
    two_epochs = [*epoch_bytes(expected, 0), *epoch_bytes(expected, 1)]
    assert served == [*two_epochs, epoch_bytes(expected, 2)[0]]
    assert generator.epoch == 2


def test_named_inputs() -> None:
    inputs, age_months = make(named=True)[0]
    assert isinstance(inputs, dict)
    assert list(inputs) == ["image", "gender"]
    (image, gender), plain_age_months = make()[0]
    assert np.array_equal(inputs["image"], image)
    assert np.array_equal(inputs["gender"], gender)
    assert np.array_equal(age_months, plain_age_months)


def test_without_ages_for_predict() -> None:
    (inputs,) = make(age_months=None)[0]
    assert np.array_equal(inputs[0], make()[0][0][0])


@pytest.mark.parametrize(
    "gender",
    [
        [0, 1, 1],
        [False, True, True],
        np.array([[0], [1], [1]]),
        pd.Series(["F", "M", "M"], index=[7, 8, 9]),
        ["female", "m", "Boy"],
        [0, True, "M"],
    ],
)
def test_gender_in_every_form(gender: Any) -> None:
    images = np.zeros((3, SIZE, SIZE), np.uint8)
    (_, served), _ = make(
        images=images, gender=gender, age_months=pd.Series([10, 20, 30]), shuffle=False
    )[0]
    assert served.tolist() == [[0.0], [1.0], [1.0]]


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"gender": ["M"] * 22}, ["gender: it has 22 values for 23 images"]),
        (
            {"gender": ["M"] * 22 + ["1"]},
            ["gender: 1 of 23 values are invalid, the first '1' at 22"],
        ),
        ({"gender": [np.nan] * COUNT}, ["gender: 23 of 23"]),
        ({"gender": np.zeros((COUNT, 2))}, ["gender: its shape is (23, 2)"]),
        ({"age_months": [241.0] * COUNT}, ["age_months: 23 of 23"]),
        ({"age_months": [100.0] * 22 + ["old"]}, ["age_months: 1 of 23 values are invalid, the "]),
        (
            {"age_months": [100.0] * 22 + [-1]},
            ["age_months: 1 of 23 values are invalid, the first -1"],
        ),
        (
            {"age_months": np.full(COUNT, 120 + 5j)},
            ["age_months: 23 of 23 values are invalid, the"],
        ),
        ({"age_months": np.ma.masked_equal([90] + [100] * 22, 90)}, ["age_months: 1 of 23"]),
        ({"age_months": [[1, 2]] + [[3]] * 22}, ["age_months: 23 of 23 values are invalid, the"]),
        ({"gender": pd.array([True] * 22 + [None], "boolean")}, ["gender: 1 of 23 values are"]),
        (
            {"gender": ["x" * 10**6] * COUNT},
            ["gender: 23 of 23 values are invalid, the first 'xxx"],
        ),
        ({"image_ids": 3}, ["image_ids: its shape is ()"]),
        ({"image_ids": "a" * COUNT}, ["image_ids: its shape is ()"]),
        (
            {"shuffle": "no", "named": 1, "infants": None, "use_multiprocessing": "yes"},
            [
                "shuffle: it is 'no'. Pass True or False",
                "infants: it is None",
                "named: it is 1",
                "use_multiprocessing: it is 'yes'",
            ],
        ),
        ({"framing": {"size": 64}}, ["framing: it is {'size': 64}. Pass Framing(size=...)"]),
        ({"image_size": "32"}, ["image_size: it is '32', but the images are 32 x 32"]),
        ({"batch_size": 2.5}, ["batch_size: it is 2.5"]),
        ({"seed": -1}, ["seed: it is -1"]),
        ({"augmentation": 3}, ["augmentation: it is a int"]),
        ({"image_ids": ["a"]}, ["image_ids: it has 1 values"]),
        ({"image_size": 64}, ["image_size: it is 64, but the images are 32 x 32"]),
        ({"workers": 0}, ["workers: it is 0"]),
        ({"workers": 100_000}, ["workers: it is 100000. Pass a whole number, 1 to 256"]),
        ({"age_months": np.linspace(1, 18, COUNT)}, ["age_months: they run from 1 to 18, so"]),
        ({"age_months": np.linspace(0, 1, COUNT)}, ["age_months: they run from 0 to 1, so they"]),
        ({"age_months": np.linspace(-2, 2, COUNT)}, ["age_months: they run from -2 to 2, so"]),
        ({"age_months": [240.5] + [9.0] * 22}, ["age_months: 1 of 23"]),
        ({"sample_weight": [1.0] * 22}, ["sample_weight: it has 22 values for 23 images"]),
        ({"sample_weight": [1.0] * 22 + [-1.0]}, ["sample_weight: 1 of 23 values are invalid"]),
        ({"sample_weight": [np.nan, np.inf] + ["a"] * 21}, ["sample_weight: 23 of 23"]),
        ({"sample_weight": [0] * COUNT}, ["sample_weight: all weights are 0"]),
        ({"sample_weight": 1.0}, ["sample_weight: its shape is ()"]),
        ({"sample_weight": [1] * COUNT, "age_months": None}, ["sample_weight: it weights the"]),
        (
            {"images": np.zeros((0, 8, 8)), "gender": ["x"], "batch_size": -1},
            ["images: there are no images", "gender: 1 of 1", "batch_size: it is -1"],
        ),
    ],
)
def test_all_invalid_arguments_are_named_at_once(
    changes: dict[str, Any], faults: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        make(**changes)
    found = [str(fault) for fault in caught.value.faults]
    assert len(found) == len(faults)
    assert all(line.startswith(fault) for line, fault in zip(found, faults, strict=True)), found


def test_a_queue_that_does_not_fit_into_memory_is_refused_before_anything_starts() -> None:
    images = np.broadcast_to(np.uint8(9), (4096, 1024, 1024))
    rows = np.arange(4096) % 2
    with pytest.raises(InputError, match=r"batch_size: a queue .* GB of memory") as caught:
        DataGenerator(images, rows, batch_size=4096, workers=2, max_queue_size=1000)
    assert "shorter max_queue_size" in str(caught.value)
    DataGenerator(images, rows, batch_size=8, workers=2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((8, 8)), None, np.zeros((8, 8))], "image 1 is None"),
        ([np.zeros((8, 8)), "a.png", np.zeros((8, 8))], "image 1 is 'a.png'"),
        (pd.Series(["a.png", "b.png", np.nan]), "image 2 is nan"),
        ([np.zeros((8, 8)), np.zeros((8, 8)), np.zeros((9, 8))], "have different sizes"),
        ({"a.png": 1}, "it is a dict"),
        (pd.DataFrame({"path": ["a.png"] * 3}), "it is a DataFrame"),
        ((path for path in ["a.png"]), "it is a generator"),
        ([Path(__file__).parent], "this is not a file"),
    ],
)
def test_images_of_no_kind_are_described(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(images=images, gender=[1] * 3, age_months=[100] * 3)


def test_a_column_of_arrays_is_stacked() -> None:
    column = pd.Series(list(np.full((3, 8, 8), 51, np.uint8)))
    (image, _), _ = make(images=column, gender=[1] * 3, age_months=[100] * 3, augmentation=None)[0]
    assert image.shape == (3, 8, 8, 1)
    assert np.all(image == np.float32(0.2))


def test_a_subclass_sets_the_batch_size_that_it_passed() -> None:
    class Tutorial(DataGenerator):
        def __init__(self, size: int) -> None:
            super().__init__(np.zeros((9, 8, 8), np.uint8), [1] * 9, batch_size=2)
            self.batch_size = size

    assert Tutorial(2).batch_size == 2
    with pytest.raises(InputError, match="it is 2, and can't be changed to 3"):
        Tutorial(3)


def test_a_subclass_that_does_not_initialise_its_base() -> None:
    class Forgets(DataGenerator):
        def __init__(self) -> None:
            pass

    for use in (len, lambda generator: generator[0], InOrderAdapter):
        with pytest.raises(InputError, match=r"Forgets: .* Call super\(\).__init__"):
            use(Forgets())
    assert not hasattr(make(), "missing")


@pytest.fixture
def radiographs(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(5)
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for path in paths:
        assert cv2.imwrite(str(path), rng.integers(0, 256, (50, 40), dtype=np.uint8))
    return paths


def test_array_paths_and_store_serve_the_same(radiographs: list[Path], tmp_path: Path) -> None:
    ages = np.linspace(20, 200, len(radiographs))
    table = pd.DataFrame(
        {
            "image_id": [path.stem for path in radiographs],
            "image": [path.name for path in radiographs],
            "age_months": ages,
            "sex": ["F", "M"] * 5,
            "split": ["train"] * 8 + ["val", "test"],
        }
    )
    manifest = read_manifest(write_manifest(table, tmp_path / "manifest.csv").path)
    framing = Framing(size=40)
    store = prepare(manifest, framing, progress=False)
    labels = {"gender": manifest.gender(), "age_months": manifest.age_months()}
    in_memory = np.stack([frame(read_radiograph(path), framing).pixels for path in radiographs])
    expected = epoch_bytes(make(images=in_memory, **labels), 1)
    for images in (radiographs, store, store.select(store.image_ids)):
        generator = make(images=images, **labels, image_size=40)
        assert epoch_bytes(generator, 1) == expected
        with ThreadPoolExecutor(4) as threads:
            served = list(threads.map(lambda index: as_bytes(generator[index]), range(3)))  # noqa: B023
        assert served == expected
        assert epoch_bytes(pickle.loads(pickle.dumps(generator)), 1) == expected
    assert make(images=store, **labels).image_ids == list(table["image_id"])
    # Noise depends on the radiograph's contrast, which an array does not have.
    labels["augmentation"] = Augmentation(noise=1.0, jpeg=0.5)
    noisy = epoch_bytes(make(images=store, **labels), 1)
    for images in (radiographs, store.select(store.image_ids)):
        generator = make(images=images, **labels, image_size=40)
        for served in (generator, pickle.loads(pickle.dumps(generator))):
            assert epoch_bytes(served, 1) == noisy
    assert epoch_bytes(make(images=in_memory, **labels), 1) != noisy


def test_a_broken_file_is_named_when_it_is_reached(radiographs: list[Path]) -> None:
    radiographs[9].write_bytes(radiographs[9].read_bytes()[:300])
    generator = make(
        images=radiographs, gender=[1] * 10, age_months=[90] * 10, image_size=32, shuffle=False
    )
    generator[0]
    with pytest.raises(InputError, match=r"9\.png: the file is truncated"):
        generator[2]


def test_young_children_are_taken_when_it_is_said() -> None:
    ages = np.linspace(0.5, 20, COUNT)
    with pytest.raises(InputError, match="pass infants=True"):
        make(age_months=ages)
    served = np.concatenate([months for _, months in make(age_months=ages, infants=True)])
    assert sorted(served[:, 0]) == pytest.approx(ages)


@pytest.mark.parametrize("named", [False, True])
def test_sample_weights_stay_with_their_images(named: bool) -> None:
    ages = np.arange(COUNT) * 10.0
    generator = make(sample_weight=pd.Series(ages / 100), named=named)
    for _, months, weights in generator:
        assert weights.dtype == np.float32
        assert np.allclose(weights, months[:, 0] / 100)
    assert sum(len(weights) for *_, weights in generator) == COUNT
