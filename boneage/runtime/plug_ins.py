"""What other packages add to this one by their entry points. Nothing of theirs runs early."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from boneage.errors import Fault, InputError


@dataclass(frozen=True)
class Kind:
    """A kind of plug-in.

    Attributes:
        group: The group of its entry points.
        where: What a user writes before its name, for messages.
        contract: What an entry point must name: one sentence.
    """

    group: str
    where: str
    contract: str


@dataclass(frozen=True)
class PlugIn:
    """What one package offers under one name.

    Attributes:
        kind: The kind of plug-in.
        name: Its name.
        value: The object that the entry point names, `module:function`.
        package: The package that offers it.
        version: The version of the package.
    """

    kind: Kind
    name: str
    value: str
    package: str
    version: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.package} {self.version}".rstrip()

    def load(self) -> Any:
        """Import and return the object.

        Raises:
            InputError: The import fails.
        """
        try:
            return EntryPoint(self.name, self.value, self.kind.group).load()
        except (Exception, SystemExit) as error:  # whatever that module raises
            what = f"{self.value} can't be loaded ({type(error).__name__}: {error})"
            raise self.error(what) from error

    def error(self, what: str) -> InputError:
        """Return the error of this plug-in, which names its package."""
        return _error(self.kind, self.name, [self], what)


def find_plug_ins(kind: Kind) -> dict[str, list[PlugIn]]:
    """Return what the installed packages offer, by name, in alphabetical order.

    A package that is found twice, such as by a path that is named twice, counts once.

    Raises:
        InputError: The entry points of a package can't be read.
    """
    try:
        points = entry_points(group=kind.group)
    except (ValueError, OSError) as error:
        what = f"the entry points of an installed package can't be read ({error})"
        fix = "Repair the file entry_points.txt of that package, or install it again."
        raise InputError(Fault("installed packages", what, fix)) from error
    found: dict[str, list[PlugIn]] = {}
    for point in sorted(points, key=lambda point: point.name):
        package, version = _package(point)
        plug_in = PlugIn(kind, point.name, point.value, package, version)
        offers = found.setdefault(point.name, [])
        if plug_in not in offers:
            offers.append(plug_in)
    return found


def find_plug_in(kind: Kind, name: str) -> PlugIn | None:
    """Return the plug-in of a name, or None if there is none.

    Raises:
        InputError: Several packages offer this name.
    """
    offers = find_plug_ins(kind).get(name, [])
    if len(offers) > 1:
        raise _error(kind, name, offers, f"{len(offers)} plug-ins have this name")
    return offers[0] if offers else None


def _package(point: EntryPoint) -> tuple[str, str]:
    """Return the package of an entry point, in the usual spelling, and its version."""
    package, version = "an unknown package", ""
    if point.dist is not None:
        metadata = point.dist.metadata  # of a damaged installation, it may lack either
        package = str(metadata["Name"]) if "Name" in metadata else package
        version = str(metadata["Version"]) if "Version" in metadata else version
    return re.sub(r"[-_.]+", "-", package).lower(), version


def _error(kind: Kind, name: str, offers: list[PlugIn], what: str) -> InputError:
    packages = " and ".join(sorted({str(offer) for offer in offers}))
    authors = " and ".join(sorted({offer.package for offer in offers}))
    fix = f"{kind.contract} Report this to the authors of {authors}, or uninstall it."
    if len(offers) > 1:
        values = ", ".join(sorted(offer.value for offer in offers))
        what = f"{what} ({values})"
        fix = "Uninstall all of these packages but one."
    return InputError(Fault(f"{kind.where} {name} (from {packages})", what, fix))
