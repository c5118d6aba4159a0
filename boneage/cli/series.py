"""The verbs of several trainings that belong together: cross-validate and sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from boneage.training.series.planned_runs import Outcome, Planned

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, TOML.")]
DataOption = Annotated[Path, typer.Option("--data", help="The manifest.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="As in --set training.epochs=3; for all."),
]
OutOption = Annotated[
    Path, typer.Option("--out", help="The folder of the series; name it again to go on with it.")
]
TableOption = Annotated[
    bool, typer.Option("--table", help="Train nothing: gather what is there and show it.")
]
GpuOption = Annotated[
    bool, typer.Option("--require-gpu", help="Fail where there is no GPU to train on.")
]
DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="As in boneage train: repeats to the bit on a GPU.")
]


def cross_validate(
    recipe: RecipeArgument,
    data: DataOption,
    out: OutOption,
    folds: Annotated[int, typer.Option(help="How many parts train and val are dealt into.")] = 5,
    fold: Annotated[
        int | None,
        typer.Option("--fold", "--only", help="Train this one only, from 1: for job arrays."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of folds and trainings; replaces the recipe's.")
    ] = None,
    overrides: SetOption = None,
    table: TableOption = False,
    require_gpu: GpuOption = False,
    deterministic: DeterministicOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe once for each fold of train and val; score all predictions and the ensemble.

    Patients stay together, and folds are alike in age and sex. The test split is left out of
    training. Go on with one that was cut off by the same command; run twice, it trains nothing.
    """
    from boneage.datasets.manifest import read_manifest
    from boneage.recipe import read_recipe
    from boneage.training.series.cross_validation import (
        RESULT,
        collect_folds,
        plan_folds,
        prepare_folds,
    )
    from boneage.training.series.planned_runs import choose

    resolved = read_recipe(recipe, overrides or (), seed=seed)
    resolved = resolved.model_copy(update={"phantom": None})  # it is not what is trained on
    manifest = read_manifest(data)
    planned = plan_folds(resolved, manifest, out, folds)
    chosen = choose(planned, fold, "--fold")
    code = 0
    if not table:
        code = _train(
            chosen,
            len(planned),
            lambda waiting: prepare_folds(manifest, waiting),
            _options(require_gpu, deterministic),
            quiet=as_json,
        )
    result = collect_folds(planned, manifest, out)
    _show(result, _folds_text(result), out / RESULT, as_json)
    raise typer.Exit(code)


