"""The files of a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError
from boneage.recipe import Recipe, recipe_from_values
from boneage.runtime.files import is_part, read_json
from boneage.runtime.provenance import file_digest
from boneage.runtime.schemas import CHANGED, Count, FileSchema, Number, Text, read_checked

TRAINED = ("finished", "early")
"""Values of `stopped` in `run.json` of a training that reached its end."""

_LOCK = ".lock"

MANIFEST_KEYS = ("manifest.path", "manifest.digest")
"""Keys of `run.json` that say which manifest a run was trained with."""


class RecordedProvenance(FileSchema):
    """The key `provenance` of `run.json`: which code ran, and on what.

    Attributes:
        boneage: Version of the package.
        commit: Commit of the code; null outside a git checkout.
        uncommitted_changes: Whether files differed from that commit.
        python: Version of Python.
        device: What computed: the GPUs, or the processor.
        cores: Cores that the process might use.
        versions: Versions of the packages that a result depends on.
    """

    boneage: Text | None = None
    commit: Text | None = None
    uncommitted_changes: bool | None = None
    python: Text | None = None
    device: Text | None = None
    cores: Count | None = None
    versions: dict[Text, Text] | None = None


class RecordedManifest(FileSchema):
    """The key `manifest` of `run.json`: the dataset of the training.

    Attributes:
        path: Absolute path of the manifest.
        digest: SHA-256 of its file.
        split_digest: Digest of ids, splits, ages and sexes, whatever the paths.
        counts: Number of images of each split.
        source: What its column `source` says.
    """

    path: Text | None = None
    digest: Text | None = None
    split_digest: Text = ""
    counts: dict[Text, Count] | None = None
    source: Text = ""


class RecordedStore(FileSchema):
    """The key `store` of `run.json`: the framed images that were trained on.

    Attributes:
        folder: Absolute path of the store.
        digest: Digest of its ids, framing and pixels.
        version: Version of its format.
    """

    folder: Text | None = None
    digest: Text
    version: Count | None = None


class RecordedInit(FileSchema):
    """The key `init` of `run.json`: the run whose weights this one began with.

    Attributes:
        name: Name of that run or shipped model.
        digest: SHA-256 of its model.
        folder: Absolute path of the run.
        known_ids: Of `val` and `test`, how many images it knew by their ids, at most.
        known_ids_by_chance: Share of unknown images that count as known all the same.
    """

    name: Text
    digest: Text
    folder: Text | None = None
    known_ids: dict[Text, Count] | None = None
    known_ids_by_chance: Number | None = None


class RecordedBackbone(FileSchema):
    """The key `model.backbone` of `run.json`: its name, and the package that it comes from.

    Attributes:
        name: Name of the backbone, as in the recipe.
        package: Package of a plug-in.
        version: Version of that package.
    """

    name: Text
    package: Text | None = None
    version: Text | None = None


class RecordedModel(FileSchema):
    """The key `model` of `run.json`.

    Attributes:
        parameters: Number of weights.
        backbone: The backbone.
    """

    parameters: Count
    backbone: RecordedBackbone | None = None


class RecordedMember(FileSchema):
    """One of the runs that were evaluated together, in the key `members` of `run.json`.

    Attributes:
        name: Name of its folder.
        digest: SHA-256 of its `best.keras`.
        seed: Seed of its training.
        changed: Its settings that differ from `recipe.json`.
        manifest: SHA-256 of its manifest.
    """

    name: Text
    digest: Text
    seed: Count | None = None
    changed: list[Text] | None = None
    manifest: Text = ""


class RunInfo(FileSchema):
    """The types of the keys of `run.json`. Every reader names the keys that it needs.

    Attributes:
        name: Name of the recipe.
        seed: Seed of the training.
        command: The command line.
        started: Time of the start, ISO 8601 with the offset from UTC.
        seconds: Seconds of each step.
        provenance: The code and the machine.
        manifest: The dataset.
        store: The framed images.
        model: The network.
        init: The run that a fine-tuning began with; null without one.
        stopped: How the training ended: `finished`, `early` (early stopping), `running`,
            `interrupted` (Ctrl-C), `terminated` (SIGTERM), `diverged` or `failed`.
        devices: Number of devices that computed.
        epochs: Number of finished epochs.
        best_epoch: Epoch with the lowest validation MAE, from 1.
        best_val_mae_months: That MAE.
        digests: SHA-256 of `recipe.json` and `best.keras`, when the training has ended.
        resumed: For each resume, its time and the code that ran.
        members: The runs whose answers were averaged, in a folder with their common results.
    """

    name: Text = ""
    seed: Count = 0
    command: Text = ""
    started: Text = ""
    seconds: dict[Text, Number] | None = None
    provenance: RecordedProvenance | None = None
    manifest: RecordedManifest | None = None
    store: RecordedStore | None = None
    model: RecordedModel | None = None
    init: RecordedInit | None = None
    stopped: Text = ""
    devices: Count = 1
    epochs: Count = 0
    best_epoch: Count | None = None
    best_val_mae_months: Number | None = None
    digests: dict[Text, Text] | None = None
    resumed: list[dict[Text, Any]] | None = None
    members: list[RecordedMember] | None = None


@dataclass(frozen=True)
class Run:
    """A run folder. Its files may not exist yet.

    | file | content | written by |
    |---|---|---|
    | `recipe.json` | the recipe, with every default | training |
    | `run.json` | manifest, store, provenance, seconds, outcome | training |
    | `history.csv` | one row per epoch | training |
    | `best.keras` | the model of the epoch with the lowest validation MAE | training |
    | `model.onnx` | the same network for ONNX Runtime | `boneage export`, `boneage release` |
    | `intervals.json` | how far labels are from answers, on validation | evaluation of `val` |
    | `checkpoint.npz` | weights, optimizer, history and callbacks, to resume from | training |
    | `tensorboard/` | TensorBoard logs, if the recipe asks for them | training |
    | `predictions-SPLIT.csv` | one row per image of a split | evaluation |
    | `metrics-SPLIT.json` | the metrics of a split | evaluation |
    | `familiarity.npz` | which images are like the training images | training, `boneage release` |
    | `stress-NAME.json` | how much changed radiographs move the answers | stress |
    | `result.json` | metrics and provenance, without images or ids | evaluation |
    | `report.html` | the report, one self-contained page; also its figures as files | report |

    NAME is the split, then what is unusual: another manifest, other views or phases, fewer images.
    Evaluations are named in the same way.

    `run.json` holds absolute paths of this machine: of the manifest, the store and the run that a
    fine-tuning began with. `recipe.json` and `checkpoint.npz` may hold that of a weights file. A
    resumed training, an evaluation and the images of the report need them. The files of the
    evaluation and of the report name files only, so they may be handed on.

    Results of several runs have a folder of their own. Its `recipe.json` is that of the first run,
    and its `run.json` lists all of them under `members`.

    Attributes:
        folder: The run folder.
    """

    folder: Path

    @property
    def recipe_path(self) -> Path:
        """Return the path of the recipe."""
        return self.folder / "recipe.json"

    @property
    def info_path(self) -> Path:
        """Return the path of `run.json`."""
        return self.folder / "run.json"

    @property
    def history_path(self) -> Path:
        """Return the path of the history."""
        return self.folder / "history.csv"

    @property
    def best_path(self) -> Path:
        """Return the path of the best model."""
        return self.folder / "best.keras"

    @property
    def onnx_path(self) -> Path:
        """Return the path of the best model for ONNX Runtime."""
        return self.folder / "model.onnx"

    @property
    def intervals_path(self) -> Path:
        """Return the path of the prediction intervals."""
        return self.folder / "intervals.json"

    @property
    def network_path(self) -> Path:
        """Return the path of the best model, or that for ONNX Runtime in a folder without it."""
        is_exported = self.onnx_path.exists() and not self.best_path.exists()
        return self.onnx_path if is_exported else self.best_path

    @property
    def checkpoint_path(self) -> Path:
        """Return the path of the checkpoint."""
        return self.folder / "checkpoint.npz"

    @property
    def tensorboard_path(self) -> Path:
        """Return the folder of the TensorBoard logs."""
        return self.folder / "tensorboard"

    @property
    def report_path(self) -> Path:
        """Return the path of the report."""
        return self.folder / "report.html"

    @property
    def result_path(self) -> Path:
        """Return the path of the result, which may be committed."""
        return self.folder / "result.json"

    def predictions_path(self, split: str) -> Path:
        """Return the path of the predictions of a split."""
        return self.folder / f"predictions-{split}.csv"

    def metrics_path(self, split: str) -> Path:
        """Return the path of the metrics of a split."""
        return self.folder / f"metrics-{split}.json"

    def stress_path(self, name: str) -> Path:
        """Return the path of a result of `boneage stress`."""
        return self.folder / f"stress-{name}.json"

    @property
    def is_started(self) -> bool:
        """Return whether a training has started in the folder, so that it can be resumed."""
        return self.info_path.exists()

    def other_files(self) -> list[str]:
        """Return the names in the folder, except those of a training killed before its start."""
        if not self.folder.is_dir():
            return []
        own = {_LOCK, self.recipe_path.name}
        names = {path.name for path in self.folder.iterdir() if not is_part(path)}
        return sorted(names - (set() if self.is_started else own))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and lock it against another training. Removes half-written files.

        Raises:
            InputError: Another process trains in the folder.
        """
        import filelock  # only now: a plain install has none, and only training locks

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _LOCK
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                Fault(
                    str(self.folder),
                    "another process is training in this folder",
                    "Wait until it has ended, or name another --out.",
                )
            ) from None
        try:
            for left in filter(is_part, self.folder.iterdir()):
                left.unlink()
            yield
        finally:
            path.unlink(missing_ok=True)  # before the release, or it may be another's lock
            lock.release()

    def read_recipe(self) -> Recipe:
        """Read the recipe of the run.

        Raises:
            InputError: The file is missing or not a recipe.
        """
        return recipe_from_run(read_json(self.recipe_path), where=str(self.recipe_path))

    def read_info(self, needs: Sequence[str] = ()) -> dict[str, Any]:
        """Read and check `run.json`.

        Args:
            needs: Keys that must be there, such as `manifest` or `model.parameters`.

        Raises:
            InputError: The file can't be read, or keys are missing or have wrong values.
        """
        return read_checked(self.info_path, RunInfo, needs)

    def digests(self) -> dict[str, str]:
        """Return the sha256 of each file that a prediction depends on, by its name.

        Raises:
            InputError: A file can't be read.
        """
        files = (self.recipe_path, self.best_path)
        return {path.name: file_digest(path) for path in files if path.exists()}

    def check_files(self, info: Mapping[str, Any]) -> None:
        """Check that recipe and best model are the files that the training left.

        The checksums inside `best.keras` do not protect its weights from a change. While a
        training runs, and in runs of earlier versions, `run.json` has no digests to compare.

        Args:
            info: The content of `run.json`.

        Raises:
            InputError: A file is missing or another one.
        """
        found = self.digests()
        faults = [
            Fault(
                str(self.folder / name),
                "the file is missing or is not the one of this training: its sha256 is "
                f"{found.get(name, 'unknown'):.12}…",
                CHANGED,
                f"{digest:.12}…, as {self.info_path.name} says",
            )
            for name, digest in (info.get("digests") or {}).items()
            if found.get(name) != digest
        ]
        if faults:
            raise InputError(faults)


def recipe_from_run(values: dict[str, Any], *, where: str) -> Recipe:
    """Return the recipe that a run recorded as JSON values, perhaps by an earlier version.

    Raises:
        InputError: The values are not those of a recipe.
    """
    # Early runs framed the whole radiograph and recorded no `crop`. The default is the hand now.
    framing = values.setdefault("framing", {})
    if isinstance(framing, dict):  # otherwise the recipe's own check reports it
        framing.setdefault("crop", "none")
    return recipe_from_values(values, where=where)
