from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

import boneage
from boneage.errors import InputError
from boneage.evaluation.data_card import FAULT_WORDS, write_card


def test_a_card_is_one_page_without_network_or_pictures(cohort: Path, tmp_path: Path) -> None:
    page = write_card(cohort, tmp_path / "card.html", progress=False)
    html = page.read_text()
    assert page == tmp_path / "card.html"
    assert not re.findall(r'(?:src|href)="(?!#)', html)
    assert "data:image" not in html
    assert "https://" not in html.replace("http://www.w3.org", "")
    assert not re.search(r"{[{%]|[%}]}", html)
    assert "Bone age data card" in html
    assert "All 60 images were read. No problems were found" in html
    assert "They show no patients" in html
    assert f"{datetime.datetime.now(datetime.UTC):%Y-}" in html
    assert str(cohort.parent) not in html  # a card is passed on: no folder of this machine


def test_faults_are_grouped_by_kind_with_ids_behind_a_fold(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    rows = [f"{name},{name}.png,30,F,train" for name in "abc"]
    path = tmp_path / "manifest.csv"
    path.write_text(
        "\n".join(["image_id,image,age_months,sex,split", *rows, "<d>,d.png,900,x,val"])
    )
    page = write_card(path, progress=False)
    assert page == tmp_path / "manifest-card.html"
    html = page.read_text()
    assert "<summary>Empty files</summary>" in html
    assert "<p>a, b, c</p>" in html
    assert "&lt;d&gt;" in html
    assert "<d>" not in html
    assert "Correct these errors before use" in html
    assert "names no public source" in html
    assert str(tmp_path) not in html


def test_what_is_no_table_has_a_card_too(tmp_path: Path) -> None:
    html = write_card(tmp_path / "none.csv", progress=False).read_text()
    assert "could not be read as a table of images" in html


def test_a_card_that_cannot_be_written_is_said(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written"):
        write_card(cohort, tmp_path / "file" / "card.html", progress=False)


def test_absurd_ages_are_left_out_of_the_figure_and_the_summaries(tmp_path: Path) -> None:
    ages = ["1e20", "999", "-5", "60", "120"]
    rows = [f"{i},{i}.png,{age},F,train" for i, age in enumerate(ages)]
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(["image_id,image,age_months,sex,split", *rows]))
    html = write_card(path, progress=False).read_text()
    assert "Girls (2)" in html
    assert "5.0 to 10.0 years" in html
    assert "90.0 ± 30.0" in html
    assert "images affected: 5" in html


def test_images_elsewhere_are_told_by_name_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "of a person"
    for folder in (elsewhere, tmp_path / "a"):
        folder.mkdir()
    (elsewhere / "b.png").touch()
    rows = [f"b,{elsewhere}/b.png,60,F,train", f"c,{elsewhere}/c.png,60,F,train"]
    path = tmp_path / "a" / "manifest.csv"
    path.write_text("\n".join(["image_id,image,age_months,sex,split", *rows]))
    html = write_card(path, progress=False).read_text()
    assert str(tmp_path) not in html
    assert "of a person" not in html
    assert "there is no image c.png. Paths start from" in html
    assert "image b.png: " in html


def test_every_kind_with_words_is_one_that_there_is() -> None:
    package = Path(boneage.__file__).parent
    files = [path for path in package.rglob("*.py") if path.stem != "data_card"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [code for code in FAULT_WORDS if f'"{code}"' not in source] == []
