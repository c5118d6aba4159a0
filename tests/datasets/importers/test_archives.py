from __future__ import annotations

import io
import random
import stat
import zipfile
from pathlib import Path

import pytest

from boneage.datasets.importers import archives
from boneage.datasets.importers.archives import DamagedArchiveError, unpack, unpacked_bytes
from boneage.errors import InputError

NOISE = random.Random(0).randbytes(5000)


def packed(members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def write(folder: Path, content: bytes) -> Path:
    path = folder / "x.zip"
    path.write_bytes(content)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refusal(archive: Path) -> str:
    with pytest.raises(InputError) as caught:
        unpack(archive, archive.parent / "out")
    assert [path.name for path in archive.parent.iterdir()] == [archive.name], "something is left"
    return str(caught.value)


def test_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    members = {"a/1.png": b"one" * 999, "a/b/2.png": b"", "train.csv": b"id\n"}
    litter = {"a/empty/": b"", "__MACOSX/._1.png": b"", "a/.DS_Store": b"", "a\\3.png": b""}
    archive = write(tmp_path, packed(members | litter))
    counted: list[int] = []
    unpack(archive, tmp_path / "new" / "out", advance=counted.append)
    assert files(tmp_path / "new" / "out") == members | {"a/3.png": b""}
    assert sum(counted) == unpacked_bytes(archive) == sum(map(len, members.values()))
    assert archive.exists()


def test_archives_inside_are_unpacked_one_level_deep(tmp_path: Path) -> None:
    first = packed({"set-1/1.png": b"1", "set-1/2.png": b"2"})
    second = packed({"3.png": b"3", "deep.zip": packed({"4.png": b"4"})}, method=0)
    members = {"V/set-1.zip": first, "V/set-2.zip": second, "V/t.csv": b"t", "V/set-2/5.png": b"5"}
    unpack(write(tmp_path, packed(members)), tmp_path / "V")
    found = files(tmp_path / "V")
    assert found.pop("set-2.zip/deep.zip").startswith(b"PK")
    assert found == {
        "set-1/1.png": b"1",
        "set-1/2.png": b"2",
        "set-2.zip/3.png": b"3",  # a folder set-2 is there already
        "set-2/5.png": b"5",
        "t.csv": b"t",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../1.png", "leaves the folder"),
        ("a/../../1.png", "leaves the folder"),
        ("..\\1.png", "leaves the folder"),
        ("/etc/1.png", "starts at a root"),
        ("C:\\1.png", "starts at a root"),
        ("C:1.png", "starts at a root"),
        ("\\\\host\\share\\1.png", "starts at a root"),
        ("OK.png", "its name is there twice"),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True])
def test_nothing_is_written_outside(
    tmp_path: Path, name: str, reason: str, is_inside: bool
) -> None:
    (tmp_path / "in").mkdir()
    content = packed({"ok.png": b"1", name: b"2"})
    text = refusal(write(tmp_path / "in", packed({"V.zip": content}) if is_inside else content))
    assert "can't be unpacked safely" in text
    assert reason in text
    assert ("x.zip: V.zip:" in text) == is_inside
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("mode", "reason"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "no file")])
def test_links_and_devices_are_refused(tmp_path: Path, mode: int, reason: str) -> None:
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert reason in refusal(tmp_path / "x.zip")


def test_a_bomb_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "SPARE_BYTES", 1000)
    bomb = packed({f"{i}.png": bytes(100_000) for i in range(9)})
    assert "would unpack to 9 files of 900.0 kB" in refusal(write(tmp_path, bomb))
    assert "x.zip: a.zip: it would" in refusal(write(tmp_path, packed({"a.zip": bomb}, method=0)))
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    assert "4 files" in refusal(write(tmp_path, packed(dict.fromkeys("abcd", b""))))


def damaged(kind: str) -> bytes:
    content = bytearray(packed({"1.png": NOISE, "2.png": b"2"}))
    match kind:
        case "lying size":
            for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
                at = content.index(signature) + offset
                content[at : at + 4] = (10).to_bytes(4, "little")
        case "flipped bit":
            content[200] ^= 16
        case "page":
            return b"<html>Log in</html>" * 99
        case cut:
            return bytes(content[: int(cut)])
    return bytes(content)


@pytest.mark.parametrize("kind", ["lying size", "flipped bit", "page", "0", "100", "4000", "-1"])
def test_a_damaged_archive_is_refused(tmp_path: Path, kind: str) -> None:
    archive = write(tmp_path, damaged(kind))
    with pytest.raises(DamagedArchiveError, match="damaged or cut off"):
        unpack(archive, tmp_path / "out")
    assert "Remove it and download it again" in refusal(archive)


def test_other_compression_and_encryption_are_refused(tmp_path: Path) -> None:
    text = refusal(write(tmp_path, packed({"1.png": b"1" * 99}, method=zipfile.ZIP_BZIP2)))
    assert "1.png: method 12" in text
    assert "Unpack it with another program" in text
    content = bytearray(packed({"1.png": b"1"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    assert "encrypted" in refusal(write(tmp_path, bytes(content)))


def test_ctrl_c_leaves_no_half_folder_and_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    archive = write(tmp_path, packed({"1.png": b"1"}))
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", advance=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "old.png").touch()
    unpack(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {"1.png": b"1"}
