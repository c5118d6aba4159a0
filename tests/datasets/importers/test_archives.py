from __future__ import annotations

import io
import random
import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from boneage.datasets.importers import archives
from boneage.datasets.importers.archives import (
    DamagedArchiveError,
    in_words,
    unpack,
    unpacked_bytes,
)
from boneage.errors import InputError


def packed(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refusal(archive: Path) -> str:
    out = archive.parent / "out"
    with pytest.raises(InputError) as caught:
        unpack(archive, out)
    assert sorted(p.name for p in archive.parent.iterdir()) == [archive.name], "something is left"
    return str(caught.value)


def test_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    members = {"a/1.png": b"one" * 999, "a/b/2.png": b"", "train.csv": b"id\n"}
    archive = write(tmp_path / "x.zip", packed(members | {"a/empty/": b""}))
    counted: list[int] = []
    unpack(archive, tmp_path / "new" / "out", advance=counted.append)
    assert files(tmp_path / "new" / "out") == members
    assert sum(counted) == unpacked_bytes(archive) == sum(map(len, members.values()))
    assert archive.exists()


def test_archives_inside_are_unpacked_beside_and_not_kept(tmp_path: Path) -> None:
    first = packed({"set-1/1.png": b"1", "set-1/2.png": b"2"})
    second = packed({"3.png": b"3"}, method=zipfile.ZIP_STORED)
    archive = write(
        tmp_path / "x.zip", packed({"V/set-1.zip": first, "V/set-2.zip": second, "V/t.csv": b"t"})
    )
    unpack(archive, tmp_path / "V")
    assert files(tmp_path / "V") == {
        "set-1/1.png": b"1",
        "set-1/2.png": b"2",
        "set-2/3.png": b"3",
        "t.csv": b"t",
    }


def test_an_archive_inside_goes_aside_where_its_folder_is_there_too(tmp_path: Path) -> None:
    inner = packed({"1.png": b"1"})
    unpack(write(tmp_path / "x.zip", packed({"s.zip": inner, "s/2.png": b"2"})), tmp_path / "o")
    assert files(tmp_path / "o") == {"s.zip/1.png": b"1", "s/2.png": b"2"}


def test_no_deeper_than_archives_in_an_archive(tmp_path: Path) -> None:
    deep = packed({"a.zip": packed({"b.zip": packed({"1.png": b"1"})})})
    unpack(write(tmp_path / "x.zip", deep), tmp_path / "out")
    assert list(files(tmp_path / "out")) == ["a/b.zip"]


def test_litter_is_passed_over(tmp_path: Path) -> None:
    members = {"__MACOSX/._1.png": b"x", "a/.DS_Store": b"x", "a/1.png": b"1"}
    unpack(write(tmp_path / "x.zip", packed(members)), tmp_path / "out")
    assert files(tmp_path / "out") == {"a/1.png": b"1"}


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    unpack(write(tmp_path / "x.zip", packed({"a\\b\\1.png": b"1"})), tmp_path / "out")
    assert files(tmp_path / "out") == {"a/b/1.png": b"1"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../1.png", "climbs out"),
        ("a/../../1.png", "climbs out"),
        ("..\\1.png", "climbs out"),
        ("/etc/1.png", "starts at a root"),
        ("\\1.png", "starts at a root"),
        ("C:\\1.png", "starts at a root"),
        ("C:1.png", "starts at a root"),
        ("\\\\host\\share\\1.png", "starts at a root"),
    ],
)
def test_nothing_is_written_outside(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "in").mkdir()
    text = refusal(write(tmp_path / "in" / "x.zip", packed({"ok.png": b"1", name: b"2"})))
    assert "can't be unpacked safely" in text
    assert reason in text
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_same_holds_for_archives_inside(tmp_path: Path) -> None:
    inner = packed({"../../1.png": b"2"})
    text = refusal(write(tmp_path / "x.zip", packed({"V/inner.zip": inner})))
    assert "x.zip: V/inner.zip: it can't be unpacked safely" in text


