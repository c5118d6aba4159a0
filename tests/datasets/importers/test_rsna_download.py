from __future__ import annotations

import io
import shutil
import sys
import types
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import requests
from filelock import FileLock

from boneage.datasets.importers import http_download as transfer
from boneage.datasets.importers import rsna_download as download
from boneage.datasets.importers.rsna_download import ARCHIVES, OFFICIAL, download_rsna
from boneage.errors import InputError

TRAINING, VALIDATION, TEST, ANNOTATIONS = ARCHIVES


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transfer, "_CHUNK", 50)


@pytest.fixture(scope="session")
def official_archives(official_tree: Path) -> dict[str, bytes]:
    """The challenge's four archives in miniature, packed as it packs them."""
    inner = [f"boneage-validation-dataset-{number}" for number in "12"]
    validation = _zip(official_tree, f"{VALIDATION}/*.csv")
    with zipfile.ZipFile(validation, "a") as file:
        for name in inner:
            folder = official_tree / VALIDATION
            file.writestr(f"{VALIDATION}/{name}.zip", _zip(folder, f"{name}/*").getvalue())
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
    return download_rsna(out, accept_terms=True, progress=False, base_url=web.address, **options)


def refusal(out: Path, web: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        run(out, web, **options)
    assert not (out / "manifest.csv").exists()
    return str(caught.value)


def seen(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if not path.name.startswith(".")}


def test_everything_is_fetched_unpacked_and_imported(site: Any, tmp_path: Path) -> None:
    manifest = run(tmp_path / "new" / "rsna", site)
    assert manifest.path == tmp_path / "new" / "rsna" / "manifest.csv"
    assert manifest.table["split"].value_counts().to_dict() == {"train": 30, "val": 12, "test": 6}
    assert set(manifest.table["source"]) == {"rsna-official"}
    assert all(path.is_file() for path in manifest.image_paths())
    assert seen(manifest.path.parent) == {*ARCHIVES, "manifest.csv"}
    assert manifest.table["image"][30] == f"{VALIDATION}/boneage-validation-dataset-1/1386.png"
    assert "12 labelled images; the challenge's validation set has 1,425." in manifest.notes


def test_the_addresses_are_the_challenges_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def head(session: object, url: str, **options: object) -> None:
        asked.append(url)
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests.Session, "head", head)
    with pytest.raises(InputError) as caught:
        download_rsna(tmp_path, accept_terms=True, progress=False)
    text = str(caught.value)
    for name in ("Training+Set", "Training+Set+Annotations", "Validation+Set", "Test+Set"):
        url = f"https://s3.amazonaws.com/east1.public.rsna.org/AI/2017/Bone+Age+{name}.zip"
        assert f"\n  {url}\n" in text
    assert OFFICIAL in asked[0]
    assert f"put them into {tmp_path} as they are, still packed" in text
    assert f"boneage data download rsna {tmp_path} --accept-terms" in text
    assert not list(tmp_path.glob("*.part"))


def test_a_second_run_fetches_nothing(site: Any, tmp_path: Path) -> None:
    first = run(tmp_path, site).digest
    site.asked.clear()
    assert run(tmp_path, site).digest == first
    assert site.asked == []


@pytest.mark.parametrize("keep", [False, True])
def test_what_was_unpacked_or_fetched_before_is_not_fetched_again(
    site: Any, tmp_path: Path, keep: bool
) -> None:
    site.pages[f"{TEST}.zip"].faults += ["drop 500", *["drop 0"] * 3]
    assert "the connection failed" in refusal(tmp_path, site, keep_archives=keep)
    assert fetched(site) == [TRAINING, VALIDATION, *[TEST] * 4]
    site.asked.clear()
    run(tmp_path, site, keep_archives=keep)
    assert site.gets() == [(f"{TEST}.zip", "bytes=500-"), (f"{ANNOTATIONS}.zip", None)]
    archives = {f"{name}.zip" for name in ARCHIVES} if keep else set()
    assert seen(tmp_path) == {*ARCHIVES, *archives, "manifest.csv"}


