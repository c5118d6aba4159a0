"""Documents of answers: what `boneage predict` writes for each radiograph, besides its row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boneage.cli.output import log
from boneage.errors import InputError
from boneage.prediction.dicom_output import (
    check_can_write_dicom,
    dicom_documents,
    write_documents,
)
from boneage.prediction.fhir import write_fhir_answer
from boneage.runtime.files import check_folder_writable

if TYPE_CHECKING:
    from boneage.prediction.answers import Answer
    from boneage.prediction.predict import Request


class DicomWriter:
    """Writes the DICOM documents of answers. A file that is no DICOM radiograph is reported.

    Attributes:
        missing: Number of answers that have no documents.
    """

    def __init__(self, folder: Path) -> None:
        """Check that the documents can be written.

        Raises:
            InputError: They can't, or highdicom is missing.
        """
        check_can_write_dicom()
        check_folder_writable(folder)
        self._folder = folder
        self.missing = 0

    def write(self, request: Request, answer: Answer) -> None:
        """Write the documents of one answer.

        Raises:
            InputError: The folder can't be written to.
        """
        try:
            documents = dicom_documents(Path(str(request.image)), answer)
        except InputError as error:
            self.missing += 1
            for fault in error.faults:
                log(f"error: no DICOM documents: {fault}")
            return
        write_documents(documents, self._folder)


class FhirWriter:
    """Writes the FHIR observations of answers."""

    def __init__(self, folder: Path) -> None:
        """Check that the observations can be written.

        Raises:
            InputError: They can't.
        """
        check_folder_writable(folder)
        self._folder = folder

    def write(self, request: Request, answer: Answer) -> None:
        """Write the observation of one answer.

        Raises:
            InputError: The folder can't be written to.
        """
        write_fhir_answer(Path(str(request.image)), answer, self._folder)
