from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest, read_manifest, write_manifest
from boneage.errors import InputError
from boneage.pipeline import store_builder, store_worker
from boneage.pipeline.store import VERSION, Store, open_store, prepare, prepare_from
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
    """The names of the files that `prepare` decodes in this process."""
    names: list[str] = []

    def count(path: Path) -> Radiograph:
        names.append(path.name)
        return read_radiograph(path)

    monkeypatch.setattr(store_worker, "read_radiograph", count)
    return names


def make(manifest: Manifest, framing: Framing = FRAMING, folder: Path | None = None) -> Store:
    return prepare(manifest, framing, folder=folder, progress=False)


def expected(manifest: Manifest) -> np.ndarray:
    paths = manifest.image_paths()
    return np.stack([frame(read_radiograph(path), FRAMING).pixels for path in paths])


def files_in(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock"
    )


def change_first_image(manifest: Manifest) -> None:
    path = manifest.image_paths()[0]
    assert cv2.imwrite(str(path), read_radiograph(path)[::-1].copy())
    os.utime(path, (1, 1))


def test_every_row_is_the_framed_image(manifest: Manifest) -> None:
    store = make(manifest)
    assert store.shape == (20, 32, 32)
    assert len(store) == 20
    assert isinstance(store.images, np.memmap)
    assert store.images.dtype == np.uint8
    assert store.image_ids == [f"a{number}" for number in range(20)]
    assert store.framing == FRAMING
    assert np.array_equal(store.images, expected(manifest))
    assert np.array_equal(np.stack(list(store)), store.images)
    assert np.array_equal(store[-1], store[19])
    with pytest.raises(ValueError, match="read-only"):
        store[3][0, 0] = 1
    for row in (20, -21):
        with pytest.raises(IndexError, match="of 20"):
            store[row]


def test_the_store_is_next_to_the_manifest_and_says_what_it_was_made_from(
    manifest: Manifest,
) -> None:
    folder = make(manifest).folder
    assert folder.parent == manifest.path.with_name("manifest.store")
    assert folder.name.startswith("32px-")
    assert files_in(folder.parent) == [
        folder.name,
        *(f"{folder.name}/{name}" for name in ("checksums.npy", "frames.csv", "images.npy")),
        f"{folder.name}/store.json",
    ]
    described = json.loads((folder / "store.json").read_text())
    assert described["version"] == VERSION
    assert described["manifest_digest"] == manifest.digest
    assert Framing.model_validate(described["framing"]) == FRAMING


def test_a_store_is_made_once(manifest: Manifest, decoded: list[str], tmp_path: Path) -> None:
    first = make(manifest)
    assert len(decoded) == 20
    assert make(manifest).digest == first.digest
    assert len(decoded) == 20
    assert make(manifest, Framing(size=33)).digest != first.digest
    assert len(decoded) == 40
    assert make(manifest, folder=tmp_path / "elsewhere").digest == first.digest


def test_a_store_knows_whether_recorded_images_differ(manifest: Manifest) -> None:
    store, other = make(manifest), make(manifest, Framing(size=33))
    assert not store.differs_from(store.metadata())
    assert store.differs_from(other.metadata())
    assert not store.differs_from({**other.metadata(), "version": VERSION - 1})


def test_a_store_with_a_changed_image_is_made_again(manifest: Manifest, decoded: list[str]) -> None:
    before = make(manifest)
    old_rows = np.array(before.images)
    change_first_image(manifest)
    after = make(manifest)
    assert len(decoded) == 40
    assert after.digest != before.digest
    assert [row for row in range(20) if not np.array_equal(after[row], old_rows[row])] == [0]
    assert np.array_equal(before.images, old_rows), "an open store does not change"


def test_rows_of_a_split(manifest: Manifest) -> None:
    store = make(manifest)
    view = store.select(list(manifest.split("test").table["image_id"]))
    assert view.shape == (2, 32, 32)
    assert len(view) == 2
    assert view.image_ids == ["a9", "a19"]
    assert np.array_equal(view[1], store[19])
    assert np.array_equal(store.select(store.image_ids[::-1])[0], store[19])


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


def test_a_store_cut_short_while_it_is_in_use_is_an_input_error(manifest: Manifest) -> None:
    # Through the memory map, a row that no longer exists would be a SIGBUS.
    store = make(manifest)
    rows = [store[row].copy() for row in range(len(store))]
    os.truncate(store.folder / "images.npy", store.images.offset + 12 * 32 * 32 + 1)
    assert all(np.array_equal(store[row], rows[row]) for row in range(12))
    with pytest.raises(InputError, match=r"images\.npy was cut short before row 12"):
        store[12]


