"""What is wrong with the radiographs that a table means, and what should be known about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from boneage.datasets.importers.ages import has_decimal_commas
from boneage.datasets.importers.dicom_headers import (
    NO_RADIOGRAPH,
    PLAIN_RADIOGRAPH,
    DicomFiles,
    DicomRadiograph,
    patients_of,
)
from boneage.datasets.importers.dicom_labels import Match, Readings
from boneage.datasets.tables.cells import Finding
from boneage.datasets.validation import SPLITS
from boneage.errors import Fault

_FIRST_FEW = 5
_MANY_RADIOGRAPHS, _LARGE_SHARE = 10, 0.2


def radiograph_findings(
    readings: Readings, radiographs: Sequence[DicomRadiograph | None], *, in_place: bool
) -> list[Finding]:
    """Everything that keeps a radiograph out of a manifest.

    Args:
        readings: The table.
        radiographs: The radiograph of each row; None where that is not clear.
        in_place: The manifest is to refer to the DICOM files where they are.
    """
    cells = readings.cells
    radiograph_at = {
        row: radiograph for row, radiograph in enumerate(radiographs) if radiograph is not None
    }

    def of(row: int) -> str:
        return f"of its radiograph {radiograph_at[row].shown()}"

    sexless = (
        [] if readings.sexes is not None else _rows(radiograph_at, "sex", ("F", "M"), inside=False)
    )
    return [
        *cells.row_findings(
            "no-uid",
            [row for row, radiograph in radiograph_at.items() if not radiograph.instance],
            lambda row: f"the SOPInstanceUID {of(row)} is empty",
            "one, as every DICOM object has",
            "Export it again; a tool that removes UIDs must put others in their place.",
        ),
        *cells.row_findings(
            "unknown-sex",
            sexless,
            lambda row: f"the PatientSex {of(row)} is {radiograph_at[row].sex or 'empty'}",
            "F or M",
            "If the table holds the sex, name its column with --sex; it is never guessed.",
        ),
        *cells.row_findings(
            "several-frames",
            [row for row, radiograph in radiograph_at.items() if radiograph.frames != 1],
            lambda row: (
                f"the NumberOfFrames {of(row)} is {radiograph_at[row].frames or 'no number'}"
            ),
            "one picture in a file",
            "Export the single radiograph instead.",
        ),
        *cells.row_findings(
            "no-radiograph",
            _rows(radiograph_at, "modality", NO_RADIOGRAPH, inside=True),
            lambda row: f"the Modality {of(row)} is {radiograph_at[row].modality}",
            f"a radiograph ({', '.join(PLAIN_RADIOGRAPH)})",
            "Is it the right radiograph of the study? Join by SOPInstanceUID.",
        ),
        *(_disclosure_findings(readings, radiograph_at) if in_place else []),
        *cells.row_findings(
            "unwritable-path",
            [
                row
                for row, radiograph in radiograph_at.items()
                if in_place and not _is_text(str(radiograph.path))
            ],
            lambda row: (
                "the path of its radiograph has bytes that are no text, or blanks at its end"
            ),
            "a path that a CSV file can hold",
            "Rename it, or pass --films FOLDER.",
        ),
        *_patient_findings(readings, radiograph_at),
    ]


def _is_text(path: str) -> bool:
    """Whether a manifest can hold it: names in an old encoding are no UTF-8, cells are stripped."""
    return path.isprintable() and path == path.strip()


def _rows(
    radiograph_at: Mapping[int, DicomRadiograph], field: str, values: Sequence[str], *, inside: bool
) -> list[int]:
    return [
        row
        for row, radiograph in radiograph_at.items()
        if (getattr(radiograph, field) in values) == inside
    ]


def _disclosure_findings(
    readings: Readings, radiograph_at: Mapping[int, DicomRadiograph]
) -> list[Finding]:
    """One fault for all radiographs, without a path: they would stand in the message as well."""
    telling = {row: radiograph for row, radiograph in radiograph_at.items() if radiograph.discloses}
    if not telling:
        return []
    counts = Counter(kind for radiograph in telling.values() for kind in radiograph.discloses)
    kinds = ", ".join(f"{kind} ({count:,})" for kind, count in counts.most_common())
    what = f"the paths of {len(telling):,} of {len(radiograph_at):,} radiographs hold {kinds}"
    return [
        Finding(
            "identifying-path",
            Fault(
                f"{readings.cells.where}: {_row_list(readings, list(telling))}",
                what,
                "Pass --films FOLDER: it gets copies named by pseudonyms, with nothing but pixels.",
                expected="paths that tell nobody who the children are, because they stand in the manifest",
            ),
        )
    ]


def _row_list(readings: Readings, rows: Sequence[int]) -> str:
    named = ", ".join(f"{readings.cells.rows[row]}" for row in rows[:_FIRST_FEW])
    noun = "row" if len(rows) == 1 else "rows"
    return f"{noun} {named}{', …' if len(rows) > _FIRST_FEW else ''}"


def _patient_findings(
    readings: Readings, radiograph_at: Mapping[int, DicomRadiograph]
) -> list[Finding]:
    """Films of one patient that disagree about the sex, or stand in different splits."""
    patients = dict(zip(radiograph_at, patients_of(list(radiograph_at.values())), strict=True))
    sexes = dict.fromkeys(radiograph_at, "")
    for row, radiograph in radiograph_at.items():
        sexes[row] = radiograph.sex if readings.sexes is None else readings.sexes[row]
    splits = {row: readings.splits[row] if readings.splits else "" for row in radiograph_at}
    cells = readings.cells
    findings = []
    for code, values, what in (
        ("sex-differs", sexes, "its patient's sex is {} here and {} in row {}"),
        ("patient-in-two-splits", splits, "its patient is in {} here and in {} in row {}"),
    ):
        first: dict[tuple[str, str], int] = {}
        told = {}
        for row, patient in patients.items():
            if patient[1] and values[row] in ("F", "M", *SPLITS):
                earlier = first.setdefault(patient, row)
                if values[earlier] != values[row]:
                    told[row] = what.format(values[row], values[earlier], cells.rows[earlier])
        findings += cells.row_findings(
            code,
            told,
            lambda row, told=told: told[row],  # type: ignore[misc]
            "the same for all radiographs of a patient",
            "Correct the table, or have the radiograph's registration corrected.",
        )
    return findings


def radiograph_notes(
    readings: Readings, radiographs: Sequence[DicomRadiograph], found: DicomFiles, matched: Match
) -> Iterator[str]:
    """What is no fault and should be known all the same; counts, and codes of the standard."""
    yield from _left_out(readings, radiographs, found, matched)
    yield from _about_pictures(radiographs)
    yield from _about_children(readings, radiographs)


def _left_out(
    readings: Readings, radiographs: Sequence[DicomRadiograph], found: DicomFiles, matched: Match
) -> Iterator[str]:
    table = Path(readings.cells.where).name
    rest = len(found.radiographs) - len(radiographs) - matched.copies
    if rest:
        yield f"Left out, because {table} has no row for them: {_count(rest, 'film', 'films')}."
    if matched.copies:
        copies = _count(matched.copies, "file", "files")
        yield f"Left out, because another is the same byte for byte: {copies}."
    if matched.chosen:
        yield (
            f"{_count(matched.chosen, 'study has', 'studies have')} several radiographs; the only one "
            "of a hand by its BodyPartExamined was taken."
        )
    others = {
        "not DICOM": len(found.strangers),
        "DICOMDIR": found.directories,
        "DICOM without a picture (reports, presentation states)": found.pictureless,
        "DICOM that can't be read": len(found.broken),
    }
    listed = ", ".join(f"{count:,} {kind}" for kind, count in others.items() if count)
    if listed:
        yield f"Files passed over: {listed}."


def _about_pictures(radiographs: Sequence[DicomRadiograph]) -> Iterator[str]:
    unusual = Counter(
        f.modality or "empty" for f in radiographs if f.modality not in PLAIN_RADIOGRAPH
    )
    if unusual:
        yield f"Modality is {_counts(unusual)}: are these plain radiographs?"
    elsewhere = Counter(
        radiograph.body_part or "empty" for radiograph in radiographs if not radiograph.of_hand
    )
    if elsewhere:
        yield f"BodyPartExamined is {_counts(elsewhere)}: are these radiographs of hands?"
    right = sum(radiograph.laterality == "R" for radiograph in radiographs)
    if right:
        yield f"{_count(right, 'film is', 'films are')} of the right side; atlases use the left."
    burned = sum(radiograph.burned_in for radiograph in radiographs)
    if burned:
        yield (
            f"{_count(burned, 'film has', 'films have')} BurnedInAnnotation YES: names may stand "
            "in the picture itself, where nothing takes them out. Look at them before they leave."
        )


def _about_children(readings: Readings, radiographs: Sequence[DicomRadiograph]) -> Iterator[str]:
    if has_decimal_commas(readings.ages):
        yield "The bone ages were read with decimal commas: 10,5 is 10.5."
    if readings.sexes is not None:
        pairs = enumerate(zip(readings.sexes, radiographs, strict=True))
        differing = [
            row
            for row, (sex, radiograph) in pairs
            if radiograph.sex in ("F", "M") and radiograph.sex != sex
        ]
        if differing:
            yield (
                f"The sex in {_row_list(readings, differing)} is not that of PatientSex "
                f"({len(differing):,} in all); the table's was taken. Is it the right radiograph?"
            )
    patients = Counter(patient for patient in patients_of(radiographs) if patient[1])
    nobody = len(radiographs) - patients.total()
    if nobody:
        yield (
            f"{_count(nobody, 'film has', 'films have')} no PatientID to go by: each counts as a "
            "patient of its own, and radiographs of one child may come into different splits."
        )
    largest = max(patients.values(), default=0)
    if largest >= max(_MANY_RADIOGRAPHS, _LARGE_SHARE * len(radiographs)):
        yield (
            f"One patient has {largest:,} of {len(radiographs):,} radiographs: is that PatientID a stand-in? "
            "They all come into one split."
        )
    yield from _about_ages(radiographs)


def _about_ages(radiographs: Sequence[DicomRadiograph]) -> Iterator[str]:
    known = sum(radiograph.age.months is not None for radiograph in radiographs)
    if known:
        yield (
            f"Chronological ages: {known:,} of {len(radiographs):,}, in whole months: with the day of a "
            "film one tells the month of birth, not the day."
        )
    else:
        yield "No radiograph tells a chronological age that could be."
    coarse = sum(radiograph.age.coarse for radiograph in radiographs)
    if coarse:
        yield (
            f"{_count(coarse, 'chronological age is', 'chronological ages are')} in completed "
            "years only (PatientAge), up to 11 months too low."
        )
    odd = sum(radiograph.age.contradictory for radiograph in radiographs)
    if odd:
        yield (
            f"{_count(odd, 'chronological age is', 'chronological ages are')} left empty, because "
            "the radiograph's dates and its PatientAge contradict each other."
        )


def _counts(values: Counter[str]) -> str:
    return ", ".join(f"{value} ({count:,})" for value, count in values.most_common())


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