def test_archives_fetched_by_hand_are_used_and_stay(
    site: Any, tmp_path: Path, official_archives: dict[str, bytes]
) -> None:
    names = {TRAINING: "Bone+Age+Training+Set.zip", TEST: "Bone Age Test Set.zip"}
    for name, called in names.items():
        (tmp_path / called).write_bytes(official_archives[name])
    run(tmp_path, site)
    assert fetched(site) == [VALIDATION, ANNOTATIONS]
    assert seen(tmp_path) == {*ARCHIVES, *names.values(), "manifest.csv"}


def test_an_archive_fetched_by_hand_takes_the_place_of_a_part(
    site: Any, tmp_path: Path, official_archives: dict[str, bytes]
) -> None:
    site.pages[f"{TRAINING}.zip"].faults += ["drop 500", *["drop 0"] * 3]
    refusal(tmp_path, site)
    (tmp_path / f"{TRAINING}.zip").write_bytes(official_archives[TRAINING])
    run(tmp_path, site)
    assert seen(tmp_path) == {*ARCHIVES, f"{TRAINING}.zip", "manifest.csv"}
    assert [path.name for path in tmp_path.glob(".*")] == [".boneage-download.lock"]


def test_a_run_killed_before_it_unpacked_goes_on_from_there(site: Any, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "unpack", lambda *args, **options: sys.exit())
        with pytest.raises(SystemExit):
            run(tmp_path, site)
    assert seen(tmp_path) == {f"{TRAINING}.zip"}
    site.asked.clear()
    run(tmp_path, site)
    assert TRAINING not in fetched(site)
    assert seen(tmp_path) == {*ARCHIVES, "manifest.csv"}


def test_with_all_archives_by_hand_no_network_is_needed(
    tmp_path: Path, official_archives: dict[str, bytes]
) -> None:
    for name, content in official_archives.items():
        (tmp_path / f"{name.replace(' ', '+')}.zip").write_bytes(content)
    nowhere = types.SimpleNamespace(address="http://127.0.0.1:1/")
    assert len(run(tmp_path, nowhere)) == 48


def test_an_archive_by_hand_that_is_cut_off_is_named_and_left(
    site: Any, tmp_path: Path, official_archives: dict[str, bytes]
) -> None:
    archive = tmp_path / "Bone+Age+Test+Set.zip"
    archive.write_bytes(official_archives[TEST][:-50])
    text = refusal(tmp_path, site)
    assert f"{archive}: the archive is damaged or cut off" in text
    assert "Remove it, and fetch it again." in text
    assert archive.exists()


def test_an_archive_that_came_damaged_is_fetched_anew(site: Any, tmp_path: Path) -> None:
    page = site.pages[f"{TEST}.zip"]
    good, page.content = page.content, b"<html>Log in first</html>"
    text = refusal(tmp_path, site)
    assert "damaged or cut off" in text
    assert "It was removed: run the same command again" in text
    page.content = good
    assert len(run(tmp_path, site)) == 48


@pytest.mark.parametrize("status", [403, 404])
def test_an_archive_that_is_not_there_is_told_before_any_is_fetched(
    site: Any, tmp_path: Path, status: int
) -> None:
    site.pages[f"{ANNOTATIONS}.zip"].head_status = status
    text = refusal(tmp_path, site)
    assert f"Bone+Age+Training+Set+Annotations.zip: the server answered {status}" in text
    assert "To do it by hand" in text
    assert site.gets() == []


def test_the_disk_is_looked_at_before_anything_is_fetched(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = dict(zip(ARCHIVES, (9.6e9, 1.1e9, 0.17e9, 1e5), strict=True))
    remotes = {name: transfer.Remote("", int(size), "") for name, size in sizes.items()}
    monkeypatch.setattr(download, "_ask_all", lambda *args: remotes)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 19_000_000_000))
    text = refusal(tmp_path, site)
    assert "there are 19.0 GB free on its disk; expected 19.7 GB for the archives" in text
    assert "23.2 GB for the archives" in refusal(tmp_path, site, keep_archives=True)
    assert site.gets() == []


