"""What the verbs share: options, printed tables, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from boneage.errors import Fault, InputError

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest

# The same option has the same name, help and meaning in every verb.
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OutOption = Annotated[Path, typer.Option("--out", help="Manifest to write.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the split (default 0).")]
ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest, CSV.")]
RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, TOML.")]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, or the name of a shipped model.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Recipe value to replace; may be repeated."),
]
RecipeSeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of the training. Default: the recipe's.")
]
ViewsOption = Annotated[
    int | None,
    typer.Option(
        "--views",
        help="Test-time views averaged per image: 1, 2 or 6. Default: the recipe's value.",
    ),
]
GpuOption = Annotated[bool, typer.Option("--require-gpu", help="Fail if Keras finds no GPU.")]
DeterministicOption = Annotated[
    bool,
    typer.Option("--deterministic", help="Use only operations that are bit-exact on a GPU."),
]


def make_app(name: str | None, text: str, **settings: Any) -> typer.Typer:
    """Return a group of verbs. Without a verb it prints its help as plain text."""
    return typer.Typer(
        name=name, help=text, no_args_is_help=True, rich_markup_mode=None, **settings
    )


def renamed_option(old: str, new: str) -> Any:
    """Return a hidden option that is refused with the name of the new one."""

    def refuse_old(value: str | None) -> None:
        if value is not None:
            refuse(old, f"this option is now called {new}", f"Use {new}.")

    return typer.Option(old, hidden=True, callback=refuse_old)


def print_manifest(manifest: Manifest) -> None:
    """Print the path of a manifest, its number of images and its notes."""
    counts = manifest.table["split"].value_counts()
    split = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("train", "val", "test"))
    typer.echo(f"{manifest.path}: {len(manifest):,} images ({split})")
    for note in manifest.notes:
        typer.echo(f"note: {note}")


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False))


def log(text: str) -> None:
    """Print a line on standard error, where progress goes."""
    typer.echo(text, err=True)


def refuse(where: str, what: str, fix: str = "See --help.") -> NoReturn:
    """Raise the error of options that cannot be combined.

    Raises:
        InputError: Always.
    """
    raise InputError(Fault(where, what, fix))
