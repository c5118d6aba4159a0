"""`boneage release`: the verb that makes a released model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boneage.cli.output import JsonOption, print_json, refuse

STORAGES = ("float16", "float32")


def release(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    storage: Annotated[
        str, typer.Option(help="Of the weights: float16 (the default) or float32.")
    ] = STORAGES[0],
    views: Annotated[
        int | None, typer.Option(help="Of each radiograph, answers averaged: 1, 2 or 6.")
    ] = None,
    note: Annotated[
        str, typer.Option(help="What the model card is to say of the training radiographs.")
    ] = "",
    most_megabytes: Annotated[
        float, typer.Option(min=0, help="What the files may take together.")
    ] = 12.0,
    as_json: JsonOption = False,
) -> None:
    """Make a released model of a run: small, with its card, its scores and its checksums."""
    if storage not in STORAGES:
        refuse(f"--storage {storage}", "it is neither float16 nor float32")
    from boneage.evaluation.release import release as make_release
    from boneage.prediction.shipped import RELEASE_NAME
    from boneage.run import open_run
    from boneage.runtime.files import read_json

    made = make_release(
        open_run(run),
        out,
        storage="float16" if storage == "float16" else "float32",
        views=views,
        note=note,
        most_bytes=round(1e6 * most_megabytes),
        progress=not as_json,
    )
    told = read_json(made.folder / RELEASE_NAME)
    if as_json:
        print_json({"folder": str(made.folder), **told})
        return
    size = sum(path.stat().st_size for path in made.folder.iterdir())
    mae = told["val_mae_months"]
    typer.echo(
        f"{made.folder}: {size / 1e6:.2f} MB; validation MAE {mae['as_trained']:.3f} months as "
        f"trained, {mae['as_released']:.3f} as released"
    )
