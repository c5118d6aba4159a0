from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.datasets.phantom import cohort as phantom_module
from boneage.datasets.phantom.cohort import draw_hand, draw_label, make_phantom_cohort, phantom
from boneage.datasets.phantom.exposure import expose
from boneage.datasets.phantom.ossification import maturity_months
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
    first, again = phantom(3, 7, 128), phantom(3, 7, 128)
    assert np.array_equal(first.image, again.image)
    assert (first.age_months, first.sex) == (again.age_months, again.sex)
    assert not np.array_equal(first.image, phantom(3, 8, 128).image)
    assert not np.array_equal(first.image, phantom(4, 7, 128).image)


def test_the_sex_is_seen_through_the_maturity_only() -> None:
    boy = maturity_months(128, "F")  # the age of a boy who is as mature as a girl of 128 months
    assert 150 < boy < 153
    girls = draw_hand(128, "F", rng=np.random.default_rng(1))
    assert np.array_equal(draw_hand(boy, "M", rng=np.random.default_rng(1)), girls)
    same_age = draw_hand(128, "M", rng=np.random.default_rng(1))
    assert np.abs(girls.astype(int) - same_age).max() > 30


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
    labels = [draw_label(np.random.default_rng([9, 0, index])) for index in range(6000)]
    ages = np.array([age for age, _ in labels])
    boys = np.array([sex == "M" for _, sex in labels])
    assert 1 <= ages.min() < 12
    assert 215 < ages.max() <= 228
    assert np.array_equal(ages, np.rint(ages))
    assert ages.mean() == pytest.approx(127.3, abs=2.5)
    assert ages.std() == pytest.approx(41.2, abs=2)
    assert boys.mean() == pytest.approx(0.542, abs=0.02)
    assert ages[boys].mean() == pytest.approx(135.3, abs=3)
    assert ages[~boys].mean() == pytest.approx(117.9, abs=3)


def test_a_cohort_is_a_manifest_with_its_images_and_is_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_phantom_cohort(tmp_path, count=30, size=64, progress=False)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 24, "val": 3, "test": 3}
    for index, path in enumerate(manifest.image_paths()):
        radiograph = phantom(0, index, 64)
        assert np.array_equal(read(path), radiograph.image)
        assert manifest.table["age_months"][index] == radiograph.age_months
        assert manifest.table["sex"][index] == radiograph.sex
    assert read_manifest(tmp_path / "manifest.csv").digest == manifest.digest
    monkeypatch.setattr(phantom_module, "draw_hand", lambda *_, **__: pytest.fail("drawn again"))
    again = make_phantom_cohort(tmp_path, count=30, size=64, progress=False)
    assert again.digest == manifest.digest


def test_workers_make_no_difference_and_progress_stays_off_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_phantom_cohort(tmp_path / "one", count=12, size=64, workers=1)
    make_phantom_cohort(tmp_path / "four", count=12, size=64, workers=4, progress=False)
    assert digests(tmp_path / "one") == digests(tmp_path / "four")
    assert capsys.readouterr().out == ""


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


def test_what_a_folder_may_not_hold(tmp_path: Path) -> None:
    def refused(folder: Path, message: str, seed: int = 0) -> None:
        before = digests(tmp_path)
        with pytest.raises(InputError, match=message):
            make_phantom_cohort(folder, count=10, size=64, seed=seed, progress=False)
        assert digests(tmp_path) == before

    for folder, file, content in (("a", "thesis.docx", "mine"), ("b", "phantom.json", "{")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(content)
    (tmp_path / "file").touch()
    make_phantom_cohort(tmp_path / "c", count=10, size=64, progress=False)
    refused(tmp_path / "a", r"already holds other files \(thesis.docx\)")
    refused(tmp_path / "b", r"phantom\.json can't be read")
    refused(tmp_path / "c", r"another phantom cohort \(seed 0 instead of 1\)", seed=1)
    refused(tmp_path / "file", "it is a file")
    refused(tmp_path / "file" / "below", "can't be written")


def test_numbers_out_of_range_are_named_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        make_phantom_cohort(tmp_path / "cohort", count=3, seed=-1, size=16, progress=False)
    assert len(caught.value.faults) == 3
    assert not (tmp_path / "cohort").exists()
