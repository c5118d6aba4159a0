"""Small conditions to measure under."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.throughput.benchmark.contenders import Setting
from experiments.throughput.benchmark.radiographs import (
    draw_radiographs,
    frame_radiographs,
    write_pictures,
    write_store,
)

SIZE = 48


@pytest.fixture(scope="session")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four small radiographs. Read only."""
    return draw_radiographs(tmp_path_factory.mktemp("radiographs"), 4, (160, 120))


@pytest.fixture(scope="session")
def setting(radiographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """The conditions of a contender: batches of 4, 10 images per epoch."""
    folder = tmp_path_factory.mktemp("setting")
    rows = frame_radiographs(radiographs, SIZE)
    write_store(folder / "store", 8, SIZE, rows)
    return Setting(
        radiographs=tuple(map(str, radiographs)),
        pictures=tuple(map(str, write_pictures(folder / "pictures", rows))),
        store=str(folder / "store"),
        size=SIZE,
        batch=4,
        workers=1,
        count=10,
        warm_seconds=0.0,
        least_batches=1,
    )
