"""What a store's files must be for it to be opened: their version, their names, their ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boneage.datasets.manifest import read_manifest, write_manifest
from boneage.errors import InputError
from boneage.pipeline.store import VERSION, Store, open_store, prepare
from boneage.recipe import Framing

IDS = ["NA", "null", "nan", "None", "007", "1e5"]


@pytest.fixture
def store(cohort: Path, tmp_path: Path) -> Store:
    manifest = read_manifest(cohort)
    images = [str(path) for path in manifest.image_paths()[: len(IDS)]]
    table = manifest.table.head(len(IDS)).assign(image_id=IDS, image=images)
    return prepare_again(write_manifest(table, tmp_path / "manifest.csv").path)


def prepare_again(manifest: Path) -> Store:
    return prepare(read_manifest(manifest), Framing(size=32), progress=False)


def test_ids_that_look_like_nothing_or_like_numbers_stay_text(store: Store) -> None:
    frames = store.frames()
    assert frames["image_id"].tolist() == store.image_ids == IDS
    assert all(frames[side].dtype.kind == "i" for side in ("left", "top", "right", "bottom"))


def test_a_store_of_another_version_is_refused_and_prepared_anew(
    store: Store, tmp_path: Path
) -> None:
    path = store.folder / "store.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "version": 1}))
    (store.folder / "frames.csv").unlink()  # there was none yet
    with pytest.raises(InputError, match="it is a store of version 1; .*data prepare"):
        open_store(store.folder)
    again = prepare_again(tmp_path / "manifest.csv")
    assert again.folder == store.folder
    assert json.loads(path.read_text())["version"] == VERSION
    assert again.frames()["image_id"].tolist() == IDS


@pytest.mark.parametrize("name", ["images.npy", "frames.csv", "checksums.npy"])
def test_a_store_that_lacks_a_file_is_refused(store: Store, name: str) -> None:
    (store.folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing.*Delete that folder first"):
        open_store(store.folder)
