"""`boneage predict`: the bone age of radiographs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
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
    from boneage.prediction.answers import Answer
    from boneage.prediction.predict import Estimator

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
    chronological_age: Annotated[
        float | None,
        typer.Option(metavar="MONTHS", help="Age of the child, or of all children, in months."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Mean and SD of bone ages, CSV: sex, chronological_age_months, mean_months, "
            "sd_months. Default: Brush Foundation.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Local calibration, as boneage calibrate writes it."),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that show which places of each radiograph move its answer.",
            metavar="FOLDER",
        ),
    ] = None,
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
    from boneage.prediction.predict import Estimator, Request
    from boneage.prediction.shipped import open_run
    from boneage.runtime.files import check_folder_writable

    if explain is not None:
        check_folder_writable(explain)  # before a radiograph is read
    runs = [open_run(each) for each in (run, *(others or ()))]
    estimator = Estimator(
        runs, views=views, phases=phases, calibration=calibration, reference=reference
    )
    for note in estimator.notes:
        log(f"note: {note}")
    letter = letters.pop()
    requests = (Request(image, letter, chronological_age) for image in images)
    answers = estimator.predict_many(requests)
    codes = {0}

    def finished() -> Iterator[Answer]:
        for answer in _with_progress(answers, len(images), as_json):
            codes.add(EXIT_CODES[answer.status])
            if explain is not None and answer.estimates:
                _explain(estimator, answer, explain)
            yield answer

    if as_json:
        head: dict[str, Any] = {"run": utf8(str(run))}
        head |= {"others": [utf8(str(other)) for other in others]} if others else {}
        items = (answer.as_dict() for answer in finished())
        print_json_list(head, "predictions", items)
    else:
        for answer in finished():
            _print(answer)
    raise typer.Exit(2 if 2 in codes else max(codes))


def _explain(estimator: Estimator, answer: Answer, folder: Path) -> None:
    from boneage.prediction.explanation import explain
    from boneage.prediction.explanation_picture import picture_path, write_explanation

    explanation = explain(estimator.predictor, answer.image, answer.sex)
    write_explanation(explanation, answer, picture_path(folder, answer.image))


def _with_progress(answers: Iterable[Answer], count: int, as_json: bool) -> Iterator[Answer]:
    is_silent = as_json or not sys.stdout.isatty()
    if count <= _SHOW_PROGRESS or not is_silent or not sys.stderr.isatty():
        yield from answers
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(answers, "Predicting", total=count, console=Console(stderr=True))


def _print(answer: Answer) -> None:
    from boneage.prediction.answers import age_in_words

    for finding in answer.findings:
        log(f"warning: {answer.image}: {finding.what}. {finding.fix}")
    for estimate in answer.estimates:
        found = estimate.interval
        interval = "" if found is None else f", {found}"
        words = age_in_words(estimate.months)
        echo(f"{answer.image}: {estimate.months:.1f} months ({words}){interval}")
        if estimate.calibration is not None:
            echo(f"  {estimate.calibration}")
        if estimate.comparison is not None:
            echo(f"  {estimate.comparison}")
            if estimate.comparison.sd_score is not None:
                echo(f"  {estimate.comparison.note}")
    if answer.fault is not None:
        kind = "refused" if answer.status == "refused" else "error"
        log(f"{kind}: {answer.fault}")