def sweep(
    recipe: RecipeArgument,
    data: DataOption,
    out: OutOption,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="0,1,2", help="Of every setting; the recipe's if not said."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="A key and its values; of several, every combination is trained.",
        ),
    ] = None,
    overrides: SetOption = None,
    only: Annotated[
        int | None, typer.Option(help="Train the run of this number only, from 1: for job arrays.")
    ] = None,
    table: TableOption = False,
    require_gpu: GpuOption = False,
    deterministic: DeterministicOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe over seeds and settings, and compare them by validation.

    Go on with one that was cut off by the same command; run twice, it trains nothing.
    """
    from boneage.datasets.manifest import read_manifest
    from boneage.training.series.grid import read_grid
    from boneage.training.series.planned_runs import choose
    from boneage.training.series.sweep import RESULT, collect_sweep, plan_sweep, prepare_sweep

    resolved, settings, chosen_seeds = read_grid(recipe, overrides or (), grid or (), seeds)
    planned = plan_sweep(resolved, read_manifest(data), out, settings, chosen_seeds)
    chosen = choose(planned, only)
    code = 0
    if not table:
        options = _options(require_gpu, deterministic)
        code = _train(chosen, len(planned), prepare_sweep, options, quiet=as_json)
    result = collect_sweep(resolved, planned, settings, out)
    _show(result, _sweep_text(result), out / RESULT, as_json)
    raise typer.Exit(code)


def _options(require_gpu: bool, deterministic: bool) -> list[str]:
    """What `boneage train` is given for every run."""
    given = {"--require-gpu": require_gpu, "--deterministic": deterministic}
    return [option for option, wanted in given.items() if wanted]


def _train(
    chosen: Sequence[Planned],
    total: int,
    prepare: Callable[[Sequence[Planned]], None],
    options: Sequence[str],
    *,
    quiet: bool,
) -> int:
    """Trains what is not finished: 0 if all of it is now, 1 if something failed."""
    from boneage.training.series.planned_runs import ENDED, FINISHED, run_series
    from boneage.training.stop_signals import Stop, Terminated

    waiting = [one for one in chosen if one.state() not in ENDED]
    try:
        if waiting:
            with Stop().listening():
                prepare(waiting)
        outcomes = run_series(
            chosen,
            total,
            say=lambda line: typer.echo(line, err=True),
            options=options,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command goes on with it", err=True)
        raise  # Typer exits with 130
    except Terminated:
        typer.echo("terminated: the same command goes on with it", err=True)
        raise typer.Exit(0) from None
    undone = [outcome for outcome in outcomes if outcome.state != FINISHED]
    _complain(undone, total)
    return 1 if undone else 0


def _complain(undone: Sequence[Outcome], total: int) -> None:
    if undone:
        typer.echo(f"error: {len(undone)} of {total} runs did not come to their end", err=True)
    for outcome in undone:
        typer.echo(f"  {outcome.planned.folder} {outcome.state}: {outcome.reason}", err=True)


def _show(result: dict[str, Any], text: str, path: Path, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    typer.echo(text)
    left = [row for row in result["rows"] if row["state"] != "finished"]
    if left:
        typer.echo(f"{len(left)} of {len(result['rows'])} runs are not finished")
    typer.echo(f"written: {path}")


def _folds_text(result: dict[str, Any]) -> str:
    splits = [split for split in ("val", "test") if split in result]
    rows = [
        [row["run"], str(row["counts"]["val"]), *(_mae(row, split) for split in splits)]
        for row in result["rows"]
    ]
    means = [_spread(result[split]["mean_of_folds"]) for split in splits]
    rows.append(["mean ± SD over folds", "", *means])
    lines = [_columns(["", "n", *(f"{split} MAE, months" for split in splits)], rows)]
    if "pooled" in result["val"]:
        pooled = result["val"]["pooled"]
        guess = pooled["baseline"]["median_by_sex"]["mae_months"]["value"]
        lines.append(f"out of fold, all {pooled['n']:,} images: {_interval(pooled)}")
        lines.append(f"predicting the median by sex: {guess:.2f}")
    if "ensemble" in result.get("test", {}):
        both = result["test"]["ensemble"]
        lines.append(
            f"mean of the {result['folds']} on {both['n']:,} test images: {_interval(both)}"
        )
    return "\n".join(lines)


def _sweep_text(result: dict[str, Any]) -> str:
    keys = list(result["settings"][0]["setting"])
    splits = [split for split in ("val", "test") if split in result["settings"][0]]
    titles = [f"{split} MAE, months" for split in splits]
    lines = [
        _columns(
            ["", "run", *titles],
            [
                [str(row["index"]), row["run"], *(_mae(row, split) for split in splits)]
                for row in result["rows"]
            ],
        ),
        "",
        _columns(
            [*keys, "seeds", *(f"{title}: mean ± SD" for title in titles)],
            [
                [
                    *(str(line["setting"][key]) for key in keys),
                    ",".join(map(str, line["seeds"])) or "-",
                    *(_spread(line[split]) for split in splits),
                ]
                for line in result["settings"]
            ],
        ),
        "",
        f"selected by {result['selected_by']}",
    ]
    return "\n".join(lines)


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (titles, *rows)
    )


def _mae(row: dict[str, Any], split: str) -> str:
    if row["state"] != "finished":
        return row["state"] if split == "val" else ""
    return _interval(row[split])


def _interval(scores: dict[str, Any]) -> str:
    mae = scores.get("mae_months")
    if mae is None:
        return "- (fewer than 5 images)"
    return f"{mae['value']:.2f} [{mae['low']:.2f}, {mae['high']:.2f}]"


def _spread(values: dict[str, Any]) -> str:
    if values["mean"] is None:
        return "-"
    deviation = values["standard_deviation"]
    return f"{values['mean']:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
