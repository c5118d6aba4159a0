from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np

from boneage.pipeline.store import open_store
from experiments.throughput.benchmark.radiographs import FULL_SIZE, frame_radiographs, write_store


def test_radiographs_are_noisy_grey_and_the_same_every_time(radiographs, tmp_path):
    from experiments.throughput.benchmark.radiographs import draw_radiographs

    assert FULL_SIZE == (2044, 1514)
    read = [cv2.imread(str(radiograph), cv2.IMREAD_UNCHANGED) for radiograph in radiographs]
    assert {(radiograph.shape, radiograph.dtype) for radiograph in read} == {
        ((160, 120), np.dtype(np.uint8))
    }
    # Noise of its own in every pixel: no corner is flat, however dark it is.
    smooth = cv2.medianBlur(read[0], 5)
    assert np.mean(read[0] != smooth) > 0.3
    again = draw_radiographs(tmp_path, 2, (160, 120))
    assert [radiograph.read_bytes() for radiograph in again] == [
        radiograph.read_bytes() for radiograph in radiographs[:2]
    ]


def test_a_written_store_is_one_that_opens_and_repeats_its_rows(radiographs, tmp_path: Path):
    rows = frame_radiographs(radiographs, 40)
    assert rows.shape == (4, 40, 40)
    write_store(tmp_path / "store", 10, 40, rows)
    store = open_store(tmp_path / "store", verify=True)
    assert np.array_equal(store.images, rows[np.arange(10) % 4])
    assert list(store.frames()["image_id"]) == store.image_ids


def test_a_store_of_black_images_takes_no_room(tmp_path: Path):
    write_store(tmp_path / "store", 500, 128)
    store = open_store(tmp_path / "store", verify=True)
    assert store.shape == (500, 128, 128)
    assert zlib.crc32(store[3].tobytes()) == zlib.crc32(bytes(128 * 128))
    assert (tmp_path / "store" / "images.npy").stat().st_blocks * 512 < 100_000
