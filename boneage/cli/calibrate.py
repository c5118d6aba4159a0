"""`boneage calibrate`: correct a model's answers by local radiographs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.cli.output import (
    JsonOption,
    OthersOption,
    PhasesOption,
    RunArgument,
    ViewsOption,
    echo,
    format_table,
    log,
    print_json,
)

_TITLES = ("children", "MAE, months", "80 % of the draws")


def calibrate(
    run: RunArgument,
    data: Annotated[Path, typer.Option(help="Manifest of local radiographs with labels.")],
    out: Annotated[Path, typer.Option(help="File to write, JSON, for predict --calibration.")],
    split: Annotated[
        list[str] | None,
        typer.Option(help="Split: train, val or test; several are used together. Default: all."),
    ] = None,
    others: OthersOption = None,
    views: ViewsOption = None,
    phases: PhasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Correct a model's answers by local radiographs with labels.

    Each sex gets an offset, or a line where that is clearly better. The intervals are fitted again.
    At least 100 children are needed, and 30 of a sex to correct it. Everything is judged on the
    child that is left out of the fit. Exit code 2: the calibration would not help, or the input is
    wrong.
    """
    from boneage.evaluation.local_calibration import calibrate_run
    from boneage.prediction.shipped import open_run

    opened, *rest = [open_run(each) for each in (run, *(others or ()))]
    found = calibrate_run(
        opened,
        out,
        others=rest,
        data=data,
        split=split,
        views=views,
        phases=phases,
        progress=not as_json,
    )
    if as_json:
        print_json(found)
    else:
        _print(found)
    log(f"calibration: {out}")


def _print(found: Mapping[str, Any]) -> None:
    from boneage.evaluation.metrics import SEX_WORDS, format_interval
    from boneage.prediction.calibration import Correction

    measured = found["leave_one_out"]
    for sex, values in found["corrections"].items():
        part = measured["sex"][sex]
        echo(f"{SEX_WORDS[sex]}: {Correction(**values)}; {_gain(part)}")
    interval = format_interval(measured["gain_months"])
    echo(f"all: {_gain(measured)}, gain {measured['gain_months']['value']:.2f} {interval}")
    level, width = found["interval"]["level"], found["interval"]["median_width_months"]
    echo(f"{100 * level:g} % interval: median width {width:.1f} months")
    rows = [
        [f"{p['children']:,}", f"{p['mae_months']:.2f}", f"{p['low']:.2f} to {p['high']:.2f}"]
        for p in measured["learning_curve"]
    ]
    typer.echo("\nMAE of all other children, after a calibration by so many:\n")
    typer.echo(format_table(_TITLES, rows))
    if (enough := measured["enough_children"]) is not None:
        typer.echo(
            f"\n{enough:,} children are enough. All together gain less than 0.1 months more."
        )
    known = found["manifest"]["known_ids"] or {"at_most": 0, "false_positives": 0.0}
    if (count := known["at_most"]) > known["false_positives"] * found["n"]:
        log(
            f"note: up to {count:,} of these images trained or selected the model. "
            "Their errors are too small, and so are the intervals."
        )


def _gain(part: Mapping[str, Any]) -> str:
    """Return what a calibration changes on children that are left out, in words."""
    before, after = part["mae_before_months"], part["mae_after_months"]
    counted = f"{part['n']:,} images of {part['children']:,} children"
    return f"MAE {after:.2f} months instead of {before:.2f} on the child left out ({counted})"
