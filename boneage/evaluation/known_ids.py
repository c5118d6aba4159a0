"""Which images a model knew, and the models that it started from.

A release has Bloom filters of their ids. A filter answers for an id, but holds no list. It finds
every id that was put in, and by chance about one in a hundred others. The file says how it is read,
so that other programs can read it too.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from boneage.datasets.cells import Cells
from boneage.datasets.tables import read_cells
from boneage.errors import Fault, InputError
from boneage.prediction.shipped import shipped_models
from boneage.run import MANIFEST_KEYS, Run
from boneage.runtime.files import read_bytes, write_json
from boneage.runtime.provenance import file_digest
from boneage.runtime.schemas import CHANGED, Count, FileSchema, Text, read_checked

KNOWN_IDS_NAME = "known_ids.json"
FALSE_POSITIVES = 0.01
"""Share of other ids that the filter takes for known ones."""

_RULE = (
    "An id is known if these bits are 1: (a + i * b) mod bits, for i from 0 to hashes - 1. a and b "
    "are the first and the next 8 bytes of the sha256 of its UTF-8 text, little endian. Bit j is "
    "bit j mod 8, from the lowest, of byte j // 8 of data, which is base64. The ids are image_id "
    "and patient_id of the splits train and val. parents has filters of models that this one "
    "started from. complete says whether the ids of all these models are in the filters."
)


class _Filter(FileSchema):
    ids: Count
    bits: int = Field(ge=1, le=1 << 32)
    hashes: int = Field(ge=1, le=64)
    false_positives: float = Field(gt=0, lt=1)
    data: str


class _File(_Filter):
    rule: Text
    parents: list[_Filter] = Field(default=[])
    complete: bool = False  # files of earlier versions have the ids of one model only


@dataclass(frozen=True)
class IdFilter:
    """A Bloom filter.

    Attributes:
        content: The bits, eight in a byte.
        bits: Number of bits.
        hashes: Number of bits of an id.
        ids: Number of ids that were put in.
    """

    content: bytes
    bits: int
    hashes: int
    ids: int

    def __contains__(self, text: str) -> bool:
        places = _places(text, self.bits, self.hashes)
        return all(self.content[place // 8] >> place % 8 & 1 for place in places)


@dataclass(frozen=True)
class KnownIds:
    """The ids that a model knew, and the models that it started from.

    Attributes:
        ids: Ids of manifests.
        filters: Filters of further ids, from releases.
        complete: Whether the ids of all these models are known.
    """

    ids: frozenset[str] = frozenset()
    filters: tuple[IdFilter, ...] = ()
    complete: bool = True

    def __contains__(self, text: str) -> bool:
        return text in self.ids or any(text in each for each in self.filters)

    def __or__(self, other: KnownIds) -> KnownIds:
        filters = tuple(dict.fromkeys((*self.filters, *other.filters)))
        return KnownIds(self.ids | other.ids, filters, self.complete and other.complete)

    def count(self, table: pd.DataFrame) -> int:
        """Return how many images of a manifest's table are known: none of them is missed.

        An image is known if its `image_id`, or its `patient_id` if there is one, is a known id.
        """
        columns = _id_columns(table)
        return sum(any(each and each in self for each in ids) for ids in zip(*columns, strict=True))

    def by_chance(self, table: pd.DataFrame) -> float:
        """Return the share of unknown images of a table that `count` counts all the same."""
        columns = _id_columns(table)
        differ = len(columns) > 1 and bool((columns[0] != columns[1]).any())
        asked = len(self.filters) * (2 if differ else 1)
        return float(1 - (1 - FALSE_POSITIVES) ** asked)


def _id_columns(table: pd.DataFrame) -> list[pd.Series]:
    return [table[name] for name in ("image_id", "patient_id") if name in table]


def filter_ids(ids: Iterable[str]) -> IdFilter:
    """Return a filter with these ids."""
    texts = set(ids)
    bits = max(64, math.ceil(-len(texts) * math.log(FALSE_POSITIVES) / math.log(2) ** 2))
    hashes = round(-math.log2(FALSE_POSITIVES))
    content = bytearray(-(-bits // 8))
    for text in texts:
        for place in _places(text, bits, hashes):
            content[place // 8] |= 1 << place % 8
    return IdFilter(bytes(content), bits, hashes, len(texts))


def ids_of_table(table: pd.DataFrame) -> KnownIds:
    """Return the ids of a manifest's train and val splits."""
    seen = table[table["split"] != "test"]
    return KnownIds(frozenset(text for each in _id_columns(seen) for text in each if text))


