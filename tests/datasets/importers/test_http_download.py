from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import requests

from boneage.datasets.importers import http_download
from boneage.datasets.importers.http_download import ask, fetch, record_of
from boneage.errors import InputError

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_download, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(http_download, "CHUNK", 50)


class Job:
    """One download, and the bytes that it counted."""

    def __init__(self, web: Any, folder: Path) -> None:
        self.web, self.part, self.counted = web, folder / "a.zip.part", 0

    def run(self) -> bytes:
        with requests.Session() as session:
            remote = ask(session, self.web.address + "a.zip")
            fetch(session, remote, self.part, advance=self.count)
        return self.part.read_bytes()

    def count(self, number: int) -> None:
        self.counted += number

    def refusal(self) -> str:
        with pytest.raises(InputError) as caught:
            self.run()
        return str(caught.value)

    def ranges(self) -> list[str | None]:
        return [part for _, part in self.web.gets()]


@pytest.fixture
def job(web: Any, tmp_path: Path) -> Job:
    return Job(web, tmp_path)


def test_a_broken_connection_resumes_where_it_stopped(job: Job) -> None:
    job.web.page("a.zip", CONTENT, faults=["drop 100000", "drop 50", "drop 0", "drop 200000"])
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)
    asked = [None, "bytes=100000-", "bytes=100050-", "bytes=100050-", "bytes=300050-"]
    assert job.ranges() == asked
    job.counted = 0
    assert job.run() == CONTENT, "the whole part is not downloaded again"
    assert job.ranges() == asked
    assert job.counted == len(CONTENT)


def test_the_next_run_resumes_after_too_many_failures(job: Job) -> None:
    job.web.page("a.zip", CONTENT, faults=["drop 100000", *["drop 0"] * 4])
    text = job.refusal()
    assert "100,000 of 512,000 bytes have come, then the transfer failed 4 times in a row" in text
    assert "Run the same command again to resume" in text
    job.web.asked.clear()
    job.counted = 0
    assert job.run() == CONTENT
    assert job.ranges() == ["bytes=100000-"]
    assert job.counted == len(CONTENT)


@pytest.mark.parametrize("fault", ["ignore range", "416", "from 5", "short 10"])
def test_a_confused_server_makes_it_start_again(job: Job, fault: str) -> None:
    job.web.page("a.zip", CONTENT, faults=["drop 100000", fault])
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)
    job.web.page("a.zip", CONTENT + b"!", faults=["short 10"] * 9)
    assert "the file changes on the server" in job.refusal()


def test_a_file_that_changes_on_the_server_is_never_mixed(job: Job) -> None:
    page = job.web.page("a.zip", CONTENT, faults=["drop 100000", "change"])
    assert job.run() == page.content != CONTENT
    assert job.counted == len(page.content)
    page.content, page.etag = b"new" * 9, '"new"'
    assert job.run() == page.content


def test_without_an_etag_nothing_is_pieced_together(job: Job) -> None:
    job.web.page("a.zip", CONTENT, etag=None, faults=["drop 100000", "drop 100"])
    assert job.run() == CONTENT
    assert job.ranges() == [None, None, None]


@pytest.mark.parametrize("record", [None, '{"url": 3}{', "[]"])
def test_a_part_without_a_sound_record_is_not_used(job: Job, record: str | None) -> None:
    job.web.page("a.zip", CONTENT)
    job.part.write_bytes(b"something else")
    if record:
        record_of(job.part).write_text(record)
    assert job.run() == CONTENT


@pytest.mark.parametrize(("status", "tries"), [(500, 4), (503, 4), (429, 4), (401, 1), (404, 1)])
def test_a_busy_server_is_asked_again_and_a_refusal_is_final(
    job: Job, status: int, tries: int
) -> None:
    page = job.web.page("a.zip", CONTENT, faults=[f"status {status}"] * (tries - 1))
    assert job.run() == CONTENT
    page = job.web.page("a.zip", CONTENT + b"!", etag='"2"', faults=[f"status {status}"] * 9)
    assert f"a.zip: the server answered {status}" in job.refusal()
    assert len(page.faults) == 9 - tries
    page.head_status = status
    assert f"a.zip: the server answered {status}" in job.refusal()


def test_no_server_and_no_size_are_faults(job: Job) -> None:
    job.web.page("a.zip", b"")
    assert "does not say how large the file is" in job.refusal()
    job.web.address = "http://127.0.0.1:1/"
    text = job.refusal()
    assert "the server can't be reached (" in text
    assert "Check the network" in text


def test_a_full_disk_and_ctrl_c_keep_the_part(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.web.page("a.zip", CONTENT)
    counted: list[int] = []

    def stop(number: int) -> None:
        counted.append(number)
        if sum(counted) == 1000:
            raise KeyboardInterrupt

    def full(number: int) -> None:
        if number and number != 1000:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(job, "count", stop)
        with pytest.raises(KeyboardInterrupt):
            job.run()
        assert job.part.stat().st_size == 1000
        patch.setattr(job, "count", full)
        assert "a.zip.part: it can't be written (No space left on device)" in job.refusal()
    kept = job.part.stat().st_size
    assert kept >= 1000
    assert job.run() == CONTENT
    assert job.ranges()[-1] == f"bytes={kept}-"
