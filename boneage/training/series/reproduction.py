"""A published number made again: from the data as it comes to a table of published and ours."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.datasets.audit.audit import audit
from boneage.datasets.importers.rsna import import_rsna
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.published import SPLITS, as_markdown, compare
from boneage.evaluation.report import write_report
from boneage.evaluation.result import write_result
from boneage.evaluation.scoring import evaluate_run
from boneage.recipe import Recipe, changed_settings, read_recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from boneage.training.stop_signals import Stop

_SHOWN_FAULTS = 5
_BLOCK_BYTES = 512  # what st_blocks counts in

Say = Callable[[str], None]


@dataclass(frozen=True)
class Folders:
    """Where a reproduction's files are: a run folder, and beside it what it is trained on.

    Attributes:
        run: The run.
    """

    run: Run

    @property
    def data(self) -> Path:
        """Folder of the manifest and of its store."""
        return self.run.folder.with_name(f"{self.run.folder.name}-data")

    @property
    def manifest_path(self) -> Path:
        """The manifest that was imported."""
        return self.data / "manifest.csv"

    @property
    def effort_path(self) -> Path:
        """What the training was estimated to take before it began."""
        return self.data / "effort.json"

    @property
    def json_path(self) -> Path:
        """The comparison."""
        return self.run.folder / "reproduction.json"

    @property
    def markdown_path(self) -> Path:
        """The comparison as a page."""
        return self.run.folder / "reproduction.md"


def find_recipe(name: str) -> Path:
    """The recipe of a file, of a folder, or of the experiment of that name.

    Raises:
        InputError: There is none.
    """
    path, shelves = Path(name), _experiments()
    named = [shelf / name / "recipe.toml" for shelf in shelves]
    for found in (path, path / "recipe.toml", *named):
        if found.is_file():
            return found
    names = sorted({file.parent.name for shelf in shelves for file in shelf.glob("*/recipe.toml")})
    close = difflib.get_close_matches(name, names, n=1)
    expected = "the path of a recipe" + (f", or one of {', '.join(names)}" if names else "")
    fix = f"Did you mean {close[0]!r}?" if close else "Check its name."
    raise InputError(Fault(f"recipe {name!r}", "there is no such recipe", fix, expected=expected))


def _experiments() -> list[Path]:
    """The checkout's experiments, if this is one, and those of the folder one is in."""
    checkout = Path(__file__).parents[3]
    is_checkout = (checkout / "pyproject.toml").is_file()  # else that is site-packages
    return [*([checkout / "experiments"] if is_checkout else []), Path("experiments")]


def read_published_recipe(
    path: Path, overrides: Sequence[str] = (), *, seed: int | None = None
) -> Recipe:
    """Reads a recipe that has a published number to reproduce.

    Raises:
        InputError: It has none, or is no recipe.
    """
    recipe = read_recipe(path, overrides, seed=seed)
    if recipe.published is None:
        raise InputError(
            Fault(
                str(path),
                "there is no [published] in it, so nothing to compare with",
                "Add it, or train the recipe with `boneage train`.",
                expected="a recipe with [published]: source, and test_mae_months or val_mae_months",
            )
        )
    return recipe.model_copy(update={"phantom": None})  # it is not what is trained on


