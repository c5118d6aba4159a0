"""Stores made by processes: the same stores and faults, and nothing left of a dead process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from boneage.datasets.phantom.cohort import draw_hand
from boneage.errors import Fault, InputError
from boneage.pipeline import store_builder
from boneage.pipeline.store_builder import build
from boneage.pipeline.store_worker import Framer, FramerDiedError, FramingTask, Row, make_row
from boneage.recipe import Framing

FRAMING = Framing(size=64)
COUNT = 12

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes frame on POSIX alone")


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    for number in range(COUNT):
        hand = draw_hand(20 + 15 * number, "FM"[number % 2], rng=np.random.default_rng(number))
        assert cv2.imwrite(str(folder / f"{number}.png"), hand)
    return sorted(folder.glob("*.png"))


@pytest.fixture
def framer(tmp_path: Path) -> Iterator[Framer]:
    with (tmp_path / "images").open("w+b") as file:
        framer = Framer(file.fileno())
        yield framer
        framer.close()


def made(folder: Path, radiographs: list[Path], workers: int) -> list[bytes]:
    plan = {
        "image_ids": [radiograph.stem for radiograph in radiographs],
        "framing": {},
        "version": 0,
    }
    build(folder, plan, FRAMING, radiographs, [None] * len(radiographs), workers, None)
    return [(folder / name).read_bytes() for name in ("images.npy", "frames.csv", "checksums.npy")]


def test_processes_make_the_store_that_threads_make(
    radiographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_threads = made(tmp_path / "threads", radiographs, 2)
    monkeypatch.setattr(store_builder, "_PROCESSES_FROM_WORKERS", 2)
    monkeypatch.setattr(store_builder, "_PROCESSES_FROM_RADIOGRAPHS", COUNT)
    started: list[int] = []
    monkeypatch.setattr(store_builder, "Framer", lambda file: started.append(file) or Framer(file))
    assert made(tmp_path / "processes", radiographs, 2) == with_threads
    assert len(started) == 2
    made(tmp_path / "few films", radiographs[1:], 2)
    made(tmp_path / "one worker", radiographs, 1)
    assert len(started) == 2


def test_processes_find_the_faults_that_threads_find(
    radiographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(radiographs[0].read_bytes()[:-20])
    wanted = [*radiographs, broken, tmp_path / "missing.png"]
    found = []
    for least in (10**9, 1):
        monkeypatch.setattr(store_builder, "_PROCESSES_FROM_WORKERS", least)
        monkeypatch.setattr(store_builder, "_PROCESSES_FROM_RADIOGRAPHS", 1)
        with pytest.raises(InputError) as raised:
            made(tmp_path / "store", wanted, 2)
        found.append(raised.value.faults)
        assert not list(tmp_path.glob("store*"))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_a_dead_process_ends_the_preparation_and_the_finished_rows_are_kept(
    radiographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Framer):
        def make_row(self, task: FramingTask) -> Row:
            if task.path == radiographs[6]:
                raise FramerDiedError(Fault("the process", "it was killed by signal 9", "Wait."))
            return super().make_row(task)

    monkeypatch.setattr(store_builder, "_PROCESSES_FROM_WORKERS", 2)
    monkeypatch.setattr(store_builder, "_PROCESSES_FROM_RADIOGRAPHS", 1)
    monkeypatch.setattr(store_builder, "Framer", Dying)
    with pytest.raises(FramerDiedError, match="killed by signal 9"):
        made(tmp_path / "store", radiographs, 2)
    journal = np.load(tmp_path / "store.partial" / "journal.npy")
    assert 6 <= (journal >= 0).sum() < COUNT


def test_a_dead_process_is_no_fault_of_the_radiograph(
    framer: Framer, radiographs: list[Path]
) -> None:
    radiograph = FramingTask(radiographs[0], None, FRAMING, 0)
    framer.make_row(radiograph)
    max(psutil.Process().children(), key=psutil.Process.create_time).kill()
    with pytest.raises(FramerDiedError, match="killed by signal 9"):
        framer.make_row(radiograph)


def test_an_unforeseen_exception_reaches_the_parent(
    framer: Framer, radiographs: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(AttributeError, match="has no attribute"):
        framer.make_row(FramingTask(radiographs[0], None, "no framing", 0))  # type: ignore[arg-type]
    radiograph = FramingTask(radiographs[0], None, FRAMING, 0)
    with (tmp_path / "here").open("wb") as file:
        assert framer.make_row(radiograph) == make_row(radiograph, file.fileno())  # and it goes on


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from boneage.pipeline.store_worker import Framer; "
        "framer = Framer(sys.stdin.fileno()); print(flush=True); time.sleep(60)"
    )
    with (tmp_path / "images").open("w+b") as file:
        parent = subprocess.Popen(
            [sys.executable, "-c", script], stdin=file, stdout=subprocess.PIPE, text=True
        )
    assert parent.stdout is not None
    with parent.stdout:
        parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
