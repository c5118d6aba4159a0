from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest, write_manifest
from boneage.errors import InputError
from boneage.pipeline import store_worker as framer
from boneage.pipeline.store import Store, open_store, prepare
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.recipe import Framing

FRAMING = Framing(size=32)


def make_manifest(folder: Path, count: int = 20) -> Manifest:
    rng = np.random.default_rng(count)
    for number in range(count):
        radiograph = rng.integers(0, 256, (40 + number % 3, 30), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), radiograph)
    table = pd.DataFrame(
        {
            "image_id": [f"a{number}" for number in range(count)],
            "image": [f"{number}.png" for number in range(count)],
            "age_months": np.linspace(10.0, 200.0, count),
            "sex": ["F", "M"] * (count // 2),
            "split": (["train"] * 8 + ["val", "test"]) * (count // 10),
        }
    )
    return write_manifest(table, folder / "manifest.csv")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_manifest(tmp_path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files decoded by `prepare` in this process."""
    names: list[str] = []

    def count(path: Path) -> Radiograph:
        names.append(path.name)
        return read_radiograph(path)

    monkeypatch.setattr(framer, "read_radiograph", count)
    return names


def make(manifest: Manifest, framing: Framing = FRAMING, folder: Path | None = None) -> Store:
    return prepare(manifest, framing, folder=folder, progress=False)


def expected(manifest: Manifest) -> np.ndarray:
    return np.stack(
        [frame(read_radiograph(path), FRAMING).pixels for path in manifest.image_paths()]
    )


def left_behind(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock"
    )


def test_every_row_is_the_framed_image(manifest: Manifest) -> None:
    store = make(manifest)
    assert store.shape == (20, 32, 32)
    assert len(store) == 20
    assert isinstance(store.images, np.memmap)
    assert store.images.dtype == np.uint8
    assert store.image_ids == [f"a{number}" for number in range(20)]
    assert store.framing == FRAMING
    assert np.array_equal(store.images, expected(manifest))
    assert np.array_equal(store[3], expected(manifest)[3])
    with pytest.raises(ValueError, match="read-only"):
        store[3][0, 0] = 1


def test_it_stands_beside_the_manifest(manifest: Manifest) -> None:
    store = make(manifest)
    assert store.folder.parent == manifest.path.with_name("manifest.store")
    assert store.folder.name.startswith("32px-")
    assert left_behind(store.folder.parent) == sorted(
        [store.folder.name]
        + [
            f"{store.folder.name}/{name}"
            for name in ("checksums.npy", "frames.csv", "images.npy", "store.json")
        ]
    )


def test_it_is_made_once(manifest: Manifest, decoded: list[str]) -> None:
    first = make(manifest)
    assert len(decoded) == 20
    second = make(manifest)
    assert len(decoded) == 20
    assert second.digest == first.digest
    assert make(manifest, Framing(size=33)).digest != first.digest
    assert len(decoded) == 40


def test_the_digest_is_of_the_pixels_not_of_the_day(manifest: Manifest, tmp_path: Path) -> None:
    one = make(manifest, folder=tmp_path / "one")
    assert make(manifest, folder=tmp_path / "two").digest == one.digest


def test_a_changed_image_makes_it_anew(manifest: Manifest, decoded: list[str]) -> None:
    before = make(manifest)
    old_rows = np.array(before.images)
    path = manifest.image_paths()[4]
    assert cv2.imwrite(str(path), read_radiograph(path)[::-1].copy())
    os.utime(path, (1, 1))
    after = make(manifest)
    assert len(decoded) == 40
    assert after.digest != before.digest
    assert [row for row in range(20) if not np.array_equal(after[row], old_rows[row])] == [4]
    assert np.array_equal(before.images, old_rows), "what was open stays as it was"


def test_rows_of_a_split(manifest: Manifest) -> None:
    store = make(manifest)
    test = manifest.split("test")
    view = store.select(list(test.table["image_id"]))
    assert view.shape == (2, 32, 32)
    assert len(view) == 2
    assert view.image_ids == ["a9", "a19"]
    assert np.array_equal(view[1], store[19])
    backwards = store.select(store.image_ids[::-1])
    assert np.array_equal(backwards[0], store[19])


def test_unknown_ids_are_all_named(manifest: Manifest) -> None:
    with pytest.raises(InputError) as caught:
        make(manifest).select(["a3", "b1", "b2"])
    assert [fault.what.split()[-1] for fault in caught.value.faults] == ["b1", "b2"]


def test_pickling_carries_a_reference(manifest: Manifest) -> None:
    view = make(manifest).select(["a5", "a2"])
    data = pickle.dumps(view)
    assert len(data) < 1000
    copied = pickle.loads(data)
    assert isinstance(copied.store.images, np.memmap)
    assert np.array_equal(copied[0], view[0])


def test_a_store_cut_short_while_it_is_in_use_is_told(manifest: Manifest) -> None:
    # Through the memory map, a row that is no longer there would be a SIGBUS.
    store = make(manifest)
    rows = [store[row].copy() for row in range(len(store))]
    os.truncate(store.folder / "images.npy", store.images.offset + 12 * 32 * 32 + 1)
    assert all(np.array_equal(store[row], rows[row]) for row in range(12))
    with pytest.raises(InputError, match=r"images\.npy was cut short before row 12"):
        store[12]
    with pytest.raises(InputError, match="Delete that folder and prepare the manifest again"):
        store.select(["a19"])[0]


def test_rows_are_counted_as_in_a_list(manifest: Manifest) -> None:
    store = make(manifest)
    assert np.array_equal(store[-1], store[19])
    assert np.array_equal(np.stack(list(store)), store.images)
    for row in (20, -21):
        with pytest.raises(IndexError, match="of 20"):
            store[row]


def test_a_store_made_anew_meanwhile_is_noticed_by_its_pixels(
    manifest: Manifest, tmp_path: Path
) -> None:
    data = pickle.dumps(make(manifest, folder=tmp_path / "s"))
    radiograph, other = manifest.image_paths()[:2]
    os.utime(radiograph, (1, 1))
    again = make(manifest, folder=tmp_path / "s")
    assert pickle.loads(data).digest == again.digest
    radiograph.write_bytes(other.read_bytes())
    make(manifest, folder=tmp_path / "s")
    with pytest.raises(InputError, match="made anew"):
        pickle.loads(data)


def test_all_broken_images_are_named_and_nothing_is_left(
    manifest: Manifest, tmp_path: Path
) -> None:
    paths = manifest.image_paths()
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    paths[7].write_bytes(b"")
    paths[11].unlink()
    with pytest.raises(InputError) as caught:
        make(manifest)
    assert [fault.where for fault in caught.value.faults] == [str(paths[n]) for n in (2, 7, 11)]
    assert left_behind(tmp_path / "manifest.store") == []


def spoil_size(folder: Path) -> None:
    images = folder / "images.npy"
    os.truncate(images, images.stat().st_size - 1)


def spoil_pixels(folder: Path) -> None:
    with (folder / "images.npy").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\x01\x02\x03")


def spoil_ids(folder: Path) -> None:
    path = folder / "store.json"
    path.write_text(path.read_text().replace('"a3", "a4"', '"a4", "a3"'))


def spoil_json(folder: Path) -> None:
    path = folder / "store.json"
    path.write_text(path.read_text()[:-20])


def spoil_shape(folder: Path) -> None:
    np.save(folder / "images.npy", np.zeros((20, 32, 31), np.uint8))


@pytest.mark.parametrize("spoil", [spoil_size, spoil_pixels, spoil_ids, spoil_json, spoil_shape])
def test_a_damaged_store_is_refused(manifest: Manifest, spoil: Callable[[Path], None]) -> None:
    folder = make(manifest).folder
    spoil(folder)
    with pytest.raises(InputError, match="damaged"):
        open_store(folder)


def test_every_row_is_checked_on_request(tmp_path: Path) -> None:
    folder = make(make_manifest(tmp_path, 200)).folder
    with (folder / "images.npy").open("r+b") as file:
        file.seek(128 + 32 * 32 * 7 + 5)
        file.write(b"\x01\x02\x03")
    open_store(folder)
    with pytest.raises(InputError, match="image_id a7"):
        open_store(folder, verify=True)


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"store\.json is missing"):
        open_store(tmp_path)


def test_a_folder_of_something_else_is_left_alone(manifest: Manifest, tmp_path: Path) -> None:
    precious = tmp_path / "films"
    precious.mkdir()
    (precious / "only-copy.png").touch()
    with pytest.raises(InputError, match="something else"):
        make(manifest, folder=precious)
    assert left_behind(precious) == ["only-copy.png"]


def test_a_full_disk_is_told_before_it_is_filled(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(InputError, match="the disk has"):
        make(manifest)
    assert left_behind(tmp_path / "manifest.store") == []


def test_a_folder_that_cannot_be_written_to_leaves_the_cache(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = make(manifest)
    assert store.folder.is_relative_to(tmp_path / "cache" / "stores")
    assert make(manifest).digest == store.digest


def test_a_cache_that_is_named_is_used_unless_a_store_stands_beside_the_manifest(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    assert make(manifest).folder.is_relative_to(tmp_path / "cache" / "stores")
    monkeypatch.delenv("BONEAGE_CACHE")
    beside = make(manifest).folder
    assert beside.parent.parent == manifest.path.parent
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    assert make(manifest).folder == beside


def test_an_interrupt_keeps_what_is_done(
    manifest: Manifest, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path) -> Radiograph:
        if path.name == "15.png":
            raise KeyboardInterrupt
        return read_radiograph(path)

    with monkeypatch.context() as patch:
        patch.setattr(framer, "read_radiograph", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(manifest, FRAMING, workers=1, progress=False)
    store = make(manifest)
    assert sorted(decoded) == ["15.png", "16.png", "17.png", "18.png", "19.png"]
    assert np.array_equal(store.images, expected(manifest))


SLOW_PREPARE = """
import sys, time
from pathlib import Path
from boneage.datasets.manifest import read_manifest
from boneage.pipeline import store_worker as framer
from boneage.pipeline import store_builder as preparation
from boneage.pipeline.store import prepare
from boneage.recipe import Framing
read = framer.read_radiograph
def slow(path):
    time.sleep(float(sys.argv[2]))
    print(path.name + "\\n", end="", flush=True)  # one write: two threads print
    return read(path)
framer.read_radiograph = slow
preparation.JOURNAL_SECONDS = 0.0
store = prepare(read_manifest(Path(sys.argv[1])), Framing(size=32), workers=2, progress=False)
print(store.digest)
"""


def start_slowly(manifest: Manifest, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_PREPARE, str(manifest.path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_after_a_kill_it_goes_on_where_it_was(
    manifest: Manifest, tmp_path: Path, decoded: list[str]
) -> None:
    with start_slowly(manifest, 0.05) as process:
        assert process.stdout is not None
        for _ in range(10):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    (partial,) = (tmp_path / "manifest.store").glob("*.partial")
    with pytest.raises(InputError, match="no complete store"):
        open_store(partial)
    # As after a power cut: a row that the journal has and the disk has not.
    journal = np.load(partial / "journal.npy")
    done = np.flatnonzero(journal >= 0)
    assert 5 <= len(done) < 20
    with (partial / "images.npy").open("r+b") as file:
        file.seek(128 + 32 * 32 * int(done[0]))
        file.write(bytes(32 * 32))
    store = make(manifest)
    assert np.array_equal(store.images, expected(manifest))
    crops = [frame(read_radiograph(path), FRAMING).crop for path in manifest.image_paths()]
    frames = store.frames()
    assert frames["image_id"].tolist() == store.image_ids
    assert [tuple(box) for box in frames[["left", "top", "right", "bottom"]].to_numpy()] == [
        crop.box for crop in crops
    ]
    assert frames["why"].tolist() == [crop.why for crop in crops]
    assert frames["rotation"].tolist() == [crop.rotation for crop in crops]
    assert len(decoded) == 20 - len(done) + 1
    assert not partial.exists()


def test_a_partial_store_of_other_images_is_thrown_away(
    manifest: Manifest, decoded: list[str]
) -> None:
    with start_slowly(manifest, 0.05) as process:
        assert process.stdout is not None
        for _ in range(10):
            process.stdout.readline()
        process.kill()
    path = manifest.image_paths()[0]
    assert cv2.imwrite(str(path), read_radiograph(path)[::-1].copy())
    os.utime(path, (1, 1))
    assert np.array_equal(make(manifest).images, expected(manifest))
    assert len(decoded) == 20


def test_two_processes_make_it_once(manifest: Manifest) -> None:
    with start_slowly(manifest, 0.03) as one, start_slowly(manifest, 0.03) as other:
        first, second = one.communicate()[0].split(), other.communicate()[0].split()
    assert first[-1] == second[-1]
    assert {len(first), len(second)} == {21, 1}
    assert np.array_equal(make(manifest).images, expected(manifest))


def test_store_json_names_what_it_was_made_from(manifest: Manifest) -> None:
    described = json.loads((make(manifest).folder / "store.json").read_text())
    assert described["manifest_digest"] == manifest.digest
    assert described["framing"] == {
        "size": 32,
        "crop": "hand",
        "fit": "pad",
        "contrast_percentiles": [2.0, 99.5],
    }


def test_an_empty_manifest_is_refused(manifest: Manifest) -> None:
    empty = Manifest(manifest.path, manifest.table.iloc[:0], manifest.digest)
    with pytest.raises(InputError, match="no rows"):
        make(empty)


def test_a_region_is_cut_out_and_one_outside_its_picture_is_refused(manifest: Manifest) -> None:
    table = manifest.table.assign(region="")
    table.loc[3, "region"] = "4 8 28 36"
    path = manifest.path.with_name("regions.csv")
    cut = write_manifest(table, path)
    radiograph = read_radiograph(cut.image_paths()[3])
    assert np.array_equal(make(cut)[3], frame(radiograph[8:36, 4:28], FRAMING).pixels)
    table.loc[[3, 5], "region"] = "8 8 4000 40"
    with pytest.raises(InputError, match="region: it is 8 8 4000 40") as caught:
        make(write_manifest(table, path))
    assert [Path(fault.where.split(": ")[0]) for fault in caught.value.faults] == [
        cut.image_paths()[3],
        cut.image_paths()[5],
    ]
