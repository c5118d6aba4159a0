"""The verbs `boneage cross-validate` and `boneage sweep`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli.output import (
    DeterministicOption,
    GpuOption,
    JsonOption,
    RecipeArgument,
    RecipeSeedOption,
    SetOption,
    echo,
    format_mae,
    format_table,
    log,
    print_json,
)

if TYPE_CHECKING:
    from boneage.training.series.planned_runs import PlannedRun

DataOption = Annotated[Path, typer.Option("--data", help="Manifest, CSV.")]
SeriesOption = Annotated[
    Path, typer.Option("--out", help="Folder of the series. Name it again to continue.")
]
TableOption = Annotated[
    bool, typer.Option("--table", help="Train nothing. Collect and show what is finished.")
]


def cross_validate(
    recipe: RecipeArgument,
    data: DataOption,
    out: SeriesOption,
    folds: Annotated[int, typer.Option(help="Number of folds of train and val.")] = 5,
    fold: Annotated[
        int | None,
        typer.Option("--fold", "--only", help="Fold to train, from 1 (job arrays). Default: all."),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(
            metavar="MONTHS",
            min=0,
            help="Largest out-of-fold MAE with which the test split is scored, once, by the mean "
            "of all folds. Default: every fold scores it.",
        ),
    ] = None,
    seed: RecipeSeedOption = None,
    overrides: SetOption = None,
    table: TableOption = False,
    require_gpu: GpuOption = False,
    deterministic: DeterministicOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on every fold and score all predictions.

    The folds are parts of train and val. Patients stay together, and folds are alike in age and
    sex. A tenth of the training folds chooses the epoch. The held-out fold and the test split are
    only scored. To continue after an interruption, repeat the command. Finished folds are kept.
    """
    from boneage.datasets.manifest import read_manifest
    from boneage.recipe import find_recipe, read_recipe
    from boneage.training.input_checks import check_recipe
    from boneage.training.series import cross_validation as series
    from boneage.training.series.planned_runs import select_runs

    resolved = read_recipe(find_recipe(recipe), overrides or (), seed=seed)
    resolved = resolved.model_copy(update={"phantom": None})  # the manifest replaces it
    if not table:
        check_recipe(resolved)
    manifest = read_manifest(data)
    planned = series.plan_folds(resolved, manifest, out, folds, gate)
    chosen = select_runs(planned, fold, "--fold")
    code = 0
    if not table:
        options = {"--require-gpu": require_gpu, "--deterministic": deterministic}
        code = _train(
            chosen,
            planned,
            lambda waiting: series.prepare_folds(manifest, waiting),
            options,
            as_json,
        )
    result = series.collect_folds(planned, manifest, out, gate, may_predict=not table)
    _show(result, _format_folds(result), out / series.RESULT, as_json)
    raise typer.Exit(code)


