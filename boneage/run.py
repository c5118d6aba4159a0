"""The files of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError
from boneage.files import read_json
from boneage.recipe import Recipe, recipe_from_values


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
    def last_path(self) -> Path:
        """The model and optimizer after the last finished epoch."""
        return self.folder / "last.keras"

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

    def read_recipe(self) -> Recipe:
        """The recipe as it was trained, fully resolved.

        Raises:
            InputError: The file is missing or no recipe.
        """
        values = read_json(self.recipe_path)
        # Runs from before there was a choice framed the whole film; the default is the hand now.
        framing = values.setdefault("framing", {})
        if isinstance(framing, dict):  # if not, the recipe's own check says so
            framing.setdefault("crop", "film")
        return recipe_from_values(values, where=str(self.recipe_path))

    def read_info(self) -> dict[str, Any]:
        """What `run.json` says of the training: manifest, store, provenance, seconds, outcome.

        Raises:
            InputError: The file is missing or not JSON.
        """
        return read_json(self.info_path)


def open_run(folder: Path) -> Run:
    """Opens a finished run.

    Raises:
        InputError: There is no such folder, or there is no trained model in it.
    """
    run = Run(folder)
    if not folder.is_dir():
        raise InputError(
            Fault(str(folder), "there is no such folder", "a run folder", "Check the path.")
        )
    missing = [
        path.name for path in (run.best_path, run.recipe_path, run.info_path) if not path.exists()
    ]
    if missing:
        raise InputError(
            Fault(
                str(folder),
                f"{', '.join(missing)} missing: this is no finished run",
                "a folder that `boneage train` wrote, with its model",
                "Name another folder, or train one: boneage train RECIPE.toml --out RUN.",
            )
        )
    return run
