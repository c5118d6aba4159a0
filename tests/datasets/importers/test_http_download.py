from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from boneage.datasets.importers import http_download
from boneage.datasets.importers.http_download import ask, fetch, open_session
from boneage.errors import InputError

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_download, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(http_download, "BUSY_WAIT", 0.0)
    monkeypatch.setattr(http_download, "CHUNK", 50)


class Job:
    """One download, and the bytes that it counted."""

    def __init__(self, web: Any, folder: Path) -> None:
        self.web, self.part, self.counted = web, folder / "a.zip.part", 0

    def run(self) -> bytes:
        with open_session() as session:
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
    job.web.page("a.zip", CONTENT, ["drop 100000", "drop 50", "drop 0", "drop 200000"])
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)
    asked = [None, "bytes=100000-", "bytes=100050-", "bytes=100050-", "bytes=300050-"]
    assert job.ranges() == asked
    assert job.run() == CONTENT, "the whole part is not downloaded again"
    assert job.ranges() == asked


def test_the_next_run_resumes_after_too_many_failures(job: Job) -> None:
    job.web.page("a.zip", CONTENT, ["drop 100000", *["drop 0"] * 4])
    text = job.refusal()
    assert "100,000 of 512,000 bytes have come, then the transfer failed 4 times in a row" in text
    job.web.asked.clear()
    assert job.run() == CONTENT
    assert job.ranges() == ["bytes=100000-"]


def test_a_server_that_ignores_the_range_makes_it_start_again(job: Job) -> None:
    job.web.page("a.zip", CONTENT, ["drop 100000", "ignore range"])
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)
    job.part.write_bytes(CONTENT + b"longer than the file")
    assert job.run() == CONTENT


def test_a_file_that_changes_on_the_server_is_never_mixed(job: Job) -> None:
    page = job.web.page("a.zip", CONTENT, ["drop 100000", "change"])
    assert "the size is wrong" in job.refusal()
    assert job.run() == page.content != CONTENT


@pytest.mark.parametrize(("status", "tries"), [(503, 5), (429, 5), (404, 1)])
def test_a_busy_server_is_asked_again_and_a_refusal_is_final(
    job: Job, status: int, tries: int
) -> None:
    job.web.page("a.zip", CONTENT, [f"status {status}"] * (tries - 1))
    assert job.run() == CONTENT
    job.part.unlink()
    page = job.web.page("a.zip", CONTENT, [f"status {status}"] * 9)
    assert f"a.zip: the server answered {status}" in job.refusal()
    assert len(page.faults) == 9 - tries
    page.head_status = status
    assert f"a.zip: the server answered {status}" in job.refusal()


def test_no_server_and_no_size_are_faults(job: Job) -> None:
    job.web.page("a.zip", b"")
    assert "does not say how large the file is" in job.refusal()
    job.web.address = "http://127.0.0.1:1/"
    assert "the server can't be reached (" in job.refusal()


def test_a_full_disk_and_ctrl_c_keep_the_part(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.web.page("a.zip", CONTENT)
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):

        def fail(number: int, error: BaseException = error) -> None:
            job.counted += number
            if job.counted >= 1000:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(job, "count", fail)
            with pytest.raises((KeyboardInterrupt, InputError)):
                job.run()
        kept = job.part.stat().st_size
        assert 1000 <= kept < len(CONTENT)
    assert job.run() == CONTENT
    assert job.ranges()[-1] == f"bytes={kept}-"
