"""What all contenders of a benchmark are given: the same images, batch, policy and workers."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """One benchmark's conditions; crosses to other processes as JSON.

    Attributes:
        radiographs: Radiographs in full size, as files.
        pictures: The same, framed and resized, as 8-bit grey PNG.
        store: Folder of a store with the same, framed and resized.
        size: Side of a framed picture, pixels.
        batch: Images a batch.
        workers: Threads or processes, for those who can be told.
        count: Images an epoch; radiographs, pictures and rows of the store are repeated up to it.
        seed: Of order and augmentation.
        warm_seconds: How long to run before anything is measured, at least.
        least_batches: How many batches to time at least, however long they take.
    """

    radiographs: tuple[str, ...]
    pictures: tuple[str, ...]
    store: str
    size: int
    batch: int
    workers: int
    count: int
    seed: int = 0
    warm_seconds: float = 2.0
    least_batches: int = 8

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Setting:
        """Reads what `write` has written."""
        values = json.loads(path.read_text(encoding="utf-8"))
        for name in ("films", "pictures"):
            values[name] = tuple(values[name])
        return cls(**values)