def reproduce(
    recipe: Recipe,
    recipe_path: Path,
    data: Path,
    out: Path,
    *,
    say: Say,
    progress: bool = True,
    dry_run: bool = False,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Imports, estimates, checks, prepares, trains, evaluates and compares.

    Called again with the same folders it goes on where it was cut off: nothing that is whole is
    made again.

    Args:
        recipe: As `read_published_recipe` gives it.
        recipe_path: Where it stands: settings that are not those of that file are told.
        data: The challenge's set as it was unpacked, or a manifest.
        out: The run folder. Manifest and store of a set are made in a folder beside it,
            `<out>-data`.
        say: Tells what is being done, a line at a time.
        progress: Show bars, and the training's epochs on standard output.
        dry_run: Stop after the estimate, and leave nothing behind.
        stop: As `train` takes it.

    Returns:
        `recipe`, `seed`, `source` (of the published number), `changed` (settings), `data`,
        `effort` (the estimate; None where the run was begun without), `notes` and `rows`, as
        `compare` gives them; after a training also what `run.json` says of it, and `files`. That
        is what `reproduction.json` holds.

    Raises:
        InputError: Recipe, data, weights file or disk won't do, or the data are not those that
            the run was begun with.
        KeyboardInterrupt: As it came; everything is kept.
        Terminated: SIGTERM came to `stop`; everything is kept.
    """
    folders = Folders(Run(out))
    _check_out(folders)
    assert recipe.published is not None  # read_published_recipe sees to it
    changed = changed_settings(read_recipe(recipe_path), recipe)
    if changed:
        say(f"not the recipe as it stands: {', '.join(changed)}")
    cache = os.environ.get("BONEAGE_CACHE")  # else the store stands beside the manifest
    home = Path(cache) if cache else data.parent if data.is_file() else folders.data
    with _imported(data, folders, dry_run=dry_run, progress=progress) as manifest:
        document: dict[str, Any] = {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "source": recipe.published.source,
            "changed": changed,
            "data": _described(manifest, say),
            "notes": list(manifest.notes),
            "effort": _effort(recipe, manifest, folders, home, say, keep=not dry_run),
        }
        if dry_run:
            return {**document, "rows": compare(recipe, manifest, {})}
        run = _trained(recipe, manifest, folders, say, progress, stop)
        present = set(manifest.table["split"])
        metrics = {split: _evaluated(run, split, say) for split in SPLITS if split in present}
    write_result(run)
    info = run.read_info()
    keys = ("stopped", "epochs", "best_epoch", "seconds", "provenance")
    document |= {key: info.get(key) for key in keys}
    document["rows"] = compare(recipe, manifest, metrics)
    report = write_report(run)
    files = {"run": out, "report": report, "page": folders.markdown_path}
    document["files"] = {name: str(path) for name, path in files.items()}
    write_text(folders.markdown_path, as_markdown(document))
    write_json(folders.json_path, document)
    return document


def _check_out(folders: Folders) -> None:
    """Refuses a folder of something else now, not after an hour of preparing."""
    folder = folders.run.folder
    taken = folder.is_file() or folders.run.others()
    if taken and not folders.run.is_begun:
        raise InputError(
            Fault(
                str(folder),
                "there is something else in it" if folder.is_dir() else "it is a file",
                "Name another --out.",
                expected="a new run folder, or that of a reproduction that was cut off",
            )
        )


@contextlib.contextmanager
def _imported(data: Path, folders: Folders, *, dry_run: bool, progress: bool) -> Iterator[Manifest]:
    """The manifest of a set; of a dry run's, nothing is left behind."""
    if data.is_file():
        yield read_manifest(data)
    elif dry_run:
        with tempfile.TemporaryDirectory(prefix="boneage-") as folder:
            yield import_rsna(data, Path(folder) / "manifest.csv", progress=progress)
    else:
        yield _kept_manifest(data, folders, progress)


def _kept_manifest(data: Path, folders: Folders, progress: bool) -> Manifest:
    """Imports a set; where that was done before, sees that it has not changed since."""
    path = folders.manifest_path
    new = path.with_name("new-manifest.csv")  # in the same folder: image paths are relative to it
    manifest = import_rsna(data, new, progress=progress)
    try:
        changed = path.exists() and path.read_bytes() != new.read_bytes()
        if changed and folders.run.is_begun:
            raise InputError(
                Fault(
                    str(data),
                    f"its images or labels are not those that {folders.run.folder} was begun with",
                    "Name the folder that it was begun with, or another --out.",
                    expected=f"those in {path}",
                )
            )
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return replace(manifest, path=path)


def _described(manifest: Manifest, say: Say) -> dict[str, Any]:
    counts = manifest.table["split"].value_counts()
    told = {split: int(counts.get(split, 0)) for split in ("train", *SPLITS)}
    sources = manifest.table["source"].unique().tolist() if "source" in manifest.table else []
    say(f"{len(manifest):,} images: {', '.join(f'{n:,} {split}' for split, n in told.items())}")
    for note in manifest.notes:
        say(f"note: {note}")
    return {"counts": told, "source": ", ".join(map(str, sources)), "digest": manifest.digest}


def _effort(
    recipe: Recipe, manifest: Manifest, folders: Folders, home: Path, say: Say, *, keep: bool
) -> dict[str, Any] | None:
    """What the training will take; of one that has begun, what was said before it did."""
    if folders.run.is_begun:
        return read_json(folders.effort_path) if folders.effort_path.exists() else None
    from boneage.training.cost_estimate import measure_effort  # brings Keras

    say("timing a few steps of it here")
    effort = measure_effort(recipe, manifest)
    for line in effort.lines():
        say(line)
    stores = (home / f"{manifest.path.stem}.store").glob(f"{recipe.framing.size}px-*")
    there = sum(_used(store) for store in stores)
    _check_disk(
        {
            "the framed films": (home, max(0, effort.store_bytes - there)),
            "the run": (folders.run.folder, effort.run_bytes),
        }
    )
    if keep:
        write_json(folders.effort_path, effort.as_dict())
    return effort.as_dict()


def _check_disk(needs: Mapping[str, tuple[Path, int]]) -> None:
    """Refuses what there is no room for: places and bytes, by what they are for."""
    on_disk: dict[int, list[tuple[str, Path, int]]] = {}
    for what, (place, size) in needs.items():
        existing = next(path for path in (place, *place.absolute().parents) if path.exists())
        on_disk.setdefault(existing.stat().st_dev, []).append((what, existing, size))
    for wanted in on_disk.values():
        existing, size = wanted[0][1], sum(size for _, _, size in wanted)
        free = shutil.disk_usage(existing).free
        if size > free:
            parts = ", ".join(f"{size / 1e9:.1f} for {what}" for what, _, size in wanted)
            raise InputError(
                Fault(
                    str(existing),
                    f"the disk has {free / 1e9:.1f} GB left",
                    "Make room, name an --out on another disk, or set BONEAGE_CACHE to one.",
                    expected=f"{size / 1e9:.1f} GB: {parts}",
                )
            )


def _used(folder: Path) -> int:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_blocks * _BLOCK_BYTES for path in files)


