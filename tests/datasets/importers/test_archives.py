from __future__ import annotations

import io
import random
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from boneage.datasets.importers.archives import DamagedArchiveError, unpack, unpacked_bytes
from boneage.errors import InputError

NOISE = random.Random(0).randbytes(5000)


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
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


def test_files_and_archives_inside_are_unpacked(tmp_path: Path) -> None:
    plain = {"V/1.png": b"one" * 999, "V/b/2.png": b"", "t.csv": b"id\n"}
    inner = {"set-1/3.png": b"3", "set-1/4.png": b"4"}
    archive = write(tmp_path, packed(plain | {"V/set-1.zip": packed(inner)}))
    counted: list[int] = []
    unpack(archive, tmp_path / "new" / "out", advance=counted.append)
    expected = plain | {f"V/{name}": content for name, content in inner.items()}
    assert files(tmp_path / "new" / "out") == expected
    assert sum(counted) <= unpacked_bytes(archive)
    assert archive.exists()


@pytest.mark.parametrize("name", ["../1.png", "a/../../1.png", "/etc/1.png"])
@pytest.mark.parametrize("is_inside", [False, True])
def test_nothing_is_written_outside(tmp_path: Path, name: str, is_inside: bool) -> None:
    (tmp_path / "in").mkdir()
    content = packed({"ok.png": b"1", name: b"2"})
    # An archive in a folder must not leave that folder either.
    text = refusal(write(tmp_path / "in", packed({"V/V.zip": content}) if is_inside else content))
    assert f"{name!r} leads outside the folder" in text
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_link_is_unpacked_as_a_file(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out" / "link.png").is_symlink()


def test_what_does_not_fit_the_disk_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 500_000))
    bomb = packed({f"{i}.png": bytes(100_000) for i in range(9)})
    for content in (bomb, packed({"a.zip": bomb})):
        assert "but 900.0 kB are needed" in refusal(write(tmp_path, content))


def damaged(kind: str) -> bytes:
    content = bytearray(packed({"1.png": NOISE, "2.png": b"2"}))
    match kind:
        case "lying size" | "encrypted":
            change, offset = ((10).to_bytes(4, "little"), 22) if kind != "encrypted" else (b"1", 6)
            for signature, at in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
                start = content.index(signature) + at
                content[start : start + len(change)] = change
        case "flipped bit":
            content[200] ^= 16
        case "page":
            return b"<html>Log in</html>" * 99
        case cut:
            return bytes(content[: int(cut)])
    return bytes(content)


@pytest.mark.parametrize("kind", ["lying size", "encrypted", "flipped bit", "page", "0", "4000"])
def test_a_damaged_archive_is_refused(tmp_path: Path, kind: str) -> None:
    archive = write(tmp_path, damaged(kind))
    with pytest.raises(DamagedArchiveError, match="damaged"):
        unpack(archive, tmp_path / "out")
    assert "Remove it and download it again" in refusal(archive)


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
