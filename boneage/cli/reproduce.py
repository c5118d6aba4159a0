"""The verb `boneage reproduce`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from boneage.cli.output import JsonOption, print_json


def reproduce(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Of experiments/, by name, or a recipe's path."),
    ],
    data: Annotated[
        Path,
        typer.Option(help="The challenge's set, official or Kaggle's, unpacked; or a manifest."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The run folder to make, or to go on with.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Replaces the recipe's seed.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in --set model.weights=none."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what there is and what it will take, and stop."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a published number again: import, check, train, evaluate and compare.

    Hours and disk are estimated first. Ctrl-C and SIGTERM lose nothing: the same command goes on.
    """
    from boneage.evaluation.published import as_text
    from boneage.runtime.cpu_settings import import_keras, keep_freed_memory
    from boneage.training.series.reproduction import find_recipe, read_published_recipe
    from boneage.training.series.reproduction import reproduce as run_reproduction
    from boneage.training.stop_signals import Stop, Terminated

    keep_freed_memory()
    path = find_recipe(recipe)
    resolved = read_published_recipe(path, overrides or (), seed=seed)
    runs = Path(os.environ.get("BONEAGE_RUNS") or "runs")
    folder = out or runs / f"{resolved.name}-seed{resolved.seed}"
    stop = Stop()
    with stop.listening():
        try:
            import_keras()
            document = run_reproduction(
                resolved,
                path,
                data,
                folder,
                say=_say,
                progress=not as_json,
                dry_run=dry_run,
                stop=stop,
            )
        except KeyboardInterrupt:
            _say("interrupted: the same command goes on where it stopped")
            raise  # Typer exits with 130
        except Terminated:
            _say("terminated: the same command goes on where it stopped")
            return
    if as_json:
        print_json(document)
        return
    typer.echo(as_text(document["rows"]))
    for name, file in document.get("files", {}).items():
        typer.echo(f"{name}: {file}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
