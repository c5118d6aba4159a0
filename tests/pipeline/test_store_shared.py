"""Stores of manifests that differ in splits only: the pixels are there once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from boneage.datasets.manifest import Manifest, read_manifest, write_manifest
from boneage.pipeline import store_builder as preparation
from boneage.pipeline import store_worker as framer
from boneage.pipeline.store import open_store, prepare, prepare_from
from boneage.recipe import Framing

FRAMING = Framing(size=32, crop="film")


@pytest.fixture
def manifest(cohort: Path) -> Manifest:
    return read_manifest(cohort)


@pytest.fixture
def other(manifest: Manifest, tmp_path: Path) -> Manifest:
    """The same radiographs with other splits, in another folder."""
    table = manifest.table.assign(image=[str(path) for path in manifest.image_paths()])
    table["split"] = np.resize(["train", "val"], len(table))
    return write_manifest(table, tmp_path / "other.csv")


def test_a_store_is_linked_and_nothing_decoded_again(
    manifest: Manifest, other: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(manifest, FRAMING, progress=False)
    monkeypatch.setattr(framer, "read_radiograph", None)  # whoever decodes calls it
    store = prepare_from(manifest, other, FRAMING)
    assert store.folder.parent == other.path.with_name("other.store")
    assert (store.folder / "images.npy").samefile(made.folder / "images.npy")
    assert prepare(other, FRAMING).digest == store.digest == made.digest
    assert open_store(store.folder, verify=True).image_ids == made.image_ids
    assert store.frames().equals(made.frames())


def test_where_there_are_no_links_the_files_are_copied(
    manifest: Manifest, other: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(preparation.os, "link", no_link)
    store = prepare_from(manifest, other, FRAMING, progress=False)
    made = prepare(manifest, FRAMING, progress=False)
    assert not (store.folder / "images.npy").samefile(made.folder / "images.npy")
    np.testing.assert_array_equal(store.images, made.images)


def test_a_copy_cut_off_is_begun_anew(manifest: Manifest, other: Manifest) -> None:
    whole = prepare_from(manifest, other, FRAMING, progress=False).folder
    partial = whole.rename(whole.with_name(whole.name + ".partial"))
    (partial / "store.json").unlink()
    assert prepare_from(manifest, other, FRAMING).folder == whole
    assert not partial.exists()


def test_other_images_are_not_taken_over(manifest: Manifest, other: Manifest) -> None:
    fewer = write_manifest(other.table[1:], other.path.with_name("fewer.csv"))
    with pytest.raises(ValueError, match=r"fewer\.csv does not have the images of"):
        prepare_from(manifest, fewer, FRAMING)
    regions = replace(other, table=other.table.assign(region="0 0 20 20"))
    with pytest.raises(ValueError, match="does not have the images of"):
        prepare_from(manifest, regions, FRAMING)