def sweep(
    recipe: RecipeArgument,
    data: DataOption,
    out: SeriesOption,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="0,1,2", help="Seeds for every setting. Default: the recipe's."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Recipe key and its values. Repeat for a grid: every combination is trained.",
        ),
    ] = None,
    overrides: SetOption = None,
    only: Annotated[
        int | None, typer.Option(help="Run to train, from 1 (job arrays). Default: all.")
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Score the test split too. Do this once, at the end.")
    ] = False,
    table: TableOption = False,
    require_gpu: GpuOption = False,
    deterministic: DeterministicOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe with several seeds and settings.

    The settings are compared by validation MAE, and the test split is left alone without --test.
    To continue after an interruption, repeat the command. Finished runs are kept.
    """
    from boneage.datasets.manifest import read_manifest
    from boneage.recipe import find_recipe
    from boneage.training.input_checks import check_recipe
    from boneage.training.series import sweep as series
    from boneage.training.series.planned_runs import select_runs

    resolved, settings, numbers = series.read_grid(
        find_recipe(recipe), overrides or (), grid or (), seeds
    )
    for setting in [] if table else settings:
        check_recipe(setting.recipe)
    planned = series.plan_sweep(resolved, read_manifest(data), out, settings, numbers, test=test)
    chosen = select_runs(planned, only)
    code = 0
    if not table:
        options = {"--require-gpu": require_gpu, "--deterministic": deterministic}
        code = _train(chosen, planned, series.prepare_sweep, options, as_json)
    result = series.collect_sweep(resolved, planned, settings, out)
    _show(result, _format_sweep(result), out / series.RESULT, as_json)
    raise typer.Exit(code)


def _train(
    chosen: Sequence[PlannedRun],
    planned: Sequence[PlannedRun],
    prepare: Callable[[Sequence[PlannedRun]], None],
    options: dict[str, bool],
    quiet: bool,
) -> int:
    """Train what is not finished. Return 0 if everything chosen is finished now, else 1."""
    from boneage.training.series.planned_runs import ENDED, FINISHED, run_series
    from boneage.training.stop_signals import Terminated

    waiting = [each for each in chosen if each.state() not in ENDED]
    given = [option for option, is_given in options.items() if is_given]
    try:
        if waiting:
            prepare(waiting)
        outcomes = run_series(chosen, len(planned), log=log, options=given, quiet=quiet)
    except KeyboardInterrupt:
        log("interrupted. Repeat the command to continue.")
        raise  # Typer exits with 130
    except Terminated:
        log("terminated. Repeat the command to continue.")
        raise  # `main` exits with 143
    failed = [outcome for outcome in outcomes if outcome.state != FINISHED]
    if failed:
        log(f"error: {len(failed)} of {len(planned)} runs did not finish")
    for outcome in failed:
        log(f"  {outcome.planned.folder} {outcome.state}: {outcome.reason}")
    return 1 if failed else 0


def _show(result: dict[str, Any], text: str, path: Path, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    typer.echo(text)
    unfinished = [row for row in result["rows"] if row["state"] != "finished"]
    if unfinished:
        typer.echo(f"{len(unfinished)} of {len(result['rows'])} runs are not finished")
    echo(f"written: {path}")


def _format_folds(result: dict[str, Any]) -> str:
    parts = {"held_out": "held-out MAE, months", "test": "test MAE, months"}
    shown = [part for part in parts if "mean_of_folds" in result.get(part, {})]
    rows = [
        [row["run"], str(row["counts"]["held_out"]), *_format_scores(row, shown)]
        for row in result["rows"]
    ]
    means = [_format_mean(result[part]["mean_of_folds"]) for part in shown]
    rows.append(["mean ± SD over folds", "", *means])
    lines = [format_table(["", "n", *(parts[part] for part in shown)], rows)]
    lines.append(f"each epoch was chosen by {result['epoch_chosen_by']}")
    if "pooled" in result["held_out"]:
        pooled = result["held_out"]["pooled"]
        baseline = pooled["baseline"]["median_by_sex"]["mae_months"]["value"]
        lines.append(
            f"out of fold, all {pooled['n']:,} images: {format_mae(pooled.get('mae_months'))}"
        )
        lines.append(f"predicting the median by sex: {baseline:.2f}")
    if "gate" in result:
        at = f"gate: the out-of-fold MAE is {{}} {result['gate']['months']:g} months"
        if "test" in result:
            lines.append(at.format("at most") + ". The test split was scored once.")
        elif result["gate"]["is_passed"]:
            lines.append(at.format("at most") + ". To score the test split, omit --table.")
        else:
            lines.append(at.format("above") + ". The test split was not scored.")
    if "ensemble" in result.get("test", {}):
        ensemble = result["test"]["ensemble"]
        what = f"mean of the {result['folds']} on {ensemble['n']:,} test images"
        lines.append(f"{what}: {format_mae(ensemble.get('mae_months'))}")
    return "\n".join(lines)


def _format_sweep(result: dict[str, Any]) -> str:
    settings = result["settings"]
    keys = list(settings[0]["setting"])
    splits = [split for split in ("val", "test") if split in settings[0]]
    titles = [f"{split} MAE, months" for split in splits]
    runs = [[str(r["index"]), r["run"], *_format_scores(r, splits)] for r in result["rows"]]
    means = [
        [
            *(str(line["setting"][key]) for key in keys),
            ",".join(map(str, line["seeds"])) or "-",
            *(_format_mean(line[split]) for split in splits),
        ]
        for line in settings
    ]
    tables = [
        format_table(["", "run", *titles], runs),
        format_table([*keys, "seeds", *(f"{title}: mean ± SD" for title in titles)], means),
    ]
    return "\n\n".join([*tables, f"selected by {result['selected_by']}"])


def _format_scores(row: dict[str, Any], splits: Sequence[str]) -> list[str]:
    if row["state"] != "finished":
        return [row["state"], ""][: len(splits)]
    return [format_mae(row[split]["mae_months"]) for split in splits]


def _format_mean(values: dict[str, Any]) -> str:
    if values["mean"] is None:
        return "-"
    deviation = values["standard_deviation"]
    return f"{values['mean']:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")
