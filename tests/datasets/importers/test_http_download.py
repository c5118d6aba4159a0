from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import requests

from boneage.datasets.importers import http_download as transfer
from boneage.datasets.importers.http_download import ask, fetch
from boneage.errors import InputError

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transfer, "_CHUNK", 50)


class Job:
    """One fetch, and what it counted."""

    def __init__(self, web: Any, folder: Path) -> None:
        self.web, self.target, self.counted = web, folder / "a.zip", 0

    def run(self) -> bytes:
        with requests.Session() as session:
            remote = ask(session, self.web.address + "a.zip")
            fetch(session, remote, self.target, advance=self.count)
        return self.target.read_bytes()

    def count(self, number: int) -> None:
        self.counted += number

    def refusal(self) -> str:
        with pytest.raises(InputError) as caught:
            self.run()
        assert not self.target.exists()
        return str(caught.value)

    @property
    def part(self) -> Path:
        return self.target.with_name("a.zip.part")


@pytest.fixture
def job(web: Any, tmp_path: Path) -> Job:
    return Job(web, tmp_path)


def test_a_file_is_fetched_in_one_go(job: Job) -> None:
    job.web.page("a.zip", CONTENT)
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)
    assert job.web.gets() == [("a.zip", None)]
    assert not job.part.exists()


def test_a_dropped_connection_is_taken_up_where_it_stopped(job: Job) -> None:
    job.web.page("a.zip", CONTENT, faults=["drop 100000", "drop 50", "drop 0", "drop 200000"])
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)
    asked = [part for _, part in job.web.gets()]
    assert asked == [None, "bytes=100000-", "bytes=100050-", "bytes=100050-", "bytes=300050-"]


def test_a_run_that_was_killed_is_taken_up_by_the_next(job: Job) -> None:
    page = job.web.page("a.zip", CONTENT, faults=["drop 100000", *["drop 0"] * 4])
    text = job.refusal()
    assert "the connection failed 4 times in a row" in text
    assert "512,000 bytes; 100,000 have come" in text
    assert "run the same command again to go on" in text
    assert page.faults == []
    job.web.asked.clear()
    job.counted = 0
    assert job.run() == CONTENT
    assert job.web.gets() == [("a.zip", "bytes=100000-")]
    assert job.counted == len(CONTENT)


def test_a_server_that_ignores_the_range_makes_it_start_anew(job: Job) -> None:
    job.web.page("a.zip", CONTENT, faults=["drop 100000", "ignore range"])
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)


@pytest.mark.parametrize("fault", ["416", "from 5"])
def test_a_server_that_confuses_the_range_makes_it_start_anew(job: Job, fault: str) -> None:
    job.web.page("a.zip", CONTENT, faults=["drop 100000", fault])
    assert job.run() == CONTENT
    assert job.counted == len(CONTENT)
    assert job.web.gets()[-1] == ("a.zip", None)


def test_a_file_that_changes_on_the_server_is_never_mixed_with_its_former_self(job: Job) -> None:
    page = job.web.page("a.zip", CONTENT, faults=["drop 100000", "change"])
    assert job.run() == page.content != CONTENT
    assert job.counted == len(page.content)


def test_a_file_that_changed_since_the_last_run_is_fetched_anew(job: Job) -> None:
    page = job.web.page("a.zip", CONTENT, faults=["drop 100000", *["drop 0"] * 4])
    job.refusal()
    page.content, page.etag = b"new" * 9, '"new"'
    assert job.run() == page.content


def test_without_an_etag_nothing_is_pieced_together(job: Job) -> None:
    job.web.page("a.zip", CONTENT, etag=None, faults=["drop 100000", "drop 100"])
    assert job.run() == CONTENT
    assert [part for _, part in job.web.gets()] == [None, None, None]
    assert job.counted == len(CONTENT)


def test_a_part_of_which_nothing_is_known_is_not_trusted(job: Job) -> None:
    job.web.page("a.zip", CONTENT)
    job.part.write_bytes(b"something else")
    assert job.run() == CONTENT


def test_a_record_that_was_cut_short_is_not_trusted(job: Job) -> None:
    job.web.page("a.zip", CONTENT, faults=["drop 100000", *["drop 0"] * 4])
    job.refusal()
    transfer.record_of(job.target).write_text(json.dumps({"url": 3}) + "{")
    assert job.run() == CONTENT


def test_a_server_that_says_another_length_is_not_believed(job: Job) -> None:
    job.web.page("a.zip", CONTENT, faults=["short 10"])
    assert job.run() == CONTENT
    job.web.page("a.zip", CONTENT + b"!", etag='"2"', faults=["short 10"] * 9)
    job.target.unlink()
    assert "the file changes on the server while it is fetched" in job.refusal()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(job: Job, status: int) -> None:
    job.web.page("a.zip", CONTENT, faults=[f"status {status}"] * 3)
    assert job.run() == CONTENT
    job.target.unlink()
    job.web.page("a.zip", CONTENT, faults=[f"status {status}"] * 4)
    assert f"the server answered {status}" in job.refusal()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_is_not_asked_again(job: Job, status: int) -> None:
    page = job.web.page("a.zip", CONTENT, faults=[f"status {status}"] * 4)
    assert f"a.zip: the server answered {status}" in job.refusal()
    assert len(page.faults) == 3
    page.head_status = status
    assert f"a.zip: the server answered {status}" in job.refusal()
    assert len(page.faults) == 3


def test_a_server_that_is_not_there(job: Job) -> None:
    job.web.address = "http://127.0.0.1:1/"
    text = job.refusal()
    assert "it can't be reached (" in text
    assert "refused" in text
    assert "Check the network" in text


def test_an_empty_file_is_none(job: Job) -> None:
    job.web.page("a.zip", b"")
    assert "the server doesn't say how large it is" in job.refusal()


def test_a_full_disk_is_told_and_the_part_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.web.page("a.zip", CONTENT)

    def full(number: int) -> None:
        if number:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job, "count", full)
    assert "a.zip.part: it can't be written (No space left on device)" in job.refusal()
    assert job.part.exists()


def test_ctrl_c_keeps_the_part(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.web.page("a.zip", CONTENT)
    counted: list[int] = []

    def stop(number: int) -> None:
        counted.append(number)
        if sum(counted) == 1000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "count", stop)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    assert job.part.stat().st_size == 1000
    assert job.run() == CONTENT
    assert job.web.gets()[-1] == ("a.zip", "bytes=1000-")
