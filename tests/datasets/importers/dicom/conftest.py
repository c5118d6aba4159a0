"""An export of a PACS: twenty radiographs of twenty children, and a table of bone ages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from boneage.datasets.importers.dicom.importer import import_dicom
from boneage.datasets.importers.dicom.labels import LabelTable
from boneage.datasets.manifest import Manifest
from boneage.errors import InputError

UID = "1.2.826.0.1.3680043.10.999"
DEFAULTS = {
    "StudyDate": "20190822",
    "AcquisitionDate": "20190822",
    "BodyPartExamined": "HAND",
    "PatientSex": "F",
    "PatientBirthDate": "20080317",
    "PatientName": "Zwiebelmeyer^Ottokar",
}


@dataclass
class Pacs:
    """The export, at paths that hold a name, and what an import of it gives."""

    folder: Path
    write_dicom: Callable[..., Path]

    rows = tuple(f"{UID}.{number},{40 + 9 * number}" for number in range(20))

    def path(self, number: int) -> Path:
        return self.folder / "ZWIEBELMEYER" / f"S{number % 3}" / f"IM{number:02d}"

    def write(self, number: int, path: Path | str | None = None, **values: object) -> Path:
        elements = {
            "SOPInstanceUID": f"{UID}.{number}",
            "AccessionNumber": f"ACC{number:05d}",
            "PatientID": f"PAT{number:05d}",
            **DEFAULTS,
            **values,
        }
        return self.write_dicom(self.folder / (path or self.path(number)), **elements)

    def import_(
        self, *rows: str, header: str = "SOPInstanceUID,bone age", **options: Any
    ) -> Manifest:
        """Import the table with these rows; `columns` are options of the table."""
        table = self.folder.parent / "ages.csv"
        table.write_text("\n".join([header, *(rows or self.rows)]))
        columns = {"age": "bone age", "age_unit": "months", **options.pop("columns", {})}
        out = options.pop("out", self.folder.parent / "cohort" / "manifest.csv")
        paths = options.pop("paths", [self.folder])
        options.setdefault("progress", False)
        return import_dicom(paths, out, labels=LabelTable(table, **columns), **options)

    def faults(self, *rows: str, **options: Any) -> list[str]:
        """Return the messages of an import that is refused and leaves nothing behind."""
        out = self.folder.parent / "refused" / "manifest.csv"
        with pytest.raises(InputError) as caught:
            self.import_(*rows, out=out, **options)
        assert not list(out.parent.rglob("*"))
        found = [str(fault).replace(f"{self.folder.parent}/", "") for fault in caught.value.faults]
        assert "zwiebelmeyer" not in "".join(found).lower()
        return found


@pytest.fixture(scope="session")
def exported(write_dicom, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    pacs = Pacs(tmp_path_factory.mktemp("exported"), write_dicom)
    return [pacs.write(number).read_bytes() for number in range(20)]


@pytest.fixture
def pacs(tmp_path: Path, write_dicom, exported: list[bytes]) -> Pacs:
    pacs = Pacs(tmp_path / "pacs", write_dicom)
    for number, content in enumerate(exported):
        pacs.path(number).parent.mkdir(parents=True, exist_ok=True)
        pacs.path(number).write_bytes(content)
    return pacs


@pytest.fixture
def note() -> Callable[[Manifest, str], str]:
    """Return the one note of a manifest that contains a text."""

    def note(manifest: Manifest, part: str) -> str:
        (found,) = [text for text in manifest.notes if part in text]
        return found

    return note
