"""The page as static files: what is written, what is refused, and its answers in Chromium."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError
from boneage.prediction.predict import load
from boneage.prediction.shipped import open_run
from boneage.serving import site
from boneage.serving.site import PACKAGES, write_site

ARCHIVES = "BONEAGE_NPM_ARCHIVES"
RSNA_BEST = Path("rsna-best")


def fake_archive(folder: Path, package: site.Package) -> site.Package:
    """Write an archive with a line of text in every file; return the package with its checksum."""
    with tarfile.open(folder / package.archive, "w:gz") as archive:
        for name in package.members:
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    content = (folder / package.archive).read_bytes()
    return replace(package, sha512=base64.b64encode(hashlib.sha512(content).digest()).decode())


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    monkeypatch.setattr(site, "PACKAGES", [fake_archive(folder, each) for each in PACKAGES])
    return folder


def test_a_folder_with_all_files_is_written(tmp_path: Path, archives: Path) -> None:
    out = tmp_path / "out"
    write_site(out, open_run(RSNA_BEST), views=1, packages=archives)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    expected = {"index.html", "page/client.js", "runtime/opencv.js", "model/model.onnx"}
    assert expected <= found
    page = (out / "index.html").read_text()
    assert "default-src 'none'" in page
    assert 'data-text="drop.no-server"' in page
    worker = (out / "service_worker.js").read_text()
    kept = set(json.loads(worker.partition("const FILES = ")[2].partition(";")[0]))
    assert kept == (found | {"./"}) - {"service_worker.js"}
    assert "new Worker" in (out / "page" / "client.js").read_text()
    assert (out / "runtime" / "opencv.js").read_text() == "dist/opencv.js"
    assert json.loads((out / "model" / "model.json").read_text())["views"] == 1


def test_no_address_of_another_computer_is_in_our_files() -> None:
    for path in (Path(site.__file__).parent / "browser").iterdir():
        assert "://" not in path.read_text(), path.name


def test_another_archive_is_refused(tmp_path: Path, archives: Path) -> None:
    (archives / PACKAGES[1].archive).write_bytes(b"something else")
    with pytest.raises(InputError, match="it is another file: its sha512 is"):
        write_site(tmp_path / "out", open_run(RSNA_BEST), packages=archives)
    (archives / PACKAGES[1].archive).unlink()
    with pytest.raises(InputError, match="techstark-opencv-js"):
        write_site(tmp_path / "out", open_run(RSNA_BEST), packages=archives)
    assert not (tmp_path / "out").exists()


def test_a_model_with_another_framing_is_refused(tmp_path: Path, archives: Path) -> None:
    with pytest.raises(InputError, match="its framing.upright is quarters, not fine"):
        write_site(tmp_path / "out", open_run(Path("rsna-best-1")), packages=archives)


def test_without_npm_the_other_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="npm is missing.*--packages"):
        write_site(tmp_path / "out", open_run(RSNA_BEST))


@pytest.fixture
def real_archives() -> Path:
    if ARCHIVES not in os.environ:
        pytest.skip(f"{ARCHIVES} names no folder with the archives of npm")
    return Path(os.environ[ARCHIVES])


@pytest.fixture
def static_server(tmp_path: Path, real_archives: Path) -> Iterator[Any]:
    write_site(tmp_path / "out", open_run(RSNA_BEST), views=2, packages=real_archives)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "out")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


ASK = """
const [text, sex, done] = arguments;
const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
import(new URL("page/client.js", document.baseURI))
  .then((client) => client.predict({file: new File([bytes], "a.png"), sex, months: 120}))
  .then(done, (problem) => done({status: problem.status, reason: problem.detail}));
"""


def radiographs() -> dict[str, np.ndarray]:
    upright = phantom(3, 0, 256).image
    colour = cv2.merge([upright, np.roll(upright, 1, 0), np.roll(upright, 1, 1)])
    deep = phantom(8, 2, 400).image.astype(np.uint16) * 16
    return {
        "upright": upright,
        "inverted": 255 - upright,
        "turned": np.ascontiguousarray(np.rot90(phantom(5, 1, 300).image)),
        "deep": deep,
        "colour": colour,
        "two": np.hstack([upright, upright[:, ::-1]]),
        "blank": np.full((64, 64), 7, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 255, (200, 160)).astype(np.uint8),
    }


def test_the_browser_answers_as_the_server_also_without_a_network(
    chromium: Any, static_server: Any, tmp_path: Path
) -> None:
    estimator = load("rsna-best", views=2)
    chromium.set_script_timeout(180)
    chromium.get(f"http://127.0.0.1:{static_server.server_port}/")
    for count, (name, radiograph) in enumerate(radiographs().items()):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), radiograph)
        text = base64.b64encode(path.read_bytes()).decode()
        found = chromium.execute_async_script(ASK, text, "F")
        expected = estimator.predict(path, "F", 120).as_dict()
        pictures = found.pop("page")
        assert pictures["radiograph"]["width"] == radiograph.shape[1]
        for key in ("status", "reason", "reason_code", "age", "findings", "models"):
            assert found[key] == expected[key], (name, key)
        assert found.keys() == expected.keys()
        if expected["status"] == "answered":
            months = found["predicted_age_months"]
            assert months == pytest.approx(expected["predicted_age_months"], abs=0.1), name
            assert found["interval"] == pytest.approx(expected["interval"], abs=0.2)
        if count == 2:
            static_server.shutdown()
            static_server.server_close()
            chromium.refresh()
    refused = chromium.execute_async_script(ASK, base64.b64encode(b"no image").decode(), "F")
    assert refused["status"] == 422
    assert "PNG and JPEG only" in refused["reason"]
