"""`boneage data import NAME`: the importers of other packages."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from boneage.cli.output import OutOption, print_manifest
from boneage.errors import InputError

if TYPE_CHECKING:
    from boneage.runtime.plug_ins import PlugIn

MANIFEST = Path("manifest.csv")


class Importers(TyperGroup):
    """The importers of this package and, by their entry points, those of other packages."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all importers, those of this package first."""
        ours = super().list_commands(ctx)
        return [*ours, *(name for name in _offers(ctx) if name not in ours)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the verb of a name; None if there is none."""
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in _offers(ctx):
            return _plug_in_command(cmd_name, _offers(ctx)[cmd_name])
        return command

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Name the importers of other packages whose name is taken."""
        super().format_epilog(ctx, formatter)
        ours = super().list_commands(ctx)
        for name, offers in _offers(ctx).items():
            if name in ours:
                packages = " and ".join(sorted(map(str, offers)))
                formatter.write_text(
                    f"{packages} offers {name}, too. The importer of boneage is used."
                )


class _PlugInCommand(TyperCommand):
    """The verb of one plug-in. Only its own help imports the plug-in."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring of the importer, or why there is none."""
        from boneage.datasets.importers.entry_points import IMPORTERS
        from boneage.runtime.plug_ins import find_plug_in

        try:
            plug_in = find_plug_in(IMPORTERS, str(self.name))
            text = inspect.getdoc(plug_in.load()) if plug_in else None
            self.help = f"{text or ''}\n\nImporter of {plug_in}.".strip()
        except InputError as error:
            self.help = f"Broken: {error.faults[0].what}.\n\n{error.faults[0].fix}"
        super().format_help_text(ctx, formatter)


def _plug_in_command(name: str, offers: list[PlugIn]) -> Any:
    """Return the verb of another package's importer; a broken one is refused when it is used."""

    def run(
        source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder to import.")],
        out: OutOption = MANIFEST,
    ) -> None:
        from boneage.datasets.importers.entry_points import IMPORTERS, run_importer
        from boneage.runtime.plug_ins import find_plug_in

        plug_in = find_plug_in(IMPORTERS, name)
        assert plug_in is not None
        print_manifest(run_importer(plug_in, source, out))

    packages = sorted(map(str, offers))
    text = f"Importer of {packages[0]}."
    if len(packages) > 1:
        text = f"Broken: offered by {' and '.join(packages)}."
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=_PlugInCommand, short_help=text)(run)
    return typer.main.get_command(alone)


def _offers(ctx: Any) -> dict[str, list[PlugIn]]:
    from boneage.datasets.importers.entry_points import IMPORTERS
    from boneage.runtime.plug_ins import find_plug_ins

    offers: dict[str, list[PlugIn]] | None = ctx.meta.get(IMPORTERS.group)
    if offers is None:
        # A name that looks like an option can't be written as a verb.
        found = find_plug_ins(IMPORTERS).items()
        offers = ctx.meta[IMPORTERS.group] = {k: each for k, each in found if k[:1] != "-"}
    return offers
