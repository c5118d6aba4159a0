"""`boneage predict`: the bone age of radiographs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from boneage.cli.output import JsonOption, RunArgument, ViewsOption, print_json, refuse


def predict(
    run: RunArgument,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Radiographs: PNG, JPEG, TIFF, DICOM.")
    ],
    sex: Annotated[str, typer.Option(help="Sex of the child, or of all children: F or M.")],
    views: ViewsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the bone age of radiographs in months.

    Research use only. Do not use the answer for diagnosis.
    """
    from boneage.datasets.label_rules import SEXES

    if sex not in SEXES:
        refuse(f"--sex {sex}", "it is neither F nor M", "Write F for girls and M for boys.")
    from boneage.prediction.predict import predict_radiographs
    from boneage.prediction.shipped import open_run

    answers = predict_radiographs(open_run(run), images, sex, views=views)
    if as_json:
        rows = [dataclasses.asdict(answer) for answer in answers]
        print_json({"run": str(run), "predictions": rows})
        return
    for answer in answers:
        months = answer.predicted_age_months
        typer.echo(f"{answer.image}: {months:.1f} months ({months / 12:.1f} years)")