def _trained(
    recipe: Recipe,
    manifest: Manifest,
    folders: Folders,
    say: Say,
    progress: bool,
    stop: Stop | None,
) -> Run:
    from boneage.training.trainer import train  # brings Keras

    begun, folder = folders.run.is_begun, folders.run.folder
    if not begun:
        say("checking every film")
        _check(manifest, progress)
    say(f"{'going on with' if begun else 'training'} {folder}")
    return train(recipe, manifest, folder, progress=progress, resume=begun, stop=stop)


def _check(manifest: Manifest, progress: bool) -> None:
    found = audit(manifest.path, progress=progress)
    errors = [fault.message for fault in found.faults if fault.severity == "error"]
    if errors:
        more = f" and {len(errors) - _SHOWN_FAULTS} more" if len(errors) > _SHOWN_FAULTS else ""
        raise InputError(
            Fault(
                str(manifest.path),
                f"{len(errors)} errors: {' '.join(errors[:_SHOWN_FAULTS])}{more}",
                f"See all of them: boneage data check {manifest.path}",
                expected="data without errors",
            )
        )


def _evaluated(run: Run, split: str, say: Say) -> dict[str, Any]:
    """The scores of a split; made anew unless they are those of the model that is there."""
    path = run.metrics_path(split)
    if path.exists() and path.stat().st_mtime_ns > run.best_path.stat().st_mtime_ns:
        return read_json(path)
    say(f"evaluating {SPLITS[split]}")
    return evaluate_run(run, split=split, progress=False)
