"""`boneage stress`: how much changes of the radiographs move a model's answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.cli.output import (
    JsonOption,
    OthersOption,
    PhasesOption,
    ResultsOption,
    RunArgument,
    ViewsOption,
    echo,
    format_table,
    log,
    print_json,
)

FAILED = 1
_TITLES = (
    "change",
    "answered",
    "refused",
    "shift, months",
    "|shift|",
    "MAE difference",
    "gate",
    "",
)


def stress(
    run: RunArgument,
    data: Annotated[Path | None, typer.Option(help="Manifest. Default: the run's own.")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split: train, val or test; several are used together. Default: test."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=5, help="Number of images, drawn by a fixed seed. Default: all."),
    ] = None,
    others: OthersOption = None,
    views: ViewsOption = None,
    phases: PhasesOption = None,
    out: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how much changes of the radiographs move a model's answers.

    Every radiograph is turned, blurred, inverted and so on, then framed and predicted as `predict`
    does it. To continue after an interruption, repeat the command. Finished changes are kept. Exit
    code 0: every gate is passed. 1: a gate is failed. 2: the input is wrong.
    """
    from boneage.evaluation.metrics import is_few
    from boneage.evaluation.result import prepare_results, write_result
    from boneage.evaluation.stress import stress_run
    from boneage.prediction.shipped import open_run

    opened, *rest = [open_run(each) for each in (run, *(others or ()))]
    result = stress_run(
        opened,
        others=rest,
        data=data,
        split=split or "test",
        limit=limit,
        views=views,
        phases=phases,
        out=out,
        progress=not as_json,
    )
    results = prepare_results(opened, out, rest)
    if results.result_path.exists():
        write_result(results)  # it counts the scorings
    if results.report_path.exists():
        from boneage.evaluation.report import write_report

        write_report(results)
    if as_json:
        print_json(result)
    else:
        width, height = result["median_size_pixels"]
        counted = f"{result['n']:,} {result['split']} images, median size {width} x {height} pixels"
        unit = "image" if result.get("patients") is None else "patient"
        echo(f"{counted}; intervals are 95 % (bootstrap of paired differences, by {unit})")
        typer.echo(format_table(_TITLES, [_row(change) for change in result["changes"]]))
        if is_few(result):
            echo("note: so few images decide nothing, and their intervals are too narrow")
        if result["refused_unchanged"]:
            echo(f"refused unchanged: {result['refused_unchanged']:,} images")
    log(f"results: {results.folder / result['file']}")
    failed = [change["name"] for change in result["changes"] if change["passed"] is False]
    if failed:
        log(f"failed gates: {', '.join(failed)}")
        raise typer.Exit(FAILED)


def _row(change: Mapping[str, Any]) -> list[str]:
    moved, gate = change["mean_absolute_shift_months"], change["gate"]
    return [
        change["name"],
        f"{change['n'] - change['refused']:,}",
        f"{change['refused']:,}",
        _signed(change["shift_months"]),
        "" if moved is None else f"{moved:.2f}",
        _signed(change["mae_difference_months"]),
        "" if gate is None else f"{gate:g}" + (" or refused" if change["refusal_passes"] else ""),
        {True: "passed", False: "FAILED", None: ""}[change["passed"]],
    ]


def _signed(part: Mapping[str, Any]) -> str:
    from boneage.evaluation.metrics import format_interval

    if part["value"] is None:
        return ""
    return f"{part['value']:+.2f} {format_interval(part, '+.2f')}".strip()
