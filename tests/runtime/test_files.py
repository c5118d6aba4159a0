import os
from pathlib import Path

import pytest

from boneage.errors import InputError
from boneage.runtime.files import (
    check_file_writable,
    check_folder_writable,
    is_lost_with_container,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
    write_text,
)


def test_json_is_written_whole_and_read_back(tmp_path):
    path = tmp_path / "deep" / "run.json"
    write_json(path, {"name": "é", "seed": 1})
    assert read_json(path) == {"name": "é", "seed": 1}
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "report.html"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_refused_by_its_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"below: it can't be written .*. Free some disk space"):
        write_bytes(tmp_path / "file" / "below", b"x")


def test_a_pipe_a_device_and_a_large_file_are_refused_at_once(tmp_path):
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"1234")
    for path in (pipe, Path("/dev/zero"), tmp_path, tmp_path / "null\0name", tmp_path / "missing"):
        with pytest.raises(InputError):
            read_bytes(path)
    assert read_bytes(large, 4) == b"1234"
    with pytest.raises(InputError, match="4 bytes, more than the limit of 3"):
        read_bytes(large, 3)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": ' + "9" * 5000 + "}", "[1]", "{", "\xff", ""])
def test_json_that_is_damaged_or_nested_deeply_is_a_fault(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"run\.json"):
        read_json(path)


def test_a_folder_is_writable_when_a_file_can_be_made_in_it_or_next_to_it(tmp_path):
    check_folder_writable(tmp_path)
    check_folder_writable(tmp_path / "new" / "one")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    names = ("file", "file/below", "x" * 300)
    for folder in (*(tmp_path / name for name in names), Path("/proc/self/new")):
        with pytest.raises(InputError, match="no file can be written to this folder"):
            check_folder_writable(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_a_folder_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, what in (("pipe", "a pipe or a device"), ("folder", "a folder")):
        for write in (check_file_writable, lambda path: write_text(path, "")):
            with pytest.raises(InputError, match=f"{name}: it is {what}"):
                write(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_folder_is_lost_with_the_container_only_in_an_image_and_without_a_volume(
    tmp_path, monkeypatch
):
    assert not is_lost_with_container(tmp_path)
    monkeypatch.setenv("BONEAGE_IMAGE", "cpu")
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) in {"/", str(tmp_path / "runs")})
    assert is_lost_with_container(tmp_path / "mine")
    assert not is_lost_with_container(tmp_path / "runs" / "mine")  # neither exists yet