def find_known_ids(
    run: Run, table: pd.DataFrame | None = None, *, seen: tuple[str, ...] = ()
) -> KnownIds | None:
    """Return the ids that a run and the models before it knew; None if the run's are unknown.

    Args:
        run: A run or a released model.
        table: The table of its manifest, if it is at hand.
        seen: Digests of the models that started from this one.

    Raises:
        InputError: A file of the run is damaged.
    """
    info = run.read_info(MANIFEST_KEYS)
    init = info.get("init")
    if (recorded := read_known_ids(run.folder)) is not None:
        return recorded if init else replace(recorded, complete=True)
    if table is None and (cells := read_recorded_manifest(info["manifest"])) is not None:
        table = cells.table
    if table is None:
        return None
    own = ids_of_table(table)
    return own | _known_to_parent(init, seen) if init else own


def _known_to_parent(init: Mapping[str, Any], seen: tuple[str, ...]) -> KnownIds:
    """Return the ids that a parent knew. It is the model of a folder, or a shipped copy of it."""
    folders = [Path(init["folder"])] if init.get("folder") else []
    digest = init["digest"]
    for folder in (*folders, *shipped_models().values()) if digest not in seen else ():
        parent = Run(folder)
        with contextlib.suppress(InputError):  # gone or damaged
            if file_digest(parent.best_path) == digest:
                known = find_known_ids(parent, seen=(*seen, digest))
                if known is not None:
                    return known
    return KnownIds(complete=False)


def read_recorded_manifest(recorded: Mapping[str, Any]) -> Cells | None:
    """Return the cells of a manifest that a run recorded, or None if it is gone or changed.

    Its images may be gone.
    """
    path = Path(recorded["path"])
    try:
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() != recorded["digest"]:
            return None
        return read_cells(content, str(path))
    except InputError:
        return None


def write_known_ids(folder: Path, known: KnownIds) -> None:
    """Write known ids into the folder of a release, as filters."""
    own, *parents = [_describe(each) for each in (filter_ids(known.ids), *known.filters)]
    values = {"rule": _RULE, **own, "parents": parents, "complete": known.complete}
    write_json(folder / KNOWN_IDS_NAME, values)


def _describe(ids: IdFilter) -> dict[str, Any]:
    data = base64.b64encode(ids.content).decode()
    sizes = {"ids": ids.ids, "bits": ids.bits, "hashes": ids.hashes}
    return {**sizes, "false_positives": FALSE_POSITIVES, "data": data}


def read_known_ids(folder: Path) -> KnownIds | None:
    """Read the filters of a release, or return None if the folder has none.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / KNOWN_IDS_NAME
    if not path.exists():
        return None
    values = read_checked(path, _File)
    filters = tuple(_read_filter(each, path) for each in (values, *values.get("parents", ())))
    return KnownIds(filters=filters, complete=values.get("complete", False))


def _read_filter(values: Mapping[str, Any], path: Path) -> IdFilter:
    try:
        content = base64.b64decode(values["data"], validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if len(content) != -(-values["bits"] // 8):
        raise InputError(Fault(str(path), "data has not as many bits as it says", CHANGED))
    return IdFilter(content, values["bits"], values["hashes"], values["ids"])


def _places(text: str, bits: int, hashes: int) -> Iterator[int]:
    digest = hashlib.sha256(text.encode()).digest()
    a, b = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8))
    return ((a + i * b) % bits for i in range(hashes))
