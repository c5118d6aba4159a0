"""`boneage export`: a network in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from boneage.cli.output import JsonOption, RunArgument, echo, print_json, refuse

HUB = "hub"


def export(
    run: RunArgument,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="Format: onnx, litert, openvino or saved-model; or hub, the folder of a released "
            "model for the Hugging Face hub.",
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make. Default: NAME-FORMAT in the working folder."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Manifest whose images are compared. Default: the run's own, or drawn hands."
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Type of the stored weights: float16, which only onnx has, or float32. "
            "Default: float16 for onnx."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a run's network for other programs, or for predictions without TensorFlow.

    The network takes framed images and the sex, and answers months. The folder also holds the
    recipe, the constants of intervals and of refusal, a card, the licence and checksums. The
    answers for 200 images are compared with those of Keras, and must agree. Needs the packages of
    boneage[export]. `boneage predict` reads a folder in the formats onnx and hub.

    The format hub computes nothing and needs no Keras. It adds the front matter of the hub to the
    card of a released model.
    """
    if format_name == HUB:
        _write_hub(run, out, data, storage, as_json=as_json)
        return
    from boneage.models.export import FormatName, Storage, check_packages

    if format_name not in get_args(FormatName):
        known = ", ".join((*get_args(FormatName), HUB))
        refuse(f"--format {format_name}", "boneage does not know it", f"Choose one of {known}.")
    if storage not in (None, *get_args(Storage)):
        known = " or ".join(get_args(Storage))
        refuse(f"--storage {storage}", "boneage does not know it", f"Choose {known}.")
    check_packages(format_name)  # type: ignore[arg-type]
    from boneage.evaluation.export import export_run
    from boneage.prediction.shipped import open_run

    opened = open_run(run)
    folder = out or Path(f"{opened.folder.resolve().name}-{format_name}")
    summary = export_run(opened, folder, format_name, storage=storage, data=data)  # type: ignore[arg-type]
    if as_json:
        print_json({"folder": str(folder), **summary})
        return
    _print_export(folder, summary["export"])


def _print_export(folder: Path, exported: dict[str, Any]) -> None:
    """Print the size of an exported model, and how far it is from Keras."""
    parity = exported["parity"]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    echo(
        f"{folder}: {exported['file']} with weights in {exported['weights']}; "
        f"all files {size / 1e6:.1f} MB"
    )
    echo(
        f"parity on {parity['images']:,} images ({parity['of']}): at most {parity['months']:.4f} "
        f"months from Keras; a batch and single images differ by {parity['batch_months']:.4f}"
    )
    if exported["format"] == "onnx":
        echo(f"to use it: boneage predict {folder} hand.png --sex F")


def _write_hub(
    run: Path, out: Path | None, data: Path | None, storage: str | None, *, as_json: bool
) -> None:
    for option, value in (("--data", data), ("--storage", storage)):
        if value is not None:
            refuse(option, f"the format {HUB} has no such option", f"Leave {option} out.")
    from boneage.evaluation.hub import write_hub_folder
    from boneage.prediction.shipped import open_run, release_name

    opened = open_run(run)
    folder = out or Path(f"{opened.folder.resolve().name}-{HUB}")
    write_hub_folder(opened, folder)
    name, size = release_name(folder), sum(path.stat().st_size for path in folder.iterdir())
    if as_json:
        print_json({"folder": str(folder), "name": name, "bytes": size})
        return
    echo(f"{folder}: {size / 1e6:.1f} MB; its README.md is the card")
    if "\nlicense:" not in (folder / "README.md").read_text(encoding="utf-8"):
        echo("note: the terms of its training data are unknown. Add a license to README.md.")
    echo(f"to upload it: hf upload OWNER/{name} {folder} .")
