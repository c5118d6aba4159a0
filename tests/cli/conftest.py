"""The command line run in this process, as a user runs it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from boneage.cli.main import main

Answer = tuple[int, str, str]


@pytest.fixture
def boneage(monkeypatch, capsys, tmp_path) -> Callable[..., Answer]:
    """Run a command in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BONEAGE_RUNS", raising=False)

    def run(*arguments) -> Answer:
        monkeypatch.setattr(sys, "argv", ["boneage", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        else:
            code = 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def cohort_copy(cohort, tmp_path) -> Path:
    """A manifest that a test may spoil."""
    folder = tmp_path / "mine"
    shutil.copytree(cohort.parent, folder, ignore=shutil.ignore_patterns("*.store"))
    return folder / cohort.name


@pytest.fixture
def edit() -> Callable[..., Path]:
    """Replace values in a row of a manifest."""

    def edit(manifest: Path, row: int, **values) -> Path:
        table = pd.read_csv(manifest, dtype=str)
        for column, value in values.items():
            table.loc[row, column] = value
        table.to_csv(manifest, index=False)
        return manifest

    return edit


@pytest.fixture
def refused() -> Callable[..., None]:
    """Check that an answer is a refusal: exit code 2, no traceback, and these messages."""

    def refused(answer: Answer, *messages: str) -> None:
        code, out, err = answer
        assert code == 2
        assert out == ""
        assert "Traceback" not in err
        for message in messages:
            assert message in err

    return refused
