"""`boneage predict --watch`: answer the files that another program writes to a folder."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from boneage.cli.output import log, refuse
from boneage.prediction.answer_files import AnswerFile, AnswerWriter, read_lines
from boneage.prediction.predict import Request
from boneage.prediction.requests import other_kind
from boneage.prediction.watch import check_folders, watch_folder

if TYPE_CHECKING:
    from boneage.prediction.answers import Answer
    from boneage.prediction.predict import Estimator

LEDGER_NAME = "watch.sqlite"
"""File in a folder of results that lists the answered files of a watched folder."""


def check_watch(options: Mapping[str, Any]) -> None:
    """Check that no option that names radiographs is given, or asks for all answers at once.

    Raises:
        InputError: One is.
    """
    for name, value in options.items():
        if value:
            what = f"it can't be combined with {name}"
            refuse("--watch", what, "Leave one of them out.")


def answer_folder(
    estimator: Estimator,
    folder: Path,
    places: tuple[Path | None, Path | None, Path | None],
    sex: str | None,
    writers: Sequence[AnswerWriter],
    show: Callable[[Answer], None],
    job: Mapping[str, Any],
) -> NoReturn:
    """Answer the radiographs that come into a folder, until a signal ends the process.

    What is no radiograph is passed over. So is a document of boneage that an archive sends back,
    which would be answered again and again.

    Args:
        estimator: The models.
        folder: The folder.
        places: The file of answers, the folder of DICOM answers and that of FHIR observations. Next
            to the first one that is given is the list of answered files.
        sex: `F` or `M`; None: that of the DICOM header.
        writers: What every answer is given to.
        show: Prints an answer.
        job: What the answers depend on; see `AnswerFile`.

    Raises:
        InputError: There is no place for answers, or one can't be written to.
    """
    out = places[0]
    with contextlib.ExitStack() as stack:
        ledger, answered, file = _find_ledger(*places), None, None
        check_folders(folder, ledger)
        if out is not None:
            when = out.stat().st_mtime_ns if out.exists() else 0  # opening it changes its time
            file = stack.enter_context(AnswerFile(out, job))
            answered = next(((Path(row[1]), when) for row in deque(read_lines(out), 1)), None)
        log(f"{folder}: waiting for files. Ctrl-C ends this.")
        for path in watch_folder(folder, ledger, answered=answered, log=log):
            if other_kind(str(path), path.name):
                continue
            answer = estimator.predict(path, sex)
            for writer in writers:
                writer.write(Request(path, sex), answer)
            if file is not None:
                file.write(answer)
            show(answer)
    raise AssertionError("a watched folder has no last file")


def _find_ledger(out: Path | None, *folders: Path | None) -> Path:
    if out is not None:
        return out.with_name(f"{out.name}.{LEDGER_NAME}")
    results = next((folder for folder in folders if folder is not None), None)
    if results is None:
        fix = "Add --out, --dicom-out or --fhir-out."
        refuse("--watch", "there is no place for the answers", fix)
    return results / LEDGER_NAME
