"""The benchmark `pipeline`: images per second into training, ours and the peers'."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.cli.output import JsonOption, log, refuse
from boneage.recipe import Augmentation
from boneage.runtime.provenance import usable_cores
from experiments.throughput.benchmark.contenders import BY_NAME, CONTENDERS, Setting
from experiments.throughput.benchmark.contest import Contest
from experiments.throughput.benchmark.radiographs import (
    find_radiographs,
    frame_radiographs,
    write_pictures,
    write_store,
)
from experiments.throughput.benchmark.result import (
    BatchOption,
    FileOption,
    ImagesOption,
    RoundsOption,
    Row,
    SecondsOption,
    SizeOption,
    WorkersOption,
    add_ratios,
    document,
    rates_row,
    show,
    significant,
)

EPOCH = 12_611
"""Images per epoch, as in the RSNA 2017 training set, so that the cost of an epoch's end counts as
much as in a training."""

STORE_ROWS = 2_048
"""Rows of the store: at 299 pixels 183 MB, more than the caches of a processor hold."""

WARM_SECONDS = 10.0

OURS = ("boneage-processes", "boneage-threads", "boneage-next")
"""The others are compared with the first of these that ran."""

COLUMNS = {
    "images_per_second": "images/s",
    "low": "low",
    "high": "high",
    "ratio": "ours / it",
    "cpu_seconds_per_1000": "CPU s/1,000",
    "peak_memory_mb": "memory, MB",
}


def bench_pipeline(
    size: SizeOption = 299,
    batch: BatchOption = 32,
    workers: WorkersOption = None,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 3.0,
    images: ImagesOption = None,
    contender: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this contender; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> dict[str, Any]:
    """Images per second into training: ours, tutorials', tf.data, PyTorch, grain, and the limit."""
    unknown = [name for name in contender or () if name not in BY_NAME]
    if unknown:
        refuse(f"--contender {', '.join(unknown)}", "unknown", f"Name one of {', '.join(BY_NAME)}.")
    chosen = [each for each in CONTENDERS if not contender or each.name in contender]
    contest = Contest(log)
    with tempfile.TemporaryDirectory(prefix="boneage-bench-") as temporary:
        log("making radiographs and store")
        paths, source = find_radiographs(images, Path(temporary) / "radiographs")
        setting = prepare_setting(Path(temporary), paths, size, batch, workers or usable_cores())
        try:
            contest.enter([each for each in chosen if not each.missing()], setting)
            contest.play(rounds, seconds, setting.least_batches)
        finally:
            contest.close()
    rows = [_row(contest, each.name) for each in chosen]
    ours = BY_NAME[next((name for name in OURS if contest.turns.get(name)), OURS[0])].title
    add_ratios(rows, ours)
    settings = {
        "size": size,
        "batch": batch,
        "workers": setting.workers,
        "rounds": rounds,
        "seconds": seconds,
        "radiographs": source,
        "images_an_epoch": setting.count,
        "store_rows": STORE_ROWS,
        "augmentation": Augmentation().model_dump(mode="json"),
        "ours": ours,
    }
    return show(document(settings, rows), COLUMNS, as_json, out)


def prepare_setting(
    folder: Path, radiographs: list[Path], size: int, batch: int, workers: int
) -> Setting:
    """Write what the contenders read into a folder."""
    framed = frame_radiographs(radiographs, size)
    write_store(folder / "store", STORE_ROWS, size, framed)
    return Setting(
        radiographs=tuple(map(str, radiographs)),
        pictures=tuple(map(str, write_pictures(folder / "pictures", framed))),
        store=str(folder / "store"),
        size=size,
        batch=batch,
        workers=workers,
        count=EPOCH,
        warm_seconds=WARM_SECONDS,
        least_batches=max(4, 4 * workers),  # several workers finish their batches together
    )


def _row(contest: Contest, name: str) -> Row:
    contender = BY_NAME[name]
    about = {"contender": name, "note": contender.note} if contender.note else {"contender": name}
    if contender.missing():
        return {"name": contender.title, **about, "skipped": contender.missing()}
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
