import pytest

from boneage.errors import InputError
from boneage.runtime.files import read_json, write_bytes, write_json, write_text


def test_json_is_written_whole_and_read_back(tmp_path):
    path = tmp_path / "deep" / "run.json"
    write_json(path, {"name": "é", "seed": 1})
    assert read_json(path) == {"name": "é", "seed": 1}
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_broken_json_is_refused_with_its_path(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        read_json(path)


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
