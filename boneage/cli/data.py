"""`boneage data …`: import, check and prepare datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boneage.cli.imports import import_app
from boneage.cli.output import (
    JsonOption,
    ManifestArgument,
    SeedOption,
    echo,
    make_app,
    print_json,
    print_manifest,
    refuse,
    verb_group,
)
from boneage.errors import Fault, InputError, utf8

if TYPE_CHECKING:
    from boneage.recipe import Framing

SizeOption = Annotated[
    int | None,
    typer.Option(min=32, max=2048, help="Side of the images in pixels. Default: 299."),
]
RecipeOption = Annotated[
    str | None, typer.Option(help="Recipe with the size and framing. Default: 299 pixels.")
]

VERBS = ("import", "download", "check", "card", "contact-sheet", "frame", "prepare", "phantom")
REMOVED_VERBS = {"look": "Use boneage data contact-sheet."}

data_app = make_app(
    None, "Import, check and prepare datasets.", cls=verb_group(VERBS, REMOVED_VERBS)
)
download_app = make_app(None, "Download a public dataset and import it.")
data_app.add_typer(import_app, name="import")
data_app.add_typer(download_app, name="download")


@data_app.command("phantom")
def data_phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    count: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="Number of radiographs.")
    ] = 1500,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the drawings.")] = 0,
    size: Annotated[
        int, typer.Option(min=64, max=2048, help="Side of the radiographs, pixels.")
    ] = 256,
) -> None:
    """Draw a dataset of synthetic hand radiographs (phantoms)."""
    from boneage.datasets.phantom.cohort import make_phantom_cohort

    print_manifest(make_phantom_cohort(out, count=count, seed=seed, size=size))


def _refuse_kaggle(value: str) -> None:
    if value != "rsna":
        page = "https://www.kaggle.com/datasets/kmader/rsna-bone-age"
        fix = f"Download {page} with a browser, unpack it, and run: boneage data import rsna DIR"
        refuse(f"--source {value}", "only the official archives are downloaded", fix)


@download_app.command("rsna")
def download_rsna(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to download into.")],
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Accept the terms of the dataset.")
    ] = False,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep the archives after unpacking.")
    ] = False,
    seed: SeedOption = 0,
    source: Annotated[str, typer.Option("--source", hidden=True, callback=_refuse_kaggle)] = "rsna",
) -> None:
    """Download and import the RSNA 2017 challenge set (about 11 GB).

    Repeat the command to continue an interrupted download.
    """
    from boneage.datasets.importers.rsna_download import download_rsna as run_download

    print_manifest(
        run_download(out, accept_terms=accept_terms, seed=seed, keep_archives=keep_archives)
    )


@data_app.command("check")
def data_check(
    manifest: ManifestArgument,
    model: Annotated[
        Path | None,
        typer.Option(help="Also name the images that this run or shipped model would refuse."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every row and image of a manifest.

    All faults are reported at once. Exit code 2 if there is an error, 0 for warnings only.
    """
    from boneage.datasets.audit.audit import audit

    judge = None
    if model is not None:
        from boneage.prediction.predictor import Predictor
        from boneage.prediction.shipped import open_run

        judge = Predictor(open_run(model), views=1).refuse
    report = audit(manifest, judge=judge)
    if as_json:
        print_json(report.as_dict())
    else:
        typer.echo(report.render())
    raise typer.Exit(2 if report.has_errors else 0)


@data_app.command("card")
def data_card(
    manifest: ManifestArgument,
    out: Annotated[
        Path | None, typer.Option(help="Page to write. Default: NAME-card.html.")
    ] = None,
) -> None:
    """Write a one-page data card: counts, ages, sizes and faults."""
    from boneage.evaluation.data_card import write_card

    echo(str(write_card(manifest, out)))


@data_app.command("frame")
def data_frame(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Radiographs.")],
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the crop that the model sees, in pixels."""
    from boneage.radiographs.framing import frame
    from boneage.radiographs.image_quality import find_blank
    from boneage.radiographs.reader import read_radiograph

    framing = _framing(None, recipe)
    frames, faults = [], list[Fault]()
    for image in images:
        try:
            pixels = read_radiograph(image)
            blank, crop = find_blank(pixels), frame(pixels, framing).crop
        except InputError as error:
            faults += error.faults
            continue
        if blank is not None:
            faults.append(Fault(str(image), blank.what, blank.fix))
            continue
        left, top, right, bottom = crop.box
        frames.append(
            {
                "image": utf8(str(image)),
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
            echo(f"{found['image']}: {box}, turned by {found['rotation']}, {found['why']}")
    if faults:
        raise InputError(faults)


@data_app.command("contact-sheet")
def data_contact_sheet(
    manifest: ManifestArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sheets. Default: NAME.contact-sheet.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Number of images, 20 on a sheet.")
    ] = 60,
    size: SizeOption = None,
    recipe: RecipeOption = None,
) -> None:
    """Draw contact sheets of radiographs and framed images.

    The most unusual images come first.
    """
    from boneage.datasets.manifest import read_manifest
    from boneage.pipeline.contact_sheet import write_contact_sheet
    from boneage.pipeline.store import prepare
    from boneage.runtime.files import check_folder_writable

    framing = _framing(size, recipe)
    cohort = read_manifest(manifest)
    folder = out or manifest.with_suffix(".contact-sheet")
    check_folder_writable(folder)  # before an hour of preparing
    for sheet in write_contact_sheet(cohort, prepare(cohort, framing), folder, count=count):
        echo(str(sheet))


@data_app.command("prepare")
def data_prepare(
    manifest: ManifestArgument, size: SizeOption = None, recipe: RecipeOption = None
) -> None:
    """Decode and frame every image once, into a store.

    `boneage train` does this too.
    """
    from boneage.datasets.manifest import read_manifest
    from boneage.pipeline.store import prepare

    framing = _framing(size, recipe)
    store = prepare(read_manifest(manifest), framing)
    echo(f"{store.folder}: {len(store):,} images of {framing.size} x {framing.size} pixels")


def _framing(size: int | None, recipe: str | None) -> Framing:
    from boneage.recipe import Framing, find_recipe, read_recipe

    if recipe and size:
        refuse("--size", "--size and --recipe can't be combined", "The recipe has its own size.")
    return read_recipe(find_recipe(recipe)).framing if recipe else Framing(size=size or 299)
