from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import boneage
from boneage.errors import InputError
from boneage.evaluation.data_card import FAULT_WORDS, write_card


def write_manifest(folder: Path, rows: Sequence[str]) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(["image_id,image,age_months,sex,split", *rows]))
    return path


def card_of(manifest: Path) -> str:
    """The page as one line, so that the templates may wrap their text."""
    return re.sub(r"[ \n]+", " ", write_card(manifest, progress=False).read_text(encoding="utf-8"))


def test_a_card_is_one_page_without_network_or_images(cohort: Path, tmp_path: Path) -> None:
    page = write_card(cohort, tmp_path / "card.html", progress=False)
    assert page == tmp_path / "card.html"
    html = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!#)', html)
    assert "data:image" not in html
    assert "https://" not in html.replace("http://www.w3.org", "")
    assert not re.search(r"{[{%]|[%}]}", html)
    assert str(cohort.parent) not in html  # a card is passed on: no folder of this machine
    for words in (
        "Bone age data card",
        "All 60 images were read.",
        "No problems were found",
        "They show no patients",
        f"{datetime.datetime.now(datetime.UTC):%Y-}",
    ):
        assert words in html


def test_faults_are_grouped_by_kind_with_ids_behind_a_fold(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    rows = [f"{name},{name}.png,30,F,train" for name in "abc"]
    html = card_of(write_manifest(tmp_path, [*rows, "<d>,d.png,900,x,val"]))
    assert (tmp_path / "manifest-card.html").exists()
    assert "<summary>Empty files</summary>" in html
    assert "<p>a, b, c</p>" in html
    assert "&lt;d&gt;" in html
    assert "<d>" not in html
    assert "0 of 4 images were read. Correct these errors before use: " in html
    assert "; and 1 more kinds." in html
    assert "names no public source" in html
    assert str(tmp_path) not in html


@pytest.mark.parametrize("content", [None, b"", b"\0" * 99, b"PK\3\4", b"image_id,image\n"])
def test_a_file_that_is_no_table_has_no_card(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv"):
        write_card(path, progress=False)
    assert not (tmp_path / "a-card.html").exists()


def test_a_card_that_can_not_be_written_is_a_fault(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="no file can be written"):
        write_card(cohort, tmp_path / "file" / "x", progress=False)


def test_impossible_ages_are_left_out_of_the_figure_and_the_summaries(tmp_path: Path) -> None:
    ages = ["1e20", "999", "-5", "60", "120"]
    html = card_of(
        write_manifest(tmp_path, [f"{i},{i}.png,{a},F,train" for i, a in enumerate(ages)])
    )
    for words in (
        "Girls (2)",
        "from 5\xa0y\xa00\xa0m to 10\xa0y\xa00\xa0m",
        "90.0 ± 30.0",
        "images affected: 5",
    ):
        assert words in html


def test_images_in_other_folders_are_named_without_their_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "of a person"
    for folder in (elsewhere, tmp_path / "a"):
        folder.mkdir()
    (elsewhere / "b.png").touch()
    rows = [f"b,{elsewhere}/b.png,60,F,train", f"c,{elsewhere}/c.png,60,F,train"]
    rows.append(f"{elsewhere}/d.png,d.png,60,x,train")
    html = card_of(write_manifest(tmp_path / "a", rows))
    assert str(tmp_path) not in html
    assert "of a person" not in html
    assert "there is no image c.png" in html
    assert "image b.png: " in html


def test_every_kind_with_words_exists() -> None:
    package = Path(boneage.__file__).parent
    files = [path for path in package.rglob("*.py") if path.stem != "data_card"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [code for code in FAULT_WORDS if f'"{code}"' not in source] == []
