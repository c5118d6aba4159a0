"""The verbs `boneage data import …`: one for each form in which datasets come."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from boneage.cli.output import OutOption, SeedOption, make_app, print_manifest
from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.datasets.importers.entry_points import Importer

MANIFEST = Path("manifest.csv")

DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Where it was unpacked.")]
AgeOption = Annotated[str, typer.Option(help="Column with the bone age.")]
UnitOption = Annotated[
    str, typer.Option(help="months, years, days or years-months (10y6m, 10-06).")
]
FemaleOption = Annotated[
    list[str], typer.Option(help="What the sex column says for a girl; may be repeated.")
]
MaleOption = Annotated[
    list[str], typer.Option(help="What the sex column says for a boy; may be repeated.")
]
SplitOption = Annotated[str | None, typer.Option(help="Column with train, val or test.")]
SheetOption = Annotated[str | None, typer.Option(help="Worksheet, where there are several.")]


class Importers(TyperGroup):
    """The importers here and, by their entry points, those of other packages."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all importers, ours first."""
        from boneage.datasets.importers.entry_points import importers

        ours = super().list_commands(ctx)
        return [*ours, *(name for name in importers() if name not in ours)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One importer; somebody else's is loaded now. None if there is none of that name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        from boneage.datasets.importers.entry_points import importers, load_importer

        point = importers().get(cmd_name)
        if point is None:
            return None
        try:
            return _command(load_importer(point))
        except InputError as error:
            return _broken_command(cmd_name, error)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Names, at the end of the help, importers of a name that is taken."""
        from boneage.datasets.importers.entry_points import hidden_importers

        super().format_epilog(ctx, formatter)
        for note in hidden_importers(super().list_commands(ctx)):
            formatter.write_paragraph()
            formatter.write_text(note)


import_app = make_app(None, "Turn a dataset as it comes into a manifest.", cls=Importers)


@import_app.command("rsna")
def import_rsna(folder: DirArgument, out: OutOption = MANIFEST, seed: SeedOption = 0) -> None:
    """Import the RSNA 2017 challenge set: the official archives, or Kaggle's copy."""
    from boneage.datasets.importers.rsna import import_rsna as run_import

    print_manifest(run_import(folder, out, seed=seed))


@import_app.command("rhpe")
def import_rhpe(folder: DirArgument, out: OutOption = MANIFEST) -> None:
    """Import RHPE: radiographs of both hands, of which the left one is cut out."""
    from boneage.datasets.importers.rhpe import import_rhpe as run_import

    print_manifest(run_import(folder, out))


@import_app.command("dha")
def import_dha(
    folder: DirArgument,
    readings: Annotated[Path, typer.Option(help="Table with two readings a radiograph.")],
    out: OutOption = MANIFEST,
    number: Annotated[str | None, typer.Option(help="Column with the radiograph's number.")] = None,
    reading_1: Annotated[str | None, typer.Option(help="Column with the first reading.")] = None,
    reading_2: Annotated[str | None, typer.Option(help="Column with the second reading.")] = None,
    chronological: Annotated[
        str | None, typer.Option(help="Column with the time since birth.")
    ] = None,
    sex: Annotated[str | None, typer.Option(help="Column compared with the folders' sex.")] = None,
    patient: Annotated[str | None, typer.Option(help="Column that tells patients apart.")] = None,
    readings_unit: Annotated[
        str | None, typer.Option(help="months or years, where the header does not say it.")
    ] = None,
    chronological_unit: Annotated[
        str | None, typer.Option(help="The same of the time since birth.")
    ] = None,
    sheet: SheetOption = None,
    seed: SeedOption = 0,
) -> None:
    """Import the Digital Hand Atlas: folders by race, sex and age, and a table of readings."""
    from boneage.datasets.importers.dha import import_dha as run_import

    print_manifest(
        run_import(
            folder,
            out,
            readings=readings,
            seed=seed,
            number=number,
            reading_1=reading_1,
            reading_2=reading_2,
            chronological=chronological,
            sex=sex,
            patient=patient,
            readings_unit=readings_unit,
            chronological_unit=chronological_unit,
            sheet=sheet,
        )
    )


@import_app.command("table")
def import_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, Excel or Parquet.")],
    image: Annotated[
        str,
        typer.Option(help="Column with the image's path, or a pattern such as films/{id}_*.tif."),
    ],
    age: AgeOption,
    age_unit: UnitOption,
    sex: Annotated[str, typer.Option(help="Column with the sex.")],
    female: FemaleOption,
    male: MaleOption,
    out: OutOption = MANIFEST,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder the paths start from; default the file's own.")
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Column that tells patients apart.")] = None,
    chronological: Annotated[
        str | None, typer.Option(help="Column with the time since birth.")
    ] = None,
    chronological_unit: Annotated[
        str | None, typer.Option(help="Its unit; default the bone age's.")
    ] = None,
    split: SplitOption = None,
    sheet: SheetOption = None,
    seed: SeedOption = 0,
) -> None:
    """Import any table of ages, whatever its columns, units and codes are called."""
    from boneage.datasets.importers.table import import_table as run_import

    print_manifest(
        run_import(
            file,
            out,
            image=image,
            age=age,
            age_unit=age_unit,
            sex=sex,
            female=female,
            male=male,
            image_root=image_root,
            patient=patient,
            chronological=chronological,
            chronological_unit=chronological_unit,
            split=split,
            sheet=sheet,
            seed=seed,
        )
    )