def test_a_store_replaced_by_other_pixels_is_noticed(manifest: Manifest, tmp_path: Path) -> None:
    data = pickle.dumps(make(manifest, folder=tmp_path / "s"))
    radiograph, other = manifest.image_paths()[:2]
    os.utime(radiograph, (1, 1))
    again = make(manifest, folder=tmp_path / "s")
    assert pickle.loads(data).digest == again.digest
    radiograph.write_bytes(other.read_bytes())
    make(manifest, folder=tmp_path / "s")
    with pytest.raises(InputError, match="replaced while in use"):
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
    assert files_in(tmp_path / "manifest.store") == []


def test_blank_images_are_refused_but_a_region_with_content_is_used(manifest: Manifest) -> None:
    blank, half = manifest.image_paths()[2:4]
    cv2.imwrite(str(blank), np.full((40, 40), 200, np.uint8))
    with pytest.raises(InputError, match="every pixel is 200") as caught:
        make(manifest)
    assert [fault.where for fault in caught.value.faults] == [str(blank)]
    image = np.zeros((400, 400), np.uint8)
    image[:100, :100] = np.arange(100)
    cv2.imwrite(str(half), image)
    content = store_worker.FramingTask(half, (0, 0, 100, 100), FRAMING, 0)
    with half.with_suffix(".row").open("wb") as file:
        assert store_worker.make_row(content, file.fileno()).crop[:4] == (0, 0, 100, 100)
        with pytest.raises(InputError, match="94 % of it is as dark or light"):
            store_worker.make_row(replace(content, region=None), file.fileno())


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("images.npy", lambda data: data[:-1]),
        ("images.npy", lambda data: data[:-5] + bytes(b ^ 1 for b in data[-5:])),
        ("images.npy", lambda data: data.replace(b"(20, 32, 32)", b"(20, 32, 31)")),
        ("store.json", lambda data: data.replace(b'"a3", "a4"', b'"a4", "a3"')),
        ("store.json", lambda data: data[:-20]),
    ],
)
def test_a_damaged_store_is_refused(
    manifest: Manifest, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    folder = make(manifest).folder
    (folder / name).write_bytes(spoil((folder / name).read_bytes()))
    with pytest.raises(InputError, match=r"damaged.*Delete this folder.*boneage data prepare"):
        open_store(folder)


def test_every_row_is_checked_on_request(tmp_path: Path) -> None:
    folder = make(make_manifest(tmp_path, 130)).folder
    with (folder / "images.npy").open("r+b") as file:
        file.seek(128 + 32 * 32 * 7 + 5)
        file.write(b"\x01\x02\x03")
    open_store(folder)
    with pytest.raises(InputError, match="image_id a7"):
        open_store(folder, verify=True)


@pytest.mark.parametrize("name", ["images.npy", "frames.csv", "checksums.npy"])
def test_a_store_with_a_missing_file_is_refused(manifest: Manifest, name: str) -> None:
    folder = make(manifest).folder
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing.*Delete this folder first"):
        open_store(folder)


def test_a_store_of_another_version_is_refused_and_made_again(manifest: Manifest) -> None:
    folder = make(manifest).folder
    path = folder / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    (folder / "frames.csv").unlink()  # version 1 had none
    with pytest.raises(InputError, match="has version 1, .*data prepare"):
        open_store(folder)
    again = make(manifest)
    assert again.folder == folder
    assert json.loads(path.read_text())["version"] == VERSION
    assert len(again.frames()) == 20


def test_ids_that_look_like_missing_values_or_numbers_stay_text(manifest: Manifest) -> None:
    ids = ["NA", "null", "nan", "None", "007", "1e5"]
    table = manifest.table.head(len(ids)).assign(image_id=ids)
    store = make(write_manifest(table, manifest.path.with_name("odd.csv")))
    frames = store.frames()
    assert frames["image_id"].tolist() == store.image_ids == ids
    assert all(frames[side].dtype.kind == "i" for side in ("left", "top", "right", "bottom"))


def test_a_folder_of_something_else_is_kept(manifest: Manifest, tmp_path: Path) -> None:
    precious = tmp_path / "radiographs"
    precious.mkdir()
    (precious / "only-copy.png").touch()
    with pytest.raises(InputError, match="something else"):
        make(manifest, folder=precious)
    assert files_in(precious) == ["only-copy.png"]


def test_a_full_disk_is_noticed_before_it_is_filled(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(InputError, match="its disk has 1.0 kB left, but"):
        make(manifest)
    assert files_in(tmp_path / "manifest.store") == []


def test_the_cache_is_used_if_the_folder_is_read_only(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = make(manifest)
    assert store.folder.is_relative_to(tmp_path / "cache" / "stores")
    assert make(manifest).digest == store.digest


def test_a_named_cache_is_used_unless_a_store_is_next_to_the_manifest(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    assert make(manifest).folder.is_relative_to(tmp_path / "cache" / "stores")
    monkeypatch.delenv("BONEAGE_CACHE")
    adjacent = make(manifest).folder
    assert adjacent.parent.parent == manifest.path.parent
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    assert make(manifest).folder == adjacent


def interrupt(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a preparation after 15 rows."""

    def read(path: Path) -> Radiograph:
        if path.name == "15.png":
            raise KeyboardInterrupt
        return read_radiograph(path)

    with monkeypatch.context() as patch:
        patch.setattr(store_worker, "read_radiograph", read)
        with pytest.raises(KeyboardInterrupt):
            prepare(manifest, FRAMING, workers=1, progress=False)


def test_an_interrupt_keeps_the_finished_rows(
    manifest: Manifest, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(manifest, monkeypatch)
    store = make(manifest)
    assert sorted(decoded) == ["15.png", "16.png", "17.png", "18.png", "19.png"]
    assert np.array_equal(store.images, expected(manifest))


SLOW_PREPARE = """
import sys, time
from pathlib import Path
from boneage.datasets.manifest import read_manifest
from boneage.pipeline import store_builder, store_worker
from boneage.pipeline.store import prepare
from boneage.recipe import Framing
read = store_worker.read_radiograph
def slow(path):
    time.sleep(float(sys.argv[2]))
    print(path.name + "\\n", end="", flush=True)  # one write: two threads print
    return read(path)
store_worker.read_radiograph = slow
store_builder.JOURNAL_SECONDS = 0.0
store = prepare(read_manifest(Path(sys.argv[1])), Framing(size=32), workers=2, progress=False)
print(store.digest)
"""


def start_slowly(manifest: Manifest, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_PREPARE, str(manifest.path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_halfway(manifest: Manifest) -> Path:
    """Kill a preparation after half of its rows; give its partial folder."""
    with start_slowly(manifest, 0.05) as process:
        assert process.stdout is not None
        for _ in range(10):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    (partial,) = manifest.path.with_name("manifest.store").glob("*.partial")
    return partial


def test_after_a_kill_the_correct_rows_are_kept(manifest: Manifest, decoded: list[str]) -> None:
    partial = kill_halfway(manifest)
    with pytest.raises(InputError, match="no complete store"):
        open_store(partial)
    # As after a power cut: a row that is in the journal but not on the disk.
    journal = np.load(partial / "journal.npy")
    done = np.flatnonzero(journal >= 0)
    assert 5 <= len(done) < 20
    with (partial / "images.npy").open("r+b") as file:
        file.seek(128 + 32 * 32 * int(done[0]))
        file.write(bytes(32 * 32))
    store = make(manifest)
    assert np.array_equal(store.images, expected(manifest))
    framed = [frame(read_radiograph(path), FRAMING) for path in manifest.image_paths()]
    crops = [each.crop for each in framed]
    frames = store.frames()
    assert frames["image_id"].tolist() == store.image_ids
    boxes = frames[["left", "top", "right", "bottom"]].to_numpy()
    assert [tuple(box) for box in boxes] == [crop.box for crop in crops]
    assert frames["why"].tolist() == [crop.why for crop in crops]
    assert frames["rotation"].tolist() == [crop.rotation for crop in crops]
    gains = np.array([each.gain for each in framed])
    assert np.allclose(frames["gain"], gains, rtol=1e-12)
    assert len(set(gains)) > 1
    for row, image_and_gain in ((3, store.image_and_gain(3)), (19, store.image_and_gain(-1))):
        assert np.array_equal(image_and_gain[0], store[row])
        assert np.isclose(image_and_gain[1], gains[row], rtol=1e-12)
    assert len(decoded) == 20 - len(done) + 1
    assert not partial.exists()


def test_a_partial_store_of_other_images_is_deleted(
    manifest: Manifest, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(manifest, monkeypatch)
    change_first_image(manifest)
    assert np.array_equal(make(manifest).images, expected(manifest))
    assert len(decoded) == 20


@pytest.mark.slow
def test_two_processes_make_a_store_once(manifest: Manifest) -> None:
    with start_slowly(manifest, 0.03) as one, start_slowly(manifest, 0.03) as other:
        first, second = one.communicate()[0].split(), other.communicate()[0].split()
    assert first[-1] == second[-1]
    assert {len(first), len(second)} == {21, 1}


def test_an_empty_manifest_is_refused(manifest: Manifest) -> None:
    empty = Manifest(manifest.path, manifest.table.iloc[:0], manifest.digest)
    with pytest.raises(InputError, match="no rows"):
        make(empty)


def test_a_region_is_cut_out_and_one_outside_the_image_is_refused(manifest: Manifest) -> None:
    table = manifest.table.assign(region="")
    table.loc[3, "region"] = "4 8 28 36"
    path = manifest.path.with_name("regions.csv")
    cut = write_manifest(table, path)
    radiograph = read_radiograph(cut.image_paths()[3])
    assert np.array_equal(make(cut)[3], frame(radiograph[8:36, 4:28], FRAMING).pixels)
    table.loc[[3, 5], "region"] = "8 8 4000 40"
    with pytest.raises(InputError, match="8 8 4000 40") as caught:
        make(write_manifest(table, path))
    found = [Path(fault.where.split(": ")[0]) for fault in caught.value.faults]
    assert found == [cut.image_paths()[3], cut.image_paths()[5]]


# Stores of manifests that differ only in their splits share the pixels.


@pytest.fixture
def other(manifest: Manifest, tmp_path: Path) -> Manifest:
    """The same radiographs with other splits, in another manifest."""
    table = manifest.table.assign(split=np.resize(["train", "val"], len(manifest)))
    return write_manifest(table, tmp_path / "other.csv")


def test_a_store_is_linked_and_nothing_decoded_again(
    manifest: Manifest, other: Manifest, decoded: list[str]
) -> None:
    made = make(manifest)
    decoded.clear()
    store = prepare_from(manifest, other, FRAMING)
    assert store.folder.parent == other.path.with_name("other.store")
    assert (store.folder / "images.npy").samefile(made.folder / "images.npy")
    assert make(other).digest == store.digest == made.digest
    assert open_store(store.folder, verify=True).image_ids == made.image_ids
    assert store.frames().equals(made.frames())
    assert decoded == []


def test_without_hard_links_the_files_are_copied(
    manifest: Manifest, other: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(store_builder.os, "link", no_link)
    store, made = prepare_from(manifest, other, FRAMING, progress=False), make(manifest)
    assert not (store.folder / "images.npy").samefile(made.folder / "images.npy")
    np.testing.assert_array_equal(store.images, made.images)


def test_an_unfinished_copy_is_made_again(manifest: Manifest, other: Manifest) -> None:
    whole = prepare_from(manifest, other, FRAMING, progress=False).folder
    partial = whole.rename(whole.with_name(whole.name + ".partial"))
    (partial / "store.json").unlink()
    assert prepare_from(manifest, other, FRAMING).folder == whole
    assert not partial.exists()


def test_a_store_of_other_images_is_not_linked(manifest: Manifest, other: Manifest) -> None:
    fewer = write_manifest(other.table[1:], other.path.with_name("fewer.csv"))
    with pytest.raises(ValueError, match=r"fewer\.csv does not have the images of"):
        prepare_from(manifest, fewer, FRAMING)
    regions = replace(other, table=other.table.assign(region="0 0 20 20"))
    with pytest.raises(ValueError, match="does not have the images of"):
        prepare_from(manifest, regions, FRAMING)


def damage_store(folder, name, rng):
    path = folder / name
    content = bytearray(path.read_bytes())
    position = int(rng.integers(0, min(len(content), 400)))
    content[position] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(content[: rng.integers(0, len(content))] if rng.random() < 0.3 else content)


@pytest.mark.parametrize("name", ["store.json", "checksums.npy", "images.npy"])
def test_a_damaged_store_is_a_fault_or_the_same_images(cohort_copy, tmp_path, name):
    made = prepare(read_manifest(cohort_copy), Framing(size=32), progress=False)
    rng = np.random.default_rng(0)
    for number in range(25):
        folder = tmp_path / f"{number}"
        shutil.copytree(made.folder, folder)
        damage_store(folder, name, rng)
        try:
            opened = open_store(folder, verify=True)
        except InputError:
            continue
        assert opened.digest == made.digest
        assert (opened[0] == made[0]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"image_ids": 3}, {"image_ids": [1]}, {"image_ids": []}, {"framing": []},
        {"framing": {"size": 1e9}}, {"digest": 7}, {"version": "x"}, {"version": [[[]]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_of_other_types_is_refused(cohort_copy, change):
    made = prepare(read_manifest(cohort_copy), Framing(size=32), progress=False)
    path = made.folder / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError):
        open_store(made.folder)


def test_a_checksum_file_that_claims_more_than_it_has_takes_no_memory(cohort_copy):
    made = prepare(read_manifest(cohort_copy), Framing(size=32), progress=False)
    path = made.folder / "checksums.npy"
    path.write_bytes(path.read_bytes().replace(b"(60,), }           ", b"(900000000000,), }"))
    with pytest.raises(InputError, match="the store is damaged"):
        open_store(made.folder)
