from __future__ import annotations

import io
import shutil
import types
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import requests
from filelock import FileLock

from boneage.datasets.importers import http_download
from boneage.datasets.importers import rsna_download as download
from boneage.datasets.importers.rsna_download import ARCHIVES, OFFICIAL, download_rsna
from boneage.errors import InputError

TRAINING, VALIDATION, TEST, ANNOTATIONS = ARCHIVES


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_download, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(http_download, "BUSY_WAIT", 0.0)
    monkeypatch.setattr(http_download, "CHUNK", 50)


@pytest.fixture(scope="session")
def official_archives(official_tree: Path) -> dict[str, bytes]:
    """The challenge's four archives in miniature, packed as it packs them."""
    validation = _zip(official_tree, f"{VALIDATION}/*.csv")
    with zipfile.ZipFile(validation, "a") as file:
        for name in ("boneage-validation-dataset-1", "boneage-validation-dataset-2"):
            inner = _zip(official_tree / VALIDATION, f"{name}/*").getvalue()
            file.writestr(f"{VALIDATION}/{name}.zip", inner)
    return {
        TRAINING: _zip(official_tree, "boneage-training-dataset/*").getvalue(),
        VALIDATION: validation.getvalue(),
        TEST: _zip(official_tree, f"{TEST}/**/*").getvalue(),
        ANNOTATIONS: _zip(official_tree, "train.csv").getvalue(),
    }


def _zip(root: Path, pattern: str) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(root.glob(pattern)):
            file.write(path, path.relative_to(root))
    return buffer


@pytest.fixture
def site(web: Any, official_archives: dict[str, bytes]) -> Any:
    for name, content in official_archives.items():
        web.page(f"{name}.zip", content)
    return web


def fetched(web: Any) -> list[str]:
    return [name.removesuffix(".zip") for name, _ in web.gets()]


def run(out: Path, web: Any, **options: Any) -> Any:
    options = {"accept_terms": True, "progress": False} | options
    return download_rsna(out, base_url=web.address, **options)


def refusal(out: Path, web: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        run(out, web, **options)
    assert not (out / "manifest.csv").exists()
    return str(caught.value)


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()} - {".boneage-download.lock"}


def test_everything_is_downloaded_unpacked_and_imported_once(site: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "rsna"
    manifest = run(out, site)
    assert manifest.path == out / "manifest.csv"
    assert manifest.table["split"].value_counts().to_dict() == {"train": 30, "val": 12, "test": 6}
    assert set(manifest.table["source"]) == {"rsna-official"}
    assert all(path.is_file() for path in manifest.image_paths())
    assert names(out) == {*ARCHIVES, "manifest.csv"}
    assert (
        manifest.table["image"][30]
        == f"{VALIDATION}/{VALIDATION}/boneage-validation-dataset-1/1386.png"
    )
    site.asked.clear()
    assert run(out, site).digest == manifest.digest
    assert site.asked == []


def test_an_absent_archive_is_found_before_any_is_downloaded(site: Any, tmp_path: Path) -> None:
    site.pages[f"{ANNOTATIONS}.zip"].head_status = 404
    text = refusal(tmp_path, site)
    assert "Bone+Age+Training+Set+Annotations.zip: the server answered 404" in text
    assert site.gets() == []


def test_without_a_network_the_message_lists_the_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(session: object, method: str, url: str, **options: object) -> None:
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests.Session, "request", refuse)
    with pytest.raises(InputError) as caught:
        download_rsna(tmp_path, accept_terms=True, progress=False)
    text = str(caught.value)
    assert text.count(OFFICIAL) == 5
    assert f" {OFFICIAL}Bone+Age+Training+Set+Annotations.zip " in text
    assert f"boneage data download rsna {tmp_path} --accept-terms" in text
    assert names(tmp_path) == set()