@import_app.command("dicom")
def import_dicom(
    ages: Annotated[Path, typer.Option(help="Table with a bone age for each radiograph.")],
    age: AgeOption,
    age_unit: UnitOption,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Folders or DICOM files.")
    ] = None,
    out: OutOption = MANIFEST,
    join: Annotated[
        str,
        typer.Option(
            help="What names a row's radiograph: SOPInstanceUID, AccessionNumber or file."
        ),
    ] = "SOPInstanceUID",
    join_column: Annotated[
        str | None, typer.Option(help="Column that holds it, if it is called otherwise.")
    ] = None,
    sex: Annotated[
        str | None, typer.Option(help="Column with the sex, where the headers lack it.")
    ] = None,
    female: FemaleOption = ["F"],  # noqa: B006 - Typer takes the default as it is
    male: MaleOption = ["M"],  # noqa: B006
    split: SplitOption = None,
    sheet: SheetOption = None,
    listing: Annotated[
        Path | None, typer.Option("--list", help="Text file with a path on each line.")
    ] = None,
    radiographs: Annotated[
        Path | None,
        typer.Option(help="Folder for copies with pixels only, named by pseudonyms."),
    ] = None,
    salt: Annotated[
        Path | None,
        typer.Option(help="Key of the pseudonyms; default: made once, beside the manifest."),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Import DICOM radiographs from a PACS and a table of ages; nobody is named in the manifest."""
    from boneage.datasets.importers.dicom import import_dicom as run_import

    print_manifest(
        run_import(
            paths or [],
            out,
            ages=ages,
            age=age,
            age_unit=age_unit,
            join=join,
            join_column=join_column,
            sex=sex,
            female=female,
            male=male,
            split=split,
            sheet=sheet,
            listing=listing,
            radiographs=radiographs,
            salt=salt,
            seed=seed,
        )
    )


def _command(importer: Importer) -> Any:
    """The verb of somebody else's importer, from its parameters; `out` becomes `--out`.

    Raises:
        InputError: One of its parameters is of a type that no option can have.
    """
    from boneage.datasets.manifest import Manifest

    def run(**arguments: Any) -> None:
        try:
            manifest = importer.function(**arguments)
        except (InputError, typer.Exit, typer.Abort):
            raise
        except Exception as error:  # whatever it is, say whose it is
            what = f"it failed ({type(error).__name__}: {error})"
            raise InputError(importer.fault(what, "a manifest or an InputError")) from error
        if not isinstance(manifest, Manifest):
            what = f"it returned {type(manifest).__name__}"
            expected = "a Manifest, as boneage.datasets.manifest.write_manifest returns it"
            raise InputError(importer.fault(what, expected))
        print_manifest(manifest)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in importer.parameters]
    out = inspect.Parameter(
        "out", inspect.Parameter.KEYWORD_ONLY, default=MANIFEST, annotation=OutOption
    )
    run.__signature__ = inspect.Signature([*parameters, out])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, out]}
    text = (inspect.getdoc(importer.function) or "").partition("\n\n")[0]
    try:
        return _alone(importer.name, run, text)
    except Exception as error:  # Typer has no one error for what it can't make an option of
        what = f"its parameters can't be options ({type(error).__name__}: {error})"
        expected = "parameters of types that Typer knows: Path, str, int, float, bool, lists"
        raise InputError(importer.fault(what, expected)) from error


def _broken_command(name: str, error: InputError) -> Any:
    """A verb that is listed with what is wrong with it, and refuses with the same."""

    def refuse() -> None:
        raise error

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    what = "; ".join(fault.what for fault in error.faults)
    return _alone(name, refuse, f"Broken: {what}", context_settings=anything)


def _alone(name: str, function: Callable[..., None], text: str, **settings: Any) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, help=text, **settings)(function)
    return typer.main.get_command(alone)
