"""`boneage predict`: the bone age of radiographs."""

from __future__ import annotations

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
    if sex not in ("F", "M"):
        refuse(f"--sex {sex}", "it is neither F nor M", "Write F for girls and M for boys.")
    from boneage.run import open_run

    opened = open_run(run)
    from boneage.runtime.cpu_settings import import_keras

    import_keras()
    from boneage.prediction.predict import predict_radiographs

    answers = predict_radiographs(opened, images, sex, views=views)
    if as_json:
        print_json({"run": str(run), "predictions": answers.to_dict("records")})
        return
    for image, months in zip(answers["image"], answers["predicted_age_months"], strict=True):
        typer.echo(f"{image}: {months:.1f} months ({months / 12:.1f} years)")
