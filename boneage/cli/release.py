"""`boneage release`: make a released model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boneage.cli.output import (
    JsonOption,
    RunArgument,
    ViewsOption,
    print_json,
    refuse,
    renamed_option,
)

STORAGES = ("float16", "float32")


def release(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder to make; its name is the model's name.")],
    storage: Annotated[
        str, typer.Option(help="Type of the stored weights: float16 (default) or float32.")
    ] = STORAGES[0],
    views: ViewsOption = None,
    note: Annotated[
        str, typer.Option(help="Text for the model card about the training radiographs.")
    ] = "",
    max_megabytes: Annotated[
        float,
        typer.Option(
            "--max-megabytes", min=0, help="Largest total size of the files (default 12)."
        ),
    ] = 12.0,
    most_megabytes: Annotated[
        str | None, renamed_option("--most-megabytes", "--max-megabytes")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a small released model of a run, with its card, scores and checksums."""
    if storage not in STORAGES:
        refuse(f"--storage {storage}", f"it is neither {' nor '.join(STORAGES)}", "See --help.")
    from boneage.evaluation.release import release as make_release
    from boneage.prediction.shipped import RELEASE_NAME, open_run
    from boneage.runtime.files import read_json

    made = make_release(
        open_run(run),
        out,
        storage="float16" if storage == "float16" else "float32",
        views=views,
        note=note,
        max_bytes=round(1e6 * max_megabytes),
        progress=not as_json,
    )
    summary = read_json(made.folder / RELEASE_NAME)
    if as_json:
        print_json({"folder": str(made.folder), **summary})
        return
    size = sum(path.stat().st_size for path in made.folder.iterdir())
    mae = summary["val_mae_months"]
    typer.echo(
        f"{made.folder}: {size / 1e6:.2f} MB; validation MAE {mae['as_trained']:.3f} months as "
        f"trained, {mae['as_released']:.3f} as released"
    )
