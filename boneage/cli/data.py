"""The verbs `boneage data …`: cohorts made, checked, looked at and prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boneage.cli.imports import import_app
from boneage.cli.output import (
    JsonOption,
    ManifestArgument,
    SeedOption,
    make_app,
    print_json,
    print_manifest,
)
from boneage.errors import Fault, InputError

if TYPE_CHECKING:
    from boneage.recipe import Framing

SizeOption = Annotated[
    int | None, typer.Option(min=32, max=2048, help="Side of the store, pixels; 299 if not said.")
]
RecipeOption = Annotated[
    Path | None, typer.Option(help="Take all framing settings of this recipe instead.")
]

data_app = make_app(None, "Make, check, look at and prepare cohorts.")
download_app = make_app(None, "Fetch a public dataset and import it.")
data_app.add_typer(import_app, name="import")
data_app.add_typer(download_app, name="download")


@data_app.command("phantom")
def data_phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    count: Annotated[int, typer.Option(min=10, help="Films to draw.")] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the cohort.")] = 0,
    size: Annotated[
        int, typer.Option(min=64, max=2048, help="Side of a radiograph, pixels.")
    ] = 256,
) -> None:
    """Draw a cohort of procedural hand radiographs: no download, no patients."""
    from boneage.datasets.phantom.cohort import make_phantom_cohort

    print_manifest(make_phantom_cohort(out, count=count, seed=seed, size=size))


@download_app.command("rsna")
def download_rsna(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to fetch and unpack into.")],
    source: Annotated[
        str, typer.Option(help="rsna: the challenge's archives; kaggle: its training images.")
    ] = "rsna",
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You have read and accept the set's terms.")
    ] = False,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep the archives once they are unpacked.")
    ] = False,
    seed: SeedOption = 0,
) -> None:
    """Fetch the RSNA 2017 challenge set (about 11 GB), unpack and import it; resumable."""
    from boneage.datasets.importers.rsna_download import download_rsna as run_download

    print_manifest(
        run_download(
            out, source=source, accept_terms=accept_terms, seed=seed, keep_archives=keep_archives
        )
    )


@data_app.command("check")
def data_check(manifest: ManifestArgument, as_json: JsonOption = False) -> None:
    """Read every row and image of a manifest and name what is wrong; errors exit 2, warnings 0."""
    from boneage.datasets.audit.audit import audit

    report = audit(manifest)
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo(report.render())
    raise typer.Exit(2 if report.has_errors else 0)


@data_app.command("card")
def data_card(
    manifest: ManifestArgument,
    out: Annotated[
        Path | None, typer.Option(help="The page to write; default MANIFEST's name-card.html.")
    ] = None,
) -> None:
    """Write a one-page data card: counts, ages by sex, sizes, faults and terms; no radiograph in it."""
    from boneage.evaluation.data_card import write_card

    typer.echo(str(write_card(manifest, out)))


@data_app.command("frame")
def data_frame(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Radiographs.")],
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which part of a radiograph the model is given: left, top, right, bottom in pixels."""
    from boneage.radiographs.framing import frame
    from boneage.radiographs.reader import read_radiograph

    framing = _framing(None, recipe)
    frames, faults = [], list[Fault]()
    for image in images:
        try:
            crop = frame(read_radiograph(image), framing).crop
        except InputError as error:
            faults += error.faults
            continue
        left, top, right, bottom = crop.box
        frames.append(
            {
                "image": str(image),
                "left": left,
                "top": top,
                "right": right,
                "bottom": bottom,
                "rotation": crop.rotation,
                "why": crop.why,
            }
        )
    if as_json:
        print_json({"frames": frames})
    else:
        for found in frames:
            box = " ".join(str(found[side]) for side in ("left", "top", "right", "bottom"))
            typer.echo(f"{found['image']}: {box}, turned by {found['rotation']}, {found['why']}")
    if faults:
        raise InputError(faults)


@data_app.command("look")
def data_look(
    manifest: ManifestArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the sheets; default MANIFEST's name.look.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Films to show, 20 on a sheet.")] = 60,
    size: SizeOption = None,
    recipe: RecipeOption = None,
) -> None:
    """Draw contact sheets: each radiograph beside what the model is given, the oddest first."""
    from boneage.datasets.manifest import read_manifest
    from boneage.pipeline.contact_sheet import check_folder, write_sheets
    from boneage.pipeline.store import prepare

    framing = _framing(size, recipe)
    cohort = read_manifest(manifest)
    folder = out or manifest.with_suffix(".look")
    check_folder(folder)  # now, not after an hour of preparing
    for sheet in write_sheets(cohort, prepare(cohort, framing), folder, count=count):
        typer.echo(str(sheet))


@data_app.command("prepare")
def data_prepare(
    manifest: ManifestArgument, size: SizeOption = None, recipe: RecipeOption = None
) -> None:
    """Decode and frame every image once, into a memory-mapped store (train does this too)."""
    from boneage.datasets.manifest import read_manifest
    from boneage.pipeline.store import prepare

    framing = _framing(size, recipe)
    store = prepare(read_manifest(manifest), framing)
    typer.echo(f"{store.folder}: {len(store):,} images of {framing.size} x {framing.size} pixels")


def _framing(size: int | None, recipe: Path | None) -> Framing:
    from boneage.cli.output import refuse
    from boneage.recipe import Framing, read_recipe

    if recipe and size:
        refuse("--size", "--size and --recipe can't be combined", "The recipe has its own size.")
    return read_recipe(recipe).framing if recipe else Framing(size=size or 299)
