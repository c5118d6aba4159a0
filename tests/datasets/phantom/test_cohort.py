from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.datasets.phantom import cohort as phantom_module
from boneage.datasets.phantom.cohort import draw_hand, make_phantom_cohort, phantom
from boneage.datasets.phantom.exposure import expose
from boneage.datasets.phantom.ossification import age_at_maturity
from boneage.errors import InputError


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return np.asarray(image, np.uint8)


def test_a_radiograph_depends_on_seed_and_index_alone() -> None:
    first = phantom(3, 7, 128)
    phantom(3, 8, 128)
    again = phantom(3, 7, 128)
    assert np.array_equal(first.image, again.image)
    assert (first.age_months, first.sex) == (again.age_months, again.sex)
    assert not np.array_equal(first.image, phantom(3, 8, 128).image)
    assert not np.array_equal(first.image, phantom(4, 7, 128).image)


def test_a_radiograph_is_the_same_from_threads_and_other_processes() -> None:
    here = [hashlib.sha256(phantom(0, i, 96).image.tobytes()).hexdigest() for i in range(6)]
    there: dict[int, str] = {}

    def draw(index: int) -> None:
        there[index] = hashlib.sha256(phantom(0, index, 96).image.tobytes()).hexdigest()

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [there[i] for i in range(6)] == here
    code = (
        "import hashlib; from boneage.datasets.phantom.cohort import phantom;"
        "print(hashlib.sha256(phantom(0, 5, 96).image.tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == here[5]


def test_the_sex_is_seen_through_the_maturity_only() -> None:
    girl = age_at_maturity(150, "F")
    assert girl < 128
    boys = draw_hand(150, "M", rng=np.random.default_rng(1))
    girls = draw_hand(girl, "F", rng=np.random.default_rng(1))
    # The clock of the girl is inverted numerically; a pixel on the edge of a grey level may turn.
    assert np.abs(boys.astype(int) - girls).max() <= 1
    same_age = draw_hand(150, "F", rng=np.random.default_rng(1))
    assert np.abs(boys.astype(int) - same_age).max() > 30


@pytest.mark.parametrize("age", [1, 12, 60, 120, 168, 204, 228])
@pytest.mark.parametrize("sex", ["F", "M"])
def test_pictures_are_sane(age: int, sex: str) -> None:
    for chance in range(4):
        image = draw_hand(age, sex, rng=np.random.default_rng(chance), size=192)  # type: ignore[arg-type]
        assert image.shape == (192, 192)
        assert image.dtype == np.uint8
        middle = image[48:168, 48:144]
        assert (middle == 255).mean() < 0.02
        assert (middle == 0).mean() < 0.5
        assert len(np.unique(image)) > 20
        assert image.std() > 4


@pytest.mark.parametrize("age", [2, 100, 220])
def test_the_hand_takes_a_sensible_share_of_the_radiograph(
    age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []

    def watch(bone, flesh, exposure, rng):  # type: ignore[no-untyped-def]
        shares.append(((flesh > 0.5).mean(), (bone > 0.5).mean()))
        assert not (flesh[0] > 0.5).any(), "a fingertip is cut off"
        assert bone[flesh < 0.1].max() < 0.5, "a bone sticks out of the flesh"
        return expose(bone, flesh, exposure, rng)

    monkeypatch.setattr("boneage.datasets.phantom.cohort.expose", watch)
    for chance in range(12):
        draw_hand(age, "M", rng=np.random.default_rng(chance), size=128)
    for flesh, bone in shares:
        assert 0.12 < flesh < 0.5
        assert 0.03 < bone < flesh


def test_ages_and_sexes_are_distributed_as_in_the_rsna_set() -> None:
    labels = [
        phantom_module._draw_label(np.random.default_rng([9, 0, index])) for index in range(6000)
    ]
    ages = np.array([age for age, _ in labels])
    boys = np.array([sex == "M" for _, sex in labels])
    assert ages.min() >= 1
    assert ages.max() <= 228
    assert ages.min() < 12
    assert ages.max() > 215
    assert np.array_equal(ages, np.rint(ages))
    assert ages.mean() == pytest.approx(127.3, abs=2.5)
    assert ages.std() == pytest.approx(41.2, abs=2)
    assert boys.mean() == pytest.approx(0.542, abs=0.02)
    assert ages[boys].mean() == pytest.approx(135.3, abs=3)
    assert ages[~boys].mean() == pytest.approx(117.9, abs=3)


def test_a_cohort_is_a_manifest_with_its_images(tmp_path: Path) -> None:
    manifest = make_phantom_cohort(tmp_path / "cohort", count=30, size=64, progress=False)
    assert len(manifest) == 30
    assert manifest.table["split"].value_counts().to_dict() == {"train": 24, "val": 3, "test": 3}
    for index, path in enumerate(manifest.image_paths()):
        radiograph = phantom(0, index, 64)
        assert np.array_equal(read(path), radiograph.image)
        assert manifest.table["age_months"][index] == radiograph.age_months
        assert manifest.table["sex"][index] == radiograph.sex
    assert read_manifest(tmp_path / "cohort" / "manifest.csv").digest == manifest.digest


def test_workers_make_no_difference_and_progress_stays_off_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_phantom_cohort(tmp_path / "one", count=12, size=64, workers=1)
    make_phantom_cohort(tmp_path / "four", count=12, size=64, workers=4, progress=False)
    assert digests(tmp_path / "one") == digests(tmp_path / "four")
    assert capsys.readouterr().out == ""


def test_a_finished_cohort_is_opened_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_phantom_cohort(tmp_path, count=12, size=64, progress=False)
    monkeypatch.setattr(phantom_module, "draw_hand", lambda *_, **__: pytest.fail("drawn again"))
    assert make_phantom_cohort(tmp_path, count=12, size=64, progress=False).digest == first.digest


def test_an_interrupted_cohort_is_finished_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make_phantom_cohort(whole, count=16, size=64, progress=False)
    drawn: list[int] = []
    real = phantom_module.phantom

    def interrupted(seed: int, index: int, size: int) -> phantom_module.PhantomRadiograph:
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(index)
        return real(seed, index, size)

    monkeypatch.setattr(phantom_module, "phantom", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_phantom_cohort(broken, count=16, size=64, progress=False, workers=1)
    assert not (broken / "manifest.csv").exists()
    stale = broken / "images" / ".000006.png.1.part"
    stale.write_bytes(b"half")
    os.utime(stale, (time.time() - 3600,) * 2)

    again: list[int] = []

    def counting(seed: int, index: int, size: int) -> phantom_module.PhantomRadiograph:
        again.append(index)
        return real(seed, index, size)

    monkeypatch.setattr(phantom_module, "phantom", counting)
    make_phantom_cohort(broken, count=16, size=64, progress=False)
    assert sorted(again + drawn) == list(range(16))
    assert digests(broken) == digests(whole)


def test_ctrl_c_leaves_the_radiographs_undrawn_that_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def press(radiographs: Iterable[object], *_: object, **__: object) -> Iterator[object]:
        yield next(iter(radiographs))
        raise KeyboardInterrupt

    def counting(seed: int, index: int, size: int) -> phantom_module.PhantomRadiograph:
        drawn.append(index)
        time.sleep(0.002)
        return phantom_module.PhantomRadiograph(np.zeros((size, size), np.uint8), 100.0, "F")

    monkeypatch.setattr(phantom_module, "track", press)
    monkeypatch.setattr(phantom_module, "phantom", counting)
    with pytest.raises(KeyboardInterrupt):
        make_phantom_cohort(tmp_path, count=1000, size=64, progress=False, workers=1)
    assert len(drawn) < 500


def test_a_killed_run_is_taken_up(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from boneage.datasets.phantom.cohort import *;"
        "make_phantom_cohort(Path(sys.argv[1]), count=120, size=64, progress=False, workers=2)"
    )
    out = tmp_path / "cohort"
    process = subprocess.Popen([sys.executable, "-c", code, str(out)])
    deadline = time.monotonic() + 60
    while len(list((out / "images").glob("0*.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = list((out / "images").glob("0*.png"))
    assert 5 <= len(done) < 120
    for path in done:  # nothing half-written bears a radiograph's name
        assert read(path).shape == (64, 64)
    manifest = make_phantom_cohort(out, count=120, size=64, progress=False)
    assert len(manifest) == 120


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("mine")
    with pytest.raises(InputError, match="already holds other files \\(thesis.docx\\)"):
        make_phantom_cohort(tmp_path, count=10, size=64, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_another_cohort_is_refused_with_what_differs(tmp_path: Path) -> None:
    make_phantom_cohort(tmp_path, count=10, size=64, progress=False)
    before = digests(tmp_path)
    with pytest.raises(InputError, match="another phantom cohort \\(seed 0 instead of 1\\)"):
        make_phantom_cohort(tmp_path, count=10, size=64, seed=1, progress=False)
    assert digests(tmp_path) == before


def test_a_broken_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "phantom.json").write_text("{")
    with pytest.raises(InputError, match=r"phantom\.json can't be read"):
        make_phantom_cohort(tmp_path, count=10, size=64, progress=False)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        make_phantom_cohort(tmp_path / "cohort", count=10, size=64, progress=False)
    with pytest.raises(InputError, match="can't be written"):
        make_phantom_cohort(tmp_path / "cohort" / "below", count=10, size=64, progress=False)


def test_numbers_out_of_range_are_named_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        make_phantom_cohort(tmp_path / "cohort", count=3, seed=-1, size=16, progress=False)
    assert len(caught.value.faults) == 3
    assert not (tmp_path / "cohort").exists()
