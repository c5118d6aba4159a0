"""Check the radiographs that the table names: what refuses an import, and what is only noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from boneage.datasets.cells import Finding
from boneage.datasets.importers.dicom.files import DicomFiles
from boneage.datasets.importers.dicom.labels import Labels, Match
from boneage.datasets.label_rules import SEXES
from boneage.datasets.validation import rows_that_differ
from boneage.radiographs.dicom_headers import (
    OTHER_MODALITIES,
    RADIOGRAPH_MODALITIES,
    DicomHeader,
    is_placeholder_id,
)

_FIRST_FEW = 5
_MANY_RADIOGRAPHS, _LARGE_SHARE = 10, 0.2


def patients_of(headers: Sequence[DicomHeader]) -> list[tuple[str, str]]:
    """Return issuer and id of each radiograph's patient; ("", "") where the header names none.

    An id with an issuer in some headers and without in others counts as one patient. Two children
    counted as one stay in the same split; one child counted as two might not.
    """
    without_issuer = {header.patient[1] for header in headers if not header.patient[0]}
    patients = []
    for header in headers:
        issuer, patient_id = header.patient
        if is_placeholder_id(patient_id):
            patients.append(("", ""))
        else:
            patients.append(("" if patient_id in without_issuer else issuer, patient_id))
    return patients


def radiograph_findings(labels: Labels, matched: Sequence[DicomHeader | None]) -> list[Finding]:
    """Return everything that keeps a radiograph out of a manifest.

    Args:
        labels: The table.
        matched: The header of each row's radiograph; None where it is not clear which.
    """
    headers = {row: header for row, header in enumerate(matched) if header is not None}

    def rows(is_wrong: Callable[[DicomHeader], bool]) -> list[int]:
        return [row for row, header in headers.items() if is_wrong(header)]

    cells = labels.cells
    return [
        *cells.row_findings(
            "no-uid",
            rows(lambda header: not header.instance_uid),
            lambda row: "the SOPInstanceUID of its radiograph is empty",
            "",
            "Export it again. A tool that removes UIDs must replace them.",
        ),
        *cells.row_findings(
            "unknown-sex",
            rows(lambda header: labels.sexes is None and header.sex not in SEXES),
            lambda row: f"the PatientSex of its radiograph is {headers[row].sex or 'empty'}",
            "F or M",
            "If the table has a column with the sex, name it with --sex. A sex is never guessed.",
        ),
        *cells.row_findings(
            "several-frames",
            rows(lambda header: header.frames != 1),
            lambda row: (
                "the NumberOfFrames of its radiograph is "
                f"{'not a number' if headers[row].frames is None else headers[row].frames}"
            ),
            "1",
            "Export the single radiograph instead.",
        ),
        *cells.row_findings(
            "not-a-radiograph",
            rows(lambda header: header.modality in OTHER_MODALITIES),
            lambda row: f"the Modality of its radiograph is {headers[row].modality}",
            ", ".join(RADIOGRAPH_MODALITIES),
            "Is it the right file of the study? Join by SOPInstanceUID.",
        ),
        *_patient_findings(labels, headers),
    ]


def _patient_findings(labels: Labels, headers: dict[int, DicomHeader]) -> list[Finding]:
    """Return radiographs of one patient that differ in the sex or the split."""
    used = list(headers)
    patients = [p if p[1] else None for p in patients_of(list(headers.values()))]
    sexes = [labels.sexes[row] if labels.sexes else headers[row].sex for row in used]
    splits = [labels.splits[row] if labels.splits else "" for row in used]
    findings = []
    for code, values, what in (
        (
            "patient-with-two-sexes",
            [sex if sex in SEXES else "" for sex in sexes],
            "the patient's sex is {} here and {} in row {}",
        ),
        ("patient-in-two-splits", splits, "the patient is in {} here and in {} in row {}"),
    ):
        whats = {
            used[row]: what.format(values[row], values[first], labels.cells.rows[used[first]])
            for row, first in rows_that_differ(patients, values).items()
        }
        fix = "Correct the table, or have the radiograph's registration corrected."
        findings += labels.cells.row_findings(code, whats, whats.__getitem__, "", fix)
    return findings


def radiograph_notes(
    labels: Labels, headers: Sequence[DicomHeader], files: DicomFiles, matched: Match
) -> Iterator[str]:
    """Yield what is not a fault but should be known: counts, and codes of the DICOM standard.

    Args:
        labels: The table.
        headers: The radiographs that are used.
        files: Everything that was found.
        matched: How the radiographs were chosen.
    """
    yield from _left_out(labels, headers, files, matched)
    yield from _about_images(headers)
    yield from _about_children(labels, headers)
    yield from _about_ages(headers)


def _left_out(
    labels: Labels, headers: Sequence[DicomHeader], files: DicomFiles, matched: Match
) -> Iterator[str]:
    rest = len(files.headers) - len(headers) - matched.copies
    if rest:
        table = Path(labels.cells.where).name
        yield f"Left out because {table} has no row for them: {_count(rest, 'radiograph')}."
    if matched.copies:
        yield f"Left out because they equal another file: {_count(matched.copies, 'file')}."
    if matched.chosen:
        yield (
            f"{_count(matched.chosen, 'row')} named a study with several radiographs. The only "
            "one of a hand, by its BodyPartExamined, was used."
        )
    others = {
        "not DICOM": len(files.not_dicom),
        "DICOMDIR": files.directories,
        "DICOM without an image (reports, presentation states)": files.without_image,
        "DICOM that can't be read": len(files.broken),
    }
    listed = ", ".join(f"{count:,} {kind}" for kind, count in others.items() if count)
    if listed:
        yield f"Files left out: {listed}."


def _about_images(headers: Sequence[DicomHeader]) -> Iterator[str]:
    modalities = Counter(header.modality or "empty" for header in headers)
    unusual = {name: n for name, n in modalities.items() if name not in RADIOGRAPH_MODALITIES}
    if unusual:
        yield f"Modality is {_counts(unusual)}. Are these plain radiographs?"
    elsewhere = Counter(header.body_part or "empty" for header in headers if not header.is_of_hand)
    if elsewhere:
        yield f"BodyPartExamined is {_counts(elsewhere)}. Are these radiographs of hands?"
    right = sum(header.laterality == "R" for header in headers)
    if right:
        yield f"Radiographs of the right side: {right:,}. Atlases use the left hand."
    burned_in = sum(header.has_burned_in_text for header in headers)
    if burned_in:
        yield (
            f"BurnedInAnnotation is YES in {_count(burned_in, 'radiograph')}. The image itself may "
            "show a name, and nothing removes it. Inspect these images before you share them."
        )


def _about_children(labels: Labels, headers: Sequence[DicomHeader]) -> Iterator[str]:
    yield from labels.notes
    if labels.sexes is not None:
        pairs = enumerate(zip(labels.sexes, headers, strict=True))
        differing = [r for r, (sex, h) in pairs if h.sex in SEXES and h.sex != sex]
        if differing:
            named = ", ".join(f"{labels.cells.rows[row]}" for row in differing[:_FIRST_FEW])
            more = ", …" if len(differing) > _FIRST_FEW else ""
            yield (
                f"The table's sex differs from PatientSex in {_count(len(differing), 'row')} "
                f"({named}{more}). The table's was used. Is it the right radiograph?"
            )
    patients = Counter(patient for patient in patients_of(headers) if patient[1])
    nobody = len(headers) - patients.total()
    if nobody:
        yield (
            f"Radiographs without a usable PatientID: {nobody:,}. Each counts as a patient of its "
            "own, so two radiographs of one child may be in different splits."
        )
    largest = max(patients.values(), default=0)
    if largest >= max(_MANY_RADIOGRAPHS, _LARGE_SHARE * len(headers)):
        yield (
            f"One patient has {largest:,} of {len(headers):,} radiographs, all in one split. "
            "Is that PatientID a placeholder?"
        )


def _about_ages(headers: Sequence[DicomHeader]) -> Iterator[str]:
    known = sum(header.age.months is not None for header in headers)
    if known:
        yield (
            f"Chronological ages: {known:,} of {len(headers):,}, in whole months. With the day of "
            "a radiograph such an age gives the month of birth, not the day."
        )
    else:
        yield "No header gives a plausible chronological age."
    in_years = sum(header.age.is_in_years for header in headers)
    if in_years:
        yield (
            f"Chronological ages in completed years only (PatientAge): {in_years:,}. They are up "
            "to 11 months too low."
        )
    contradictory = sum(header.age.is_contradictory for header in headers)
    if contradictory:
        yield (
            f"Chronological ages left empty, because the header's dates and its PatientAge "
            f"contradict each other: {contradictory:,}."
        )


def _counts(values: dict[str, int]) -> str:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    return ", ".join(f"{value} ({count:,})" for value, count in ordered)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else noun + 's'}"
