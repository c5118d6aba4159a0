"""The files of a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from boneage.errors import Fault, InputError
from boneage.recipe import Recipe, recipe_from_values
from boneage.runtime.files import is_part, read_json

TRAINED = ("finished", "early")
"""What `run.json` says under `stopped` of a training that came to its end."""

_LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """A run folder by its files; none of them need exist yet.

    Attributes:
        folder: The run's own folder.
    """

    folder: Path

    @property
    def recipe_path(self) -> Path:
        """The recipe as it was trained, fully resolved."""
        return self.folder / "recipe.json"

    @property
    def info_path(self) -> Path:
        """What made the run: manifest, store, provenance, seconds, outcome."""
        return self.folder / "run.json"

    @property
    def history_path(self) -> Path:
        """One row an epoch."""
        return self.folder / "history.csv"

    @property
    def best_path(self) -> Path:
        """The model of the epoch with the lowest validation MAE."""
        return self.folder / "best.keras"

    @property
    def checkpoint_path(self) -> Path:
        """Where the training stands, whole: weights, optimizer, history, callbacks."""
        return self.folder / "checkpoint.npz"

    @property
    def tensorboard_path(self) -> Path:
        """Folder of the TensorBoard logs, where the recipe asks for them."""
        return self.folder / "tensorboard"

    @property
    def report_path(self) -> Path:
        """The report, one self-contained page."""
        return self.folder / "report.html"

    @property
    def result_path(self) -> Path:
        """Aggregates and provenance, fit to be committed."""
        return self.folder / "result.json"

    def predictions_path(self, split: str) -> Path:
        """One row an image of a split."""
        return self.folder / f"predictions-{split}.csv"

    def metrics_path(self, split: str) -> Path:
        """The scores of a split."""
        return self.folder / f"metrics-{split}.json"

    @property
    def is_begun(self) -> bool:
        """Whether a training has begun in the folder, so that it can be resumed."""
        return self.info_path.exists()

    def others(self) -> list[str]:
        """What is in the folder, but for what a training leaves that is killed before it began."""
        if not self.folder.is_dir():
            return []
        own = {_LOCK, self.recipe_path.name}
        names = {path.name for path in self.folder.iterdir() if not is_part(path)}
        return sorted(names - (set() if self.is_begun else own))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder, which is made, against another training in it.

        What one that was killed had half written is removed.

        Raises:
            InputError: Another process trains there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _LOCK
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                Fault(
                    str(self.folder),
                    "another process is training in it",
                    "Wait for that one, or name another --out.",
                    expected="a folder of its own for every run",
                )
            ) from None
        try:
            for left in filter(is_part, self.folder.iterdir()):
                left.unlink()
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held, or it would be another's
            lock.release()

    def read_recipe(self) -> Recipe:
        """The recipe as it was trained, fully resolved.

        Raises:
            InputError: The file is missing or no recipe.
        """
        return recipe_from_run(read_json(self.recipe_path), where=str(self.recipe_path))

    def read_info(self) -> dict[str, Any]:
        """What `run.json` says of the training: manifest, store, provenance, seconds, outcome.

        Raises:
            InputError: The file is missing or not JSON.
        """
        return read_json(self.info_path)


def recipe_from_run(values: dict[str, Any], *, where: str) -> Recipe:
    """The recipe that a run recorded, JSON values, which may be from an earlier version.

    Raises:
        InputError: It is none.
    """
    # Runs from before there was a choice framed the whole radiograph; the default is the hand now.
    framing = values.setdefault("framing", {})
    if isinstance(framing, dict):  # if not, the recipe's own check says so
        framing.setdefault("crop", "film")
    return recipe_from_values(values, where=where)
