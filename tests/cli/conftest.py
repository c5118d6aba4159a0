from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest


@pytest.fixture
def edit() -> Callable[..., Path]:
    """Replace values in a row of a manifest."""

    def edit(manifest: Path, row: int, **values: str) -> Path:
        table = pd.read_csv(manifest, dtype=str)
        for column, value in values.items():
            table.loc[row, column] = value
        table.to_csv(manifest, index=False)
        return manifest

    return edit


@pytest.fixture
def refused() -> Callable[..., None]:
    """Check that an answer is a refusal: exit code 2, no traceback, and these messages."""

    def refused(answer: tuple[int, str, str], *messages: str) -> None:
        code, out, err = answer
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        for message in messages:
            assert message in err

    return refused
