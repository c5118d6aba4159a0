"""The verb `boneage reproduce`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from boneage.cli.output import (
    JsonOption,
    RecipeSeedOption,
    SetOption,
    format_table,
    log,
    print_json,
)


def reproduce(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Recipe: a path, or a name in experiments/.")
    ],
    data: Annotated[
        Path, typer.Option(help="Unpacked RSNA set (official or Kaggle's), or a manifest.")
    ],
    out: Annotated[Path | None, typer.Option(help="Run folder. Name it again to continue.")] = None,
    seed: RecipeSeedOption = None,
    overrides: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the data and the estimated cost, then stop.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Reproduce a published number: import, check, train, evaluate and compare.

    Hours and disk space are estimated first. To continue after an interruption, repeat the
    command.
    """
    from boneage.evaluation.published import TITLES, explain_rows, table_cells
    from boneage.runtime.cpu_settings import keep_freed_memory
    from boneage.training.series import reproduction
    from boneage.training.stop_signals import Stop, Terminated

    keep_freed_memory()
    path = reproduction.find_recipe(recipe)
    resolved = reproduction.read_published_recipe(path, overrides or (), seed=seed)
    runs = Path(os.environ.get("BONEAGE_RUNS") or "runs")
    folder = out or runs / f"{resolved.name}-seed{resolved.seed}"
    stop = Stop()
    options = {"progress": not as_json, "dry_run": dry_run}
    with stop.listening():
        try:
            document = reproduction.reproduce(
                resolved, path, data, folder, log=log, stop=stop, **options
            )
        except KeyboardInterrupt:
            log("interrupted. Repeat the command to continue.")
            raise  # Typer exits with 130
        except Terminated:
            log("terminated. Repeat the command to continue.")
            return
    if as_json:
        print_json(document)
        return
    rows = document["rows"]
    typer.echo("\n".join([format_table(TITLES, table_cells(rows)), *explain_rows(rows)]))
    for name, file in document.get("files", {}).items():
        typer.echo(f"{name}: {file}")
