"""`boneage bench pipeline`: images a second into training, ours beside the peers'."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boneage.recipe import Augmentation
from experiments.throughput.benchmark.contenders import BY_NAME, CONTENDERS
from experiments.throughput.benchmark.contest import START_SECONDS, Contest
from experiments.throughput.benchmark.radiographs import (
    draw_radiographs,
    frame_radiographs,
    write_pictures,
    write_store,
)
from experiments.throughput.benchmark.result import (
    Row,
    add_ratios,
    document,
    rates_row,
    significant,
)
from experiments.throughput.benchmark.setting import Setting

EPOCH = 12_611
"""Images an epoch: as many as the RSNA 2017 training set has, so that what an epoch's turn costs is
in the rates as often as in a training."""

STORE_ROWS = 2_048
"""Rows of the store: at 299 pixels 183 MB, more than a processor's caches hold."""

DRAWN_RADIOGRAPHS = 32

OURS = ("boneage-processes", "boneage-threads", "boneage-next")
"""Which row the others are compared with: the first of these that ran."""

COLUMNS = {
    "images_per_second": "images/s",
    "low": "low",
    "high": "high",
    "ratio": "ours / it",
    "cpu_seconds_per_1000": "CPU s/1,000",
    "peak_memory_mb": "memory, MB",
}


def bench_pipeline(
    *,
    size: int,
    batch: int,
    workers: int,
    rounds: int,
    seconds: float,
    radiographs: Sequence[Path] = (),
    contenders: Sequence[str] = (),
    warm_seconds: float = 10.0,
    patience: float = START_SECONDS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures the contenders in turns.

    Args:
        size: Side of the pictures, pixels.
        batch: Images a batch.
        workers: Processes or threads of everyone who has some.
        rounds: Turns that each gets.
        seconds: Of each turn, at least.
        radiographs: Radiographs; phantoms in the usual size are drawn if there are none.
        contenders: Names; all if there are none.
        warm_seconds: How long each runs before its first turn.
        patience: Seconds that one may take to start.
        say: Shows what is being done.

    Returns:
        `machine`, `settings` and `rows`.

    Raises:
        InputError: A radiograph can't be read.
    """
    chosen = [one for one in CONTENDERS if not contenders or one.name in contenders]
    contest = Contest(say)
    with tempfile.TemporaryDirectory(prefix="boneage-bench-") as temporary:
        folder = Path(temporary)
        say("making radiographs and store")
        setting = prepare_setting(folder, radiographs, size, batch, workers, warm_seconds)
        path = folder / "setting.json"
        setting.write(path)
        try:
            for one in chosen:
                if not one.lacks():
                    contest.enter(one.name, path, patience)
            contest.play(rounds, seconds, setting.least_batches)
        finally:
            contest.close()
        rows = [_row(contest, one.name) for one in chosen]
        drawn = (
            ""
            if radiographs
            else f"{len(setting.radiographs)} phantom radiographs drawn in full size"
        )
    ours = next((name for name in OURS if contest.turns.get(name)), OURS[0])
    add_ratios(rows, BY_NAME[ours].title)
    settings = {
        "size": size,
        "batch": batch,
        "workers": workers,
        "rounds": rounds,
        "seconds": seconds,
        "films": drawn or f"{len(radiographs)} radiographs given",
        "images_an_epoch": setting.count,
        "store_rows": STORE_ROWS,
        "augmentation": Augmentation().model_dump(mode="json"),
        "ours": BY_NAME[ours].title,
    }
    return document(settings, rows)


def prepare_setting(
    folder: Path,
    radiographs: Sequence[Path],
    size: int,
    batch: int,
    workers: int,
    warm_seconds: float,
) -> Setting:
    """Makes radiographs, pictures and store in a folder, where they are not given."""
    paths = list(radiographs) or draw_radiographs(folder / "films", DRAWN_RADIOGRAPHS)
    framed = frame_radiographs(paths, size)
    write_store(folder / "store", STORE_ROWS, size, framed)
    pictures = write_pictures(folder / "pictures", framed)
    return Setting(
        radiographs=tuple(map(str, paths)),
        pictures=tuple(map(str, pictures)),
        store=str(folder / "store"),
        size=size,
        batch=batch,
        workers=workers,
        count=EPOCH,
        warm_seconds=warm_seconds,
        least_batches=max(4, 4 * workers),  # of several workers, batches come in bunches
    )


def _row(contest: Contest, name: str) -> Row:
    contender = BY_NAME[name]
    about = {"contender": name, "note": contender.note} if contender.note else {"contender": name}
    lacking = contender.lacks()
    if lacking:
        return {"name": contender.title, **about, "skipped": lacking}
    if name in contest.errors:
        return {"name": contender.title, **about, "error": contest.errors[name]}
    turns, process = contest.turns[name], contest.processes[name]
    spent = [1000 * turn["cpu_seconds"] / turn["images"] for turn in turns]
    return rates_row(
        contender.title,
        [turn["images"] / turn["seconds"] for turn in turns],
        cpu_seconds_per_1000=significant(statistics.median(spent)),
        peak_memory_mb=round(process.peak_memory_mb),
        batch=process.batch,
        **about,
    )
