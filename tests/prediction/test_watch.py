from __future__ import annotations

import os
import sqlite3
import time
from itertools import islice

import pytest

from boneage.errors import InputError
from boneage.prediction import watch
from boneage.prediction.watch import watch_folder


class EndError(Exception):
    """The test has seen enough scans."""


@pytest.fixture
def scans(monkeypatch):
    """What happens after each scan, in place of the wait for the next one."""
    steps = []

    def sleep(seconds: float) -> None:
        if not steps:
            raise EndError
        steps.pop(0)()

    monkeypatch.setattr("boneage.prediction.watch.time.sleep", sleep)
    return steps


@pytest.fixture
def names(tmp_path, scans):
    """Watch a folder while some things happen to it; returns the files, in sorted order."""
    folder = tmp_path / "in"
    folder.mkdir()

    def names(*steps, ledger="ledger.sqlite", log=lambda text: None):
        scans[:] = [*steps, lambda: None]
        found = []
        files = watch_folder(folder, tmp_path / ledger, log=log)
        with pytest.raises(EndError):
            found.extend(str(path.relative_to(folder)) for path in files)
        return sorted(found)

    return names


def test_each_file_is_answered_once_also_after_a_restart(names, tmp_path):
    (tmp_path / "in" / "sub" / "deep").mkdir(parents=True)
    for name in ("a.dcm", "sub/b", "sub/deep/c.png"):
        (tmp_path / "in" / name).write_bytes(b"x")
    late = tmp_path / "in" / "late.dcm"
    wait = lambda: None  # noqa: E731
    found = names(wait, wait, lambda: late.write_bytes(b"x"), wait)
    assert found == ["a.dcm", "late.dcm", "sub/b", "sub/deep/c.png"]
    assert names(wait) == []
    assert names(wait, ledger="other.sqlite") == found


def test_a_file_is_answered_when_it_has_stopped_growing_and_again_when_it_changes(names, tmp_path):
    file = tmp_path / "in" / "a.dcm"

    def grow() -> None:
        with file.open("ab") as stream:
            stream.write(b"x")

    sizes = []
    wait = lambda: sizes.append(file.stat().st_size)  # noqa: E731
    assert names(grow, grow, grow) == ["a.dcm"]
    assert names(wait, wait) == []
    assert names(wait, grow, wait) == ["a.dcm"]
    assert sizes == [3, 3, 3, 4]


def test_unfinished_and_hidden_files_and_links_are_passed_over(names, tmp_path):
    for name in ("a.dcm.part", ".a.dcm.x1", "b.TMP", "c.filepart"):
        (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "in" / "link.dcm").symlink_to(__file__)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe")
    rename = lambda: (tmp_path / "in" / "a.dcm.part").rename(tmp_path / "in" / "a.dcm")  # noqa: E731
    assert names(rename, lambda: None) == ["a.dcm"]


def test_a_file_whose_answer_was_interrupted_is_answered_again(tmp_path, scans):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / name).write_bytes(b"x")
    scans[:] = [lambda: None] * 9
    files = watch_folder(tmp_path / "in", tmp_path / "ledger.sqlite")
    first, second = islice(files, 2)
    files.close()
    again = watch_folder(tmp_path / "in", tmp_path / "ledger.sqlite")
    assert next(again) == second != first
    again.close()


def test_an_answer_that_was_kept_before_a_kill_is_not_given_again(tmp_path, scans):
    (tmp_path / "in").mkdir()
    kept, other = tmp_path / "in" / "a", tmp_path / "in" / "b"
    for path in (kept, other):
        path.write_bytes(b"x")
    answered = kept, kept.stat().st_mtime_ns
    for number, expected in enumerate(([other], [kept, other])):
        scans[:] = [lambda: None] * 3
        files = watch_folder(tmp_path / "in", tmp_path / f"{number}.sqlite", answered=answered)
        found = []
        with pytest.raises(EndError):
            found.extend(files)
        assert sorted(found) == expected
        os.utime(kept, (time.time() + 9,) * 2)  # it was written again


def test_a_folder_that_is_gone_for_a_time_ends_nothing(names, tmp_path):
    folder, away = tmp_path / "in", tmp_path / "away"
    (folder / "a").write_bytes(b"x")
    said = []
    back = lambda: away.rename(folder)  # noqa: E731
    assert names(lambda: folder.rename(away), back, lambda: None, log=said.append) == ["a"]
    assert [line.partition("the folder ")[2] for line in said] == [
        "can't be read; waiting for it",
        "is reachable again",
    ]


def test_few_files_are_remembered_between_scans(names, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_MOST_PENDING", 3)
    for number in range(10):
        (tmp_path / "in" / str(number)).write_bytes(b"x")
    assert len(names(*[lambda: None] * 8)) == 10


def test_faults_are_reported(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"x")
    ledger = tmp_path / "ledger.sqlite"
    with pytest.raises(InputError, match="no such folder to watch"):
        next(watch_folder(tmp_path / "absent", ledger))
    with pytest.raises(InputError, match="lies in the folder that is watched"):
        next(watch_folder(tmp_path / "in", tmp_path / "in" / "out" / "ledger.sqlite"))
    ledger.write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="is damaged"):
        next(watch_folder(tmp_path / "in", ledger))
    ledger.unlink()
    files = watch_folder(tmp_path / "in", ledger, interval=0)
    next(files)
    with pytest.raises(InputError, match="If another watch uses it"):
        next(watch_folder(tmp_path / "in", ledger))
    files.close()
    with sqlite3.connect(ledger) as database:
        database.execute("DROP TABLE answered")
        database.execute("CREATE TABLE answered (path TEXT)")
    database.close()
    with pytest.raises(InputError, match="can't be used"):
        next(watch_folder(tmp_path / "in", ledger))
