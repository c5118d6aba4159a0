"""What the verbs share: options, what they print, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from boneage.errors import Fault, InputError

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OutOption = Annotated[Path, typer.Option("--out", help="The manifest to write.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the split.")]
ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest CSV.")]


def app(name: str | None, text: str, **settings: Any) -> typer.Typer:
    """A group of verbs; without a verb it prints its help, as plain text."""
    return typer.Typer(
        name=name, help=text, no_args_is_help=True, rich_markup_mode=None, **settings
    )


def say_manifest(manifest: Manifest) -> None:
    """Prints where a manifest is, how many images are in it, and its notes."""
    counts = manifest.table["split"].value_counts()
    split = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("train", "val", "test"))
    typer.echo(f"{manifest.path}: {len(manifest):,} images ({split})")
    for note in manifest.notes:
        typer.echo(f"note: {note}")


def print_json(values: dict[str, Any]) -> None:
    """Prints one JSON object."""
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False))


def refuse(where: str, expected: str, fix: str = "See --help.") -> NoReturn:
    """Raises the error of options that don't go together."""
    raise InputError(Fault(where, "that can't be done", fix, expected=expected))
