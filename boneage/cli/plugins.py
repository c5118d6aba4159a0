"""`boneage data import NAME`: the importers of other packages."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from boneage.cli.output import OutOption, print_manifest
from boneage.errors import InputError

MANIFEST = Path("manifest.csv")


class Importers(TyperGroup):
    """The importers of this package and, by their entry points, those of other packages."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all importers, those of this package first."""
        from boneage.datasets.importers.entry_points import importer_names

        ours = super().list_commands(ctx)
        return [*ours, *(name for name in importer_names() if name not in ours)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the verb of a name; None if there is none."""
        from boneage.datasets.importers.entry_points import importer_names

        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in importer_names():
            return _plugin_command(cmd_name)
        return command

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Name the importers of other packages whose name is taken."""
        from boneage.datasets.importers.entry_points import importer_names

        super().format_epilog(ctx, formatter)
        for name in set(importer_names()) & set(super().list_commands(ctx)):
            formatter.write_text(f"Another package offers {name}, too. The one of boneage is used.")


def _plugin_command(name: str) -> Any:
    """Return the verb of another package's importer; a broken one is refused when it is used."""
    from boneage.datasets.importers.entry_points import load_importer, run_importer

    try:
        text = (inspect.getdoc(load_importer(name)) or "").partition("\n\n")[0]
    except InputError as error:
        text = f"Broken: {error.faults[0].what}"

    def run(
        source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder to import.")],
        out: OutOption = MANIFEST,
    ) -> None:
        print_manifest(run_importer(name, source, out))

    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, help=text)(run)
    return typer.main.get_command(alone)
