"""`boneage compare`: the paired difference of two models on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.cli.evaluate import SHAPED_BY
from boneage.cli.output import (
    JsonOption,
    echo,
    format_mae,
    format_table,
    log,
    print_json,
    refuse,
)

SIDE_HELP = "Run folder, shipped model (its results), or table of predictions."
CLUSTERS = {"patient_id": "patient", "image_id": "image"}


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help=SIDE_HELP)],
    b: Annotated[Path, typer.Argument(metavar="B", help=f"The reference. {SIDE_HELP}")],
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Split of a run folder: train, val or test; val and test for both together. "
            "Default: test."
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=100, help="Margin of non-inferiority, months.")
    ] = 0.5,
    out: Annotated[
        Path | None, typer.Option(help="Folder for comparison.json and comparison.png.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models by their errors on the same images.

    The result is the difference of the mean absolute errors, A minus B. Its interval comes from a
    bootstrap of the paired differences, and p from a permutation test. Both draw whole patients
    where patients are known. Overlap of two separate intervals proves nothing about the difference.
    """
    from boneage.datasets.label_rules import SPLITS
    from boneage.evaluation.comparison import (
        compare_predictions,
        open_predictions,
        write_comparison,
    )
    from boneage.evaluation.scoring import in_order

    if split and a.is_file() and b.is_file():
        refuse("--split", "A and B are tables, so there is no split to choose")
    for name in split or ():
        if name not in SPLITS:
            refuse(f"--split {name}", f"it is none of {', '.join(SPLITS)}")
    chosen = "-".join(in_order(split or "test"))
    comparison = compare_predictions(
        *(open_predictions(side, chosen) for side in (a, b)), margin_months=margin
    )
    for name in in_order(split or ()):
        if name in SHAPED_BY:
            log(SHAPED_BY[name])
    files = {} if out is None else write_comparison(comparison, out)
    if as_json:
        print_json(comparison)
        return
    for line in _lines(comparison):
        echo(line)
    for name, path in files.items():
        echo(f"{name}: {path}")


def _lines(comparison: dict[str, Any]) -> list[str]:
    from boneage.evaluation.comparison import describe_margin
    from boneage.evaluation.metrics import FEW

    found, margin = comparison["difference_months"], comparison["non_inferiority"]
    n, maes = comparison["n"], comparison["mae_months"]
    unit = CLUSTERS[comparison["clusters"]]
    width = max(len(comparison[side]["name"]) for side in "ab")
    sides = [
        f"{side.upper()}: {comparison[side]['name']:<{width}}  MAE {format_mae(maes[side])} months"
        for side in "ab"
    ]
    counts = f"{found['groups']:,} patients, " if unit == "patient" else ""
    only = ", ".join(f"{comparison[side]['only']:,} only in {side.upper()}" for side in "ab")
    lines = [
        *sides,
        f"{n:,} images in both ({counts}{only}); intervals are 95 % (bootstrap by {unit})",
        f"A - B: {format_mae(found)} months, {_format_p(found['p'])} (permutation by {unit})",
    ]
    if found["groups"] < FEW:
        lines.append(f"note: intervals of fewer than {FEW} {unit}s are too narrow")
    if round(found["detectable"] or 0, 2):  # 0 if A and B differ by the same for all
        lines.append(
            f"smallest true difference that so many {unit}s show with 80 % power: "
            f"{found['detectable']:.2f} months"
        )
    if margin["high_months"] is not None:
        lines.append(describe_margin(margin["high_months"], margin))
    return [*lines, *_group_table(comparison["groups"]).splitlines()]


def _group_table(groups: dict[str, Any]) -> str:
    from boneage.evaluation.metrics import group_words

    rows = [
        [
            group_words(kind, name),
            f"{part['n']:,}",
            *(format_mae(part["mae_months"][side]) for side in "ab"),
            format_mae(part["difference_months"]),
            _format_p(part["difference_months"]["p"]),
        ]
        for kind, members in groups.items()
        for name, part in members.items()
        if "difference_months" in part
    ]
    titles = ["", "n", "MAE of A", "MAE of B", "A - B", "p, not corrected"]
    return format_table(titles, rows) if rows else ""


def _format_p(p: float | None) -> str:
    if p is None:
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"