@pytest.mark.parametrize(("mode", "reason"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "no file")])
def test_links_and_devices_are_refused(tmp_path: Path, mode: int, reason: str) -> None:
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert reason in refusal(tmp_path / "x.zip")


def test_a_name_twice_is_refused_however_it_is_spelt(tmp_path: Path) -> None:
    text = refusal(write(tmp_path / "x.zip", packed({"a/1.png": b"1", "A\\1.PNG": b"2"})))
    assert "it stands twice" in text


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    refusal(write(tmp_path / "x.zip", packed({"a": b"1", "a/1.png": b"2"})))


def test_an_archive_that_would_fill_the_disk_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "SPARE_BYTES", 1000)
    bomb = packed({f"{i}.png": bytes(100_000) for i in range(9)})
    text = refusal(write(tmp_path / "x.zip", bomb))
    assert "it would unpack to 9 files of 900 kB in all" in text
    text = refusal(write(tmp_path / "x.zip", packed({"a.zip": bomb}, method=0)))
    assert "x.zip: a.zip: it would unpack to" in text
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    assert "4 files" in refusal(write(tmp_path / "x.zip", packed(dict.fromkeys("abcd", b""))))


def test_a_size_that_is_a_lie_writes_no_more_than_it_said(tmp_path: Path) -> None:
    content = bytearray(packed({"1.png": bytes(500_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = (10).to_bytes(4, "little")
    assert "damaged" in refusal(write(tmp_path / "x.zip", bytes(content)))


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, archives.SPARE_BYTES + 9))
    text = refusal(write(tmp_path / "x.zip", packed({"1.png": b"0123456789"})))
    assert "67.1 MB free on its disk; expected 67.1 MB to unpack" in text


@pytest.mark.parametrize("end", [0, 3, 100, 4000, -1, -30])
def test_an_archive_that_is_cut_off_is_damaged(tmp_path: Path, end: int) -> None:
    noise = random.Random(0).randbytes(5000)
    content = packed({"1.png": noise, "2.png": b"2"})
    archive = write(tmp_path / "x.zip", content[:end])
    with pytest.raises(DamagedArchiveError, match="damaged or cut off"):
        unpack(archive, tmp_path / "out")
    assert "fetch it again" in refusal(archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_is_found(tmp_path: Path, method: int) -> None:
    noise = random.Random(0).randbytes(5000)
    content = bytearray(packed({"1.png": noise}, method=method))
    content[200] ^= 16
    with pytest.raises(DamagedArchiveError, match="1.png"):
        unpack(write(tmp_path / "x.zip", bytes(content)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_page_that_came_instead_is_no_archive(tmp_path: Path) -> None:
    assert "damaged" in refusal(write(tmp_path / "x.zip", b"<html>Log in</html>" * 99))


def test_other_ways_of_packing_are_told(tmp_path: Path) -> None:
    content = packed({"1.png": b"1" * 99}, method=zipfile.ZIP_BZIP2)
    text = refusal(write(tmp_path / "x.zip", content))
    assert "1.png: method 12" in text
    assert "Unpack it with another program" in text


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    content = bytearray(packed({"1.png": b"1"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    assert "encrypted" in refusal(write(tmp_path / "x.zip", bytes(content)))


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "old.png").touch()
    unpack(write(tmp_path / "x.zip", packed({"1.png": b"1"})), tmp_path / "out")
    assert files(tmp_path / "out") == {"1.png": b"1"}


def test_ctrl_c_leaves_nothing_half_unpacked(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    archive = write(tmp_path / "x.zip", packed({"1.png": b"1"}))
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", advance=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_sizes_in_words() -> None:
    assert [in_words(n) for n in (7, 1500, 999_000, 170_000_000, 9_600_000_000)] == [
        "7 bytes",
        "1.5 kB",
        "999 kB",
        "170 MB",
        "9.6 GB",
    ]
