from __future__ import annotations

import os
from pathlib import Path

import pytest

from boneage.datasets.importers.folder import IMAGE_SUFFIXES, by_stem, files_below, with_suffix
from boneage.errors import InputError


def names(root: Path) -> list[str]:
    found = files_below(root, progress=False)
    return [str(path.relative_to(root.resolve())) for path in found]


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_files_are_found_at_any_depth_and_sorted(tmp_path: Path) -> None:
    make(tmp_path, "b/c/d/1.png", "a.csv", "b/2.png")
    assert names(tmp_path) == ["a.csv", "b/2.png", "b/c/d/1.png"]


def test_litter_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "__MACOSX/1.png", "a/__MACOSX/._1.png", "a/._1.png", ".cache/x", "a/1.png")
    assert names(tmp_path) == ["a/1.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipes_are_passed_over_and_links_to_files_are_not(tmp_path: Path) -> None:
    make(tmp_path / "root", "a.csv")
    make(tmp_path, "elsewhere.csv")
    os.mkfifo(tmp_path / "root" / "b.csv")
    (tmp_path / "root" / "c.csv").symlink_to(tmp_path / "root" / "b.csv")
    (tmp_path / "root" / "d.csv").symlink_to(tmp_path / "elsewhere.csv")
    (tmp_path / "root" / "e.csv").symlink_to(tmp_path / "nowhere.csv")
    assert names(tmp_path / "root") == ["a.csv", "d.csv", "e.csv"]


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path / "store", "images/1.png")
    (tmp_path / "store" / "images" / "up").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "link").symlink_to(tmp_path / "store", target_is_directory=True)
    assert names(tmp_path / "link") == ["images/1.png"]


def test_a_folder_that_is_not_there_or_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; expected the whole atlas"):
        files_below(tmp_path / "none", progress=False, layout="the whole atlas")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="it is not a folder"):
        files_below(tmp_path / "file", progress=False)


def test_a_folder_that_cannot_be_looked_into_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "open/1.png", "closed/2.png")
    import boneage.datasets.importers.folder as folder

    scandir = folder.os.scandir

    def refusing(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(folder.os, "scandir", refusing)
    with pytest.raises(
        InputError, match=r"closed: the folder can't be listed \(Permission denied\)"
    ):
        files_below(tmp_path, progress=False)


def test_suffixes_are_told_however_they_are_written(tmp_path: Path) -> None:
    make(tmp_path, "1.PNG", "2.jpg", "3.csv", "a/1.Jpeg")
    images = with_suffix(files_below(tmp_path, progress=False), IMAGE_SUFFIXES)
    assert [path.name for path in images] == ["1.PNG", "2.jpg", "1.Jpeg"]
    assert {stem: len(paths) for stem, paths in by_stem(images).items()} == {"1": 2, "2": 1}