def test_ctrl_c_says_how_to_go_on(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch", stop)
    with pytest.raises(KeyboardInterrupt):
        download_rsna(tmp_path, accept_terms=True, base_url=site.address)
    error = capsys.readouterr().err
    assert f"What has come is kept in {tmp_path}; to go on: boneage data download rsna" in error


def test_progress_is_told_on_standard_error_only(
    site: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download_rsna(tmp_path / "loud", accept_terms=True, base_url=site.address)
    loud = capsys.readouterr()
    assert loud.out == ""
    assert f"Fetching {TRAINING}" in loud.err
    assert f"Unpacking {VALIDATION}" in loud.err
    run(tmp_path / "quiet", site)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_done_before_the_terms_are_accepted(site: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        download_rsna(tmp_path / "out", accept_terms=False, base_url=site.address)
    text = str(caught.value)
    for part in ("non-commercial research only", "no redistribution", "Halabi", "--accept-terms"):
        assert part in text
    assert site.asked == []
    assert not (tmp_path / "out").exists()


def test_another_source_is_refused(site: Any, tmp_path: Path) -> None:
    assert "source: 'google'; expected rsna or kaggle" in refusal(tmp_path, site, source="google")


def test_two_downloads_into_one_folder_are_refused(site: Any, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".boneage-download.lock"):
        assert "another download into it is running" in refusal(tmp_path, site)
    assert len(run(tmp_path, site)) == 48


def test_a_folder_that_is_a_file(site: Any, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert "it can't be written to" in refusal(tmp_path / "out", site)


@pytest.fixture
def kagglehub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for the package, which gives the Kaggle layout in its cache."""
    hub: Any = types.ModuleType("kagglehub")
    hub.exceptions = types.ModuleType("kagglehub.exceptions")
    for name in (
        "UnauthenticatedError",
        "CredentialError",
        "KaggleEnvironmentError",
        "NotFoundError",
        "BackendError",
        "DataCorruptionError",
    ):
        setattr(hub.exceptions, name, type(name, (Exception,), {}))

    def dataset_download(handle: str) -> str:
        import os

        folder = Path(os.environ["KAGGLEHUB_CACHE"]) / "datasets" / handle / "versions" / "2"
        images = folder / "boneage-training-dataset" / "boneage-training-dataset"
        images.mkdir(parents=True, exist_ok=True)
        rows = ["id,boneage,male"]
        for i in range(20):
            (images / f"{1377 + i}.png").touch()
            rows.append(f"{1377 + i},{60 + i},True")
        (folder / "boneage-training-dataset.csv").write_text("\n".join(rows))
        (folder.parent / "2.complete").touch()
        return str(folder)

    hub.dataset_download = dataset_download
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    monkeypatch.setitem(sys.modules, "kagglehub.exceptions", hub.exceptions)
    monkeypatch.setattr(download, "_KAGGLE_BYTES", 0)
    monkeypatch.delenv("KAGGLEHUB_CACHE", raising=False)
    return hub  # type: ignore[no-any-return]


def kaggle(out: Path) -> Any:
    return download_rsna(out, source="kaggle", accept_terms=True, progress=False)


def test_kaggle_is_the_second_source(kagglehub: Any, tmp_path: Path) -> None:
    import os

    manifest = kaggle(tmp_path / "out")
    assert manifest.path == tmp_path / "out" / "manifest.csv"
    assert len(manifest) == 20
    assert set(manifest.table["source"]) == {"rsna-kaggle"}
    assert all(tmp_path / "out" in path.parents for path in manifest.image_paths())
    assert "KAGGLEHUB_CACHE" not in os.environ


def test_without_kagglehub_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(InputError, match=r"pip install kagglehub"):
        kaggle(tmp_path)


@pytest.mark.parametrize("kind", ["network", "UnauthenticatedError", "NotFoundError"])
def test_kaggle_refusing_says_what_to_do(kagglehub: Any, tmp_path: Path, kind: str) -> None:
    raised = (
        requests.ConnectionError("no route")
        if kind == "network"
        else getattr(kagglehub.exceptions, kind)("User is not authenticated\nmore")
    )

    def refuse(handle: str) -> str:
        raise raised

    kagglehub.dataset_download = refuse
    with pytest.raises(InputError) as caught:
        kaggle(tmp_path)
    text = str(caught.value)
    assert "Kaggle's kmader/rsna-bone-age: it can't be fetched (" in text
    assert "KAGGLE_USERNAME" in text
    assert f"boneage data import rsna {tmp_path} --out {tmp_path / 'manifest.csv'}" in text


def test_kaggle_too_needs_room(
    kagglehub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_KAGGLE_BYTES", 10**18)
    with pytest.raises(InputError, match="Kaggle's archive and what it unpacks to"):
        kaggle(tmp_path)
