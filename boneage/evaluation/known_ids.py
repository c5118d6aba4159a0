"""Which images a released model knew: a Bloom filter of their ids.

It answers for an id, but holds no list. It finds every id that was put in, and by chance about one
in a hundred others. The file says how it is read, so that other programs can read it too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field

from boneage.errors import Fault, InputError
from boneage.runtime.files import write_json
from boneage.runtime.schemas import CHANGED, Count, FileSchema, Text, read_checked

KNOWN_IDS_NAME = "known_ids.json"
FALSE_POSITIVES = 0.01
"""Share of other ids that the filter takes for known ones."""

_RULE = (
    "An id is known if these bits are 1: (a + i * b) mod bits, for i from 0 to hashes - 1. a and b "
    "are the first and the next 8 bytes of the sha256 of its UTF-8 text, little endian. Bit j is "
    "bit j mod 8, from the lowest, of byte j // 8 of data, which is base64. The ids are image_id "
    "and patient_id of the splits train and val."
)


class _File(FileSchema):
    rule: Text
    ids: Count
    bits: int = Field(ge=1, le=1 << 32)
    hashes: int = Field(ge=1, le=64)
    false_positives: float = Field(gt=0, lt=1)
    data: str


@dataclass(frozen=True)
class KnownIds:
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

    def count(self, table: pd.DataFrame) -> int:
        """Return how many images of a manifest's table are known: none of them is missed.

        An image is known if its `image_id`, or its `patient_id` if there is one, is in the filter.
        """
        columns = _id_columns(table)
        return sum(any(each and each in self for each in ids) for ids in zip(*columns, strict=True))

    @staticmethod
    def by_chance(table: pd.DataFrame) -> float:
        """Return the share of unknown images of a table that `count` counts all the same."""
        columns = _id_columns(table)
        differ = len(columns) > 1 and bool((columns[0] != columns[1]).any())
        return float(1 - (1 - FALSE_POSITIVES) ** (2 if differ else 1))


def _id_columns(table: pd.DataFrame) -> list[pd.Series]:
    return [table[name] for name in ("image_id", "patient_id") if name in table]


def filter_ids(texts: Iterable[str]) -> KnownIds:
    """Return a filter with these ids."""
    ids = {text for text in texts if text}
    bits = max(64, math.ceil(-len(ids) * math.log(FALSE_POSITIVES) / math.log(2) ** 2))
    hashes = round(-math.log2(FALSE_POSITIVES))
    content = bytearray(-(-bits // 8))
    for text in ids:
        for place in _places(text, bits, hashes):
            content[place // 8] |= 1 << place % 8
    return KnownIds(bytes(content), bits, hashes, len(ids))


def write_known_ids(folder: Path, table: pd.DataFrame) -> None:
    """Write the ids of a manifest's train and val splits into the folder of a release."""
    seen = table[table["split"] != "test"]
    ids = filter_ids(
        text for name in ("image_id", "patient_id") if name in seen for text in seen[name]
    )
    values: dict[str, object] = {
        "rule": _RULE,
        "ids": ids.ids,
        "bits": ids.bits,
        "hashes": ids.hashes,
    }
    values |= {"false_positives": FALSE_POSITIVES, "data": base64.b64encode(ids.content).decode()}
    write_json(folder / KNOWN_IDS_NAME, values)


def read_known_ids(folder: Path) -> KnownIds | None:
    """Read the filter of a release, or return None if the folder has none.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / KNOWN_IDS_NAME
    if not path.exists():
        return None
    values = read_checked(path, _File)
    try:
        content = base64.b64decode(values["data"], validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if len(content) != -(-values["bits"] // 8):
        raise InputError(Fault(str(path), "data has not as many bits as it says", CHANGED))
    return KnownIds(content, values["bits"], values["hashes"], values["ids"])


def _places(text: str, bits: int, hashes: int) -> Iterator[int]:
    digest = hashlib.sha256(text.encode()).digest()
    a, b = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8))
    return ((a + i * b) % bits for i in range(hashes))
