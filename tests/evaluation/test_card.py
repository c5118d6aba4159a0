from __future__ import annotations

import re
from pathlib import Path

import pytest

from boneage.errors import InputError
from boneage.evaluation.card import write_card


def test_a_card_is_one_page_without_network_or_pictures(cohort: Path, tmp_path: Path) -> None:
    page = write_card(cohort, tmp_path / "card.html", progress=False)
    html = page.read_text()
    assert page == tmp_path / "card.html"
    assert not re.findall(r'(?:src|href)="(?!#)', html)
    assert "data:image" not in html
    assert "https://" not in html.replace("http://www.w3.org", "")
    assert "$" not in html.partition("<body>")[2]
    assert "Bone age data card" in html
    assert "All 60 images were read and nothing is wrong" in html
    assert "no patient is in them" in html
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
    assert "Not to be used before this is mended" in html
    assert "names no public source" in html
    assert str(tmp_path) not in html


def test_what_is_no_table_has_a_card_too(tmp_path: Path) -> None:
    html = write_card(tmp_path / "none.csv", progress=False).read_text()
    assert "no table of images that could be read" in html


def test_a_card_that_cannot_be_written_is_said(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written"):
        write_card(cohort, tmp_path / "file" / "card.html", progress=False)