@pytest.mark.parametrize("keep", [False, True])
def test_a_second_run_resumes(site: Any, tmp_path: Path, keep: bool) -> None:
    site.pages[f"{TEST}.zip"].faults += ["drop 500", *["drop 0"] * 4]
    assert "the transfer failed" in refusal(tmp_path, site, keep_archives=keep)
    assert fetched(site) == [TRAINING, VALIDATION, *[TEST] * 5]
    site.asked.clear()
    run(tmp_path, site, keep_archives=keep)
    assert site.gets() == [(f"{TEST}.zip", "bytes=500-"), (f"{ANNOTATIONS}.zip", None)]
    archives = {f"{name}.zip" for name in ARCHIVES} if keep else set()
    assert names(tmp_path) == {*ARCHIVES, *archives, "manifest.csv"}


def test_ctrl_c_says_how_to_resume_and_nothing_is_downloaded_twice(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "unpack", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, site, progress=True)
    output, error = capsys.readouterr()
    assert output == ""
    assert "of free disk space" in error
    assert f"To resume: boneage data download rsna {tmp_path} --accept-terms" in error
    assert names(tmp_path) == {f"{TRAINING}.zip.part"}
    run(tmp_path, site)
    assert capsys.readouterr() == ("", "")
    assert fetched(site).count(TRAINING) == 1
    assert names(tmp_path) == {*ARCHIVES, "manifest.csv"}


def test_archives_by_hand_are_used_and_stay(
    site: Any, tmp_path: Path, official_archives: dict[str, bytes]
) -> None:
    by_hand = {TRAINING: "Bone+Age+Training+Set.zip", TEST: "Bone Age Test Set.zip"}
    (tmp_path / f"{TRAINING}.zip.part").write_bytes(b"what an earlier run received")
    for name, called in by_hand.items():
        (tmp_path / called).write_bytes(official_archives[name])
    run(tmp_path, site)
    assert fetched(site) == [VALIDATION, ANNOTATIONS]
    assert names(tmp_path) == {*ARCHIVES, *by_hand.values(), "manifest.csv"}
    for name in ARCHIVES:
        shutil.rmtree(tmp_path / name)
        (tmp_path / f"{name}.zip").write_bytes(official_archives[name])
    assert len(run(tmp_path, types.SimpleNamespace(address="http://127.0.0.1:1/"))) == 48


def test_a_damaged_archive_stays_if_it_came_by_hand_and_is_downloaded_again_if_not(
    site: Any, tmp_path: Path, official_archives: dict[str, bytes]
) -> None:
    archive = tmp_path / "Bone+Age+Test+Set.zip"
    archive.write_bytes(official_archives[TEST][:-50])
    text = refusal(tmp_path, site)
    assert f"{archive}: the archive is damaged" in text
    assert archive.exists()
    archive.unlink()
    page = site.pages[f"{TEST}.zip"]
    good, page.content = page.content, b"<html>Log in first</html>"
    assert "The archive was removed. Run the same command again" in refusal(tmp_path, site)
    page.content = good
    assert len(run(tmp_path, site)) == 48


def test_disk_space_is_checked_before_anything_is_downloaded(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {TRAINING: 9.6e9, VALIDATION: 1.1e9, TEST: 0.17e9, ANNOTATIONS: 1e5}

    def ask(session: object, url: str) -> http_download.Remote:
        name = url.rsplit("/", 1)[1].removesuffix(".zip").replace("+", " ")
        return http_download.Remote(url, int(sizes[name]), "")

    monkeypatch.setattr(download, "ask", ask)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 19_000_000_000))
    assert "19.0 GB left, but 21.0 GB are needed" in refusal(tmp_path, site)
    assert "22.3 GB are needed" in refusal(tmp_path, site, keep_archives=True)
    assert site.gets() == []


def test_nothing_is_done_before_the_terms_are_accepted(site: Any, tmp_path: Path) -> None:
    text = refusal(tmp_path / "out", site, accept_terms=False)
    assert "no redistribution" in text
    assert "--accept-terms" in text
    assert site.asked == []
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_and_a_file_are_refused(site: Any, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".boneage-download.lock"):
        assert "another download into this folder is running" in refusal(tmp_path, site)
    (tmp_path / "out").touch()
    assert "it can't be written" in refusal(tmp_path / "out", site)
