"""`boneage data import …`: one verb for each form in which a dataset comes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.cli.output import (
    OutOption,
    SeedOption,
    make_app,
    print_manifest,
    refuse,
    renamed_option,
)
from boneage.cli.plugins import MANIFEST, Importers


def _help(text: str) -> Any:
    return typer.Option(help=text)


# The same option has the same name, help and meaning in every verb.
DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the dataset.")]
LabelsOption = Annotated[
    Path, typer.Option("--labels", metavar="FILE", help="Table: CSV, TSV, Excel or Parquet.")
]
AgeOption = Annotated[str, _help("Column with the bone age.")]
UnitOption = Annotated[
    str, _help("Unit of the bone age: months, years, days, decimal-years or years-months (10y6m).")
]
FemaleOption = Annotated[list[str], _help("Code of a girl in the sex column; may be repeated.")]
MaleOption = Annotated[list[str], _help("Code of a boy in the sex column; may be repeated.")]
PatientOption = Annotated[str | None, _help("Column that identifies the patient.")]
ChronologicalOption = Annotated[
    str | None, _help("Column with the chronological age (time since birth).")
]
SplitOption = Annotated[
    str | None, _help("Column with train, val or test. Default: a seeded 80/10/10 split.")
]
SheetOption = Annotated[
    str | None, _help("Worksheet of a workbook. Default: the only one with a table.")
]


def _refuse_films(value: str | None) -> None:
    if value is not None:
        fix = "Omit it: the images are always written to the folder NAME-images next to --out."
        refuse("--films", "this option was removed", fix)


import_app = make_app(None, "Convert a dataset to a manifest, which all verbs read.", cls=Importers)


@import_app.command("table")
def import_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, Excel or Parquet.")],
    image: Annotated[
        str, _help("Column with the image's path, or a pattern such as images/{id}_*.tif.")
    ],
    age: AgeOption,
    age_unit: UnitOption,
    sex: Annotated[str, _help("Column with the sex.")],
    female: FemaleOption,
    male: MaleOption,
    out: OutOption = MANIFEST,
    image_root: Annotated[
        Path | None, _help("Folder of relative paths. Default: that of FILE.")
    ] = None,
    patient: PatientOption = None,
    chronological: ChronologicalOption = None,
    chronological_unit: Annotated[
        str | None, _help("Unit of the chronological age. Default: --age-unit.")
    ] = None,
    split: SplitOption = None,
    sheet: SheetOption = None,
    seed: SeedOption = 0,
) -> None:
    """Import any table of bone ages and its radiographs."""
    if out.exists() and file.exists() and out.samefile(file):
        refuse(f"--out {out}", "this is the table to import", "Name another file with --out.")
    from boneage.datasets.importers.table import TableColumns
    from boneage.datasets.importers.table import import_table as run_import

    columns = TableColumns(
        image,
        age,
        age_unit,
        sex,
        female,
        male,
        patient=patient,
        chronological=chronological,
        chronological_unit=chronological_unit,
        split=split,
    )
    print_manifest(run_import(file, out, columns, image_root=image_root, sheet=sheet, seed=seed))


@import_app.command("dicom")
def import_dicom(
    labels: LabelsOption,
    age: AgeOption,
    age_unit: UnitOption,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Folders or DICOM files.")
    ] = None,
    out: OutOption = MANIFEST,
    join: Annotated[
        str, _help("Key of a radiograph: SOPInstanceUID, AccessionNumber or file.")
    ] = "SOPInstanceUID",
    join_column: Annotated[
        str | None, _help("Column with that key. Default: found by its name.")
    ] = None,
    sex: Annotated[
        str | None, _help("Column with the sex. Default: PatientSex of the header.")
    ] = None,
    female: FemaleOption = ["F"],  # noqa: B006 - Typer copies the default
    male: MaleOption = ["M"],  # noqa: B006
    split: SplitOption = None,
    sheet: SheetOption = None,
    listing: Annotated[
        Path | None, typer.Option("--list", help="Text file with one path on each line.")
    ] = None,
    salt: Annotated[
        Path | None, _help("Key file of the pseudonyms. Default: OUT.salt, created once.")
    ] = None,
    seed: SeedOption = 0,
    ages: Annotated[str | None, renamed_option("--ages", "--labels")] = None,
    films: Annotated[
        str | None, typer.Option("--films", hidden=True, callback=_refuse_films)
    ] = None,
) -> None:
    """Import DICOM radiographs as PNG images under pseudonyms.

    A table holds their bone ages.
    """
    from boneage.datasets.importers.dicom.importer import import_dicom as run_import
    from boneage.datasets.importers.dicom.labels import LabelTable

    table = LabelTable(
        labels, age, age_unit, join, join_column, sex, female, male, split=split, sheet=sheet
    )
    print_manifest(
        run_import(paths or [], out, labels=table, listing=listing, salt=salt, seed=seed)
    )


@import_app.command("rsna")
def import_rsna(
    folder: DirArgument,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT=FILE",
            help="Table of a split; may be repeated. Default: found by its columns.",
        ),
    ] = None,
    out: OutOption = MANIFEST,
    seed: SeedOption = 0,
) -> None:
    """Import the RSNA 2017 challenge set.

    The official archives or Kaggle's copy, unpacked.
    """
    from boneage.datasets.importers.rsna import import_rsna as run_import
    from boneage.datasets.importers.rsna import parse_labels

    print_manifest(run_import(folder, out, labels=parse_labels(labels or []), seed=seed))


@import_app.command("rhpe")
def import_rhpe(folder: DirArgument, out: OutOption = MANIFEST) -> None:
    """Import RHPE: the left hands of its radiographs."""
    from boneage.datasets.importers.rhpe import import_rhpe as run_import

    print_manifest(run_import(folder, out))


@import_app.command("dha")
def import_dha(
    folder: DirArgument,
    readings: LabelsOption,
    readings_unit: Annotated[str, _help("Unit of the readings: months or years.")],
    out: OutOption = MANIFEST,
    number: Annotated[
        str | None, _help("Column with the radiograph's number. Default: found.")
    ] = None,
    reading_1: Annotated[
        str | None, _help("Column with the first reading. Default: found.")
    ] = None,
    reading_2: Annotated[
        str | None, _help("Column with the second reading. Default: found.")
    ] = None,
    chronological: ChronologicalOption = None,
    sex: Annotated[str | None, _help("Column with the sex, compared with the folder's.")] = None,
    patient: PatientOption = None,
    chronological_unit: Annotated[
        str | None, _help("Unit of the chronological age. Default: the header's.")
    ] = None,
    sheet: SheetOption = None,
    seed: SeedOption = 0,
    old: Annotated[str | None, renamed_option("--readings", "--labels")] = None,
) -> None:
    """Import the Digital Hand Atlas and a table of its readings."""
    options = locals()
    del options["old"]
    from boneage.datasets.importers.dha import import_dha as run_import

    print_manifest(run_import(**options))
