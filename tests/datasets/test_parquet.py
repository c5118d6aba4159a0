"""A damaged Parquet file is refused, and never ends the process that asks for it."""

from __future__ import annotations

import io
import sys

import pandas as pd
import pytest

from boneage.datasets import parquet
from boneage.datasets.parquet import decode_parquet
from boneage.errors import InputError

MOST = (100, 1000, 1 << 20)


@pytest.fixture(scope="module")
def content() -> bytes:
    frame = pd.DataFrame(
        {"file": [f"{i}.png" for i in range(40)], "age": range(40), "is_male": [True, False] * 20}
    )
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        decode_parquet(content, "a.parquet", most=MOST)
    return str(caught.value)


def test_the_columns_are_text(content: bytes) -> None:
    table = decode_parquet(content, "a.parquet", most=MOST)
    assert (table.rows, table.cells) == (40, 120)
    assert table.names == ["file", "age", "is_male"]
    assert table.columns[0][:2] == ["0.png", "1.png"]
    assert table.columns[2][:2] == ["True", "False"]


def test_of_a_table_that_is_too_large_only_the_sizes_are_read(content: bytes) -> None:
    table = decode_parquet(content, "a.parquet", most=(39, 1000, 1 << 20))
    assert (table.rows, table.columns) == (40, [])


def test_a_decoder_that_dies_or_never_ends_is_a_fault(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "MAX_SECONDS", 0)
        assert "it can't be read as Parquet within 0 s" in refusal(content)
    monkeypatch.setattr(sys, "executable", "false")
    assert "(the decoder ended with status 1). Write it again" in refusal(content)
