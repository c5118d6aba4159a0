"""`boneage predict`: the bone age of radiographs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boneage.cli.output import (
    JsonOption,
    OthersOption,
    PhasesOption,
    RunArgument,
    ViewsOption,
    echo,
    log,
    print_json_list,
    refuse,
)
from boneage.errors import utf8

if TYPE_CHECKING:
    from boneage.prediction.predict import Prediction

EXIT_CODES = {"answered": 0, "refused": 3, "unreadable": 2, "failed": 2}
_SHOW_PROGRESS = 64  # images, above which a progress bar is shown if nothing else is on the screen


def predict(
    run: RunArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Radiographs: PNG, JPEG, TIFF, BMP, DICOM.")
    ],
    sex: Annotated[
        list[str],
        typer.Option(metavar="SEX", help="Sex of the child, or of all children: F or M."),
    ],
    others: OthersOption = None,
    views: ViewsOption = None,
    phases: PhasesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the bone age of radiographs in months.

    Research use only. Do not use the answer for diagnosis.

    Blank images are refused. Inverted grey levels are put right, or the image is refused. Images
    that are turned, inverted or otherwise doubtful get a warning. Exit code 0: every image has an
    answer. 3: an image is refused. 2: an image can't be read, its answer is no bone age, or an
    option is wrong. Of 2 and 3, 2 wins.
    """
    from boneage.datasets.label_rules import parse_sex

    letters = {parse_sex(word) for word in sex}
    if "" in letters:
        fix = "Write F for girls and M for boys."
        refuse(f"--sex {' '.join(sex)}", "it is no sex that boneage knows", fix)
    if len(letters) > 1:
        fix = "Run the command once for girls and once for boys."
        refuse(f"--sex {' '.join(sex)}", "one sex holds for all images of a command", fix)
    from boneage.prediction.predict import predict_radiographs
    from boneage.prediction.shipped import open_run

    predictions = predict_radiographs(
        open_run(run),
        images,
        letters.pop(),
        others=[open_run(other) for other in others or ()],
        views=views,
        phases=phases,
    )
    codes = {0}

    def finished() -> Iterator[Prediction]:
        for prediction in _with_progress(predictions, len(images), as_json):
            codes.add(EXIT_CODES[prediction.status])
            yield prediction

    if as_json:
        head: dict[str, Any] = {"run": utf8(str(run))}
        head |= {"others": [utf8(str(other)) for other in others]} if others else {}
        print_json_list(head, "predictions", map(_as_dict, finished()))
    else:
        for prediction in finished():
            _print(prediction)
    raise typer.Exit(2 if 2 in codes else max(codes))


def _with_progress(
    predictions: Iterable[Prediction], count: int, as_json: bool
) -> Iterator[Prediction]:
    is_silent = as_json or not sys.stdout.isatty()
    if count <= _SHOW_PROGRESS or not is_silent or not sys.stderr.isatty():
        yield from predictions
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(predictions, "Predicting", total=count, console=Console(stderr=True))


def _print(prediction: Prediction) -> None:
    from boneage.datasets.label_rules import years_and_months

    name, months = prediction.image, prediction.predicted_age_months
    for warning in prediction.warnings:
        log(f"warning: {name}: {warning.what}. {warning.fix}")
    if months is not None:
        echo(f"{name}: {months:.1f} months ({years_and_months(months)})")
    elif prediction.fault is not None:
        kind = "refused" if prediction.status == "refused" else "error"
        log(f"{kind}: {prediction.fault}")


def _as_dict(prediction: Prediction) -> dict[str, Any]:
    fault = prediction.fault
    return {
        "image": utf8(prediction.image),
        "sex": prediction.sex,
        "status": prediction.status,
        "predicted_age_months": prediction.predicted_age_months,
        "reason": None if fault is None else f"{fault.what}. {fault.fix}",
        "warnings": [
            {"code": warning.code, "message": f"{warning.what}. {warning.fix}"}
            for warning in prediction.warnings
        ],
    }
