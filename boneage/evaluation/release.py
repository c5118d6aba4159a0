"""From a finished run to a released model: small, measured, whole, and telling what it is."""

from __future__ import annotations

import datetime
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal

import h5py
import keras
import numpy as np
import numpy.typing as npt

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.model_card import model_card
from boneage.evaluation.result import write_result
from boneage.evaluation.scoring import evaluate_run, run_manifest
from boneage.models.builder import build_model
from boneage.pipeline.store import prepare
from boneage.prediction.predict import load_model, predict_images
from boneage.prediction.shipped import RELEASE_NAME, SUMS_NAME, sums
from boneage.recipe import Recipe
from boneage.run import TRAINED, Run
from boneage.runtime.files import read_json, write_bytes, write_json, write_text
from boneage.runtime.provenance import file_digest, provenance

Storage = Literal["float16", "float32"]

MOST_BYTES = 12_000_000
"""What all files of a release may take together, if nothing else is said."""

MOST_COST_MONTHS = 0.02
"""By how much storing a model small may raise its validation MAE."""

_WEIGHTS = "model.weights.h5"  # in a .keras file, which is a zip
_LARGEST_ERROR = 1e-3  # of a tensor, relative to its norm; rounding to float16 alone makes < 5e-4
_INFO = ("name", "seed", "started", "seconds", "provenance", "model", "best_epoch", "epochs")


def release(
    run: Run,
    out: Path,
    *,
    storage: Storage = "float16",
    views: int | None = None,
    note: str = "",
    most_bytes: int = MOST_BYTES,
    progress: bool = True,
) -> Run:
    """Makes a released model of a finished run: a run folder without tables or machine paths.

    The best model is built once more to compute in float32, whatever it was trained in, and
    stored without its optimizer, as a plain `.keras` file whose large weights are float16: Keras
    makes them float32 again as it reads them. The stored file then answers for the validation
    split, beside the run's own model, and it is its scores that `result.json` and the card tell.

    Args:
        run: A finished run, its manifest and radiographs at hand.
        out: The folder to make, which names the model. In `boneage/prediction/shipped_models` it is
            found by that name.
        storage: Of the weights in the file.
        views: Of each radiograph, whose answers it is to average; if not given, as the run's recipe
            says.
        note: What the card is to say of the training radiographs beyond their source.
        most_bytes: What all the files may take together.
        progress: Whether to show progress.

    Returns:
        The released model.

    Raises:
        InputError: The run is not finished, its manifest is gone or changed, the folder is taken,
            the files are too large, or storing the model small costs too much.
    """
    info = run.read_info()
    _check_finished(run, info)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        expected = "a folder that is not there yet, or empty"
        raise InputError(
            Fault(str(out), "it is there already", "Move it away first.", expected=expected)
        )
    manifest = run_manifest(run)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as beside:
        part = Run(Path(beside) / out.name)
        stored = _store_model(run, part, storage)
        recipe = run.read_recipe().model_dump(mode="json")
        if views is not None:
            recipe["prediction"]["views"] = views
        write_json(part.recipe_path, recipe)
        write_json(part.info_path, info)
        before = _validation_mae(run, manifest, part.read_recipe(), progress)
        _evaluate(part, manifest, progress)
        result = read_json(part.result_path)
        after = read_json(part.metrics_path("val"))["mae_months"]["value"]
        _check_cost(run, before, after, storage)
        told = {
            "name": out.absolute().name,
            "released": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "trained_model_digest": file_digest(run.best_path),
            "storage": {"weights": storage, **stored, "compute": "float32"},
            "val_mae_months": {"as_trained": before, "as_released": after},
            "note": note,
            "provenance": provenance() | {"backend": keras.backend.backend()},
        }
        _finish(part, manifest, info, result, told)
        _check_size(part.folder, most_bytes)
        part.folder.chmod(0o755)
        if out.exists():
            out.rmdir()
        part.folder.rename(out)
    return Run(out)


def store_small(archive: Path) -> dict[str, int]:
    """Rewrites a `.keras` file so that its large weights are stored as float16.

    Vectors (biases, and all that BatchNormalization keeps) stay as they are: they are few, and a
    variance may be smaller than float16 can tell from none. So do tensors with a value that
    overflows, or that lose more than rounding takes because their values are that small.

    Returns:
        `float16_values` and `other_values`: how many numbers are stored as what.
    """
    with zipfile.ZipFile(archive) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    counts = {"float16_values": 0, "other_values": 0}
    target = io.BytesIO()
    with h5py.File(io.BytesIO(members[_WEIGHTS])) as old, h5py.File(target, "w") as new:
        _copy_attributes(old, new)

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                _copy_attributes(item, new.create_group(name))
                return
            values = np.asarray(item)
            small = _as_float16(values)
            _copy_attributes(
                item, new.create_dataset(name, data=values if small is None else small)
            )
            counts["other_values" if small is None else "float16_values"] += values.size

        old.visititems(copy)
    members[_WEIGHTS] = target.getvalue()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    write_bytes(archive, whole.getvalue())
    return counts


def _copy_attributes(old: Any, new: Any) -> None:
    for key, value in old.attrs.items():
        new.attrs[key] = value


def _as_float16(values: npt.NDArray[Any]) -> npt.NDArray[np.float16] | None:
    if values.dtype != np.float32 or values.ndim < 2:
        return None
    with np.errstate(over="ignore"):
        small = values.astype(np.float16)
    if not np.isfinite(small).all():
        return None
    lost = np.linalg.norm(values - small.astype(np.float32))
    return small if lost <= _LARGEST_ERROR * np.linalg.norm(values) else None


def _store_model(run: Run, part: Run, storage: Storage) -> dict[str, int]:
    """Writes the best model, computing in float32; says how many numbers are stored as what."""
    trained, recipe = load_model(run), run.read_recipe()
    settings = {**recipe.model.model_dump(), "weights": "none"}
    model = build_model(image_size=recipe.framing.size, precision="float32", **settings)
    try:
        model.set_weights(trained.get_weights())
    except ValueError as error:  # the run is from before the network was built as it is now
        raise InputError(
            Fault(
                str(run.best_path),
                f"its weights don't fit the network of its recipe: {str(error).splitlines()[0]}",
                "Train the recipe again.",
                expected="a run of this version of boneage",
            )
        ) from None
    part.folder.mkdir()
    model.save(part.best_path)
    if storage == "float16":
        return store_small(part.best_path)
    return {"float16_values": 0, "other_values": model.count_params()}


def _validation_mae(run: Run, manifest: Manifest, recipe: Recipe, progress: bool) -> float:
    """Of the run's model as it was trained, on this machine and by so many views."""
    images = manifest.split("val")
    store = prepare(manifest, recipe.framing, progress=progress)
    stored = store.select(images.table["image_id"].tolist())
    views = recipe.prediction.views
    answers = predict_images(load_model(run), stored, images.gender(), views=views)
    return float(np.abs(answers - images.table["age_months"].to_numpy(np.float64)).mean())


def _evaluate(part: Run, manifest: Manifest, progress: bool) -> None:
    for split in ("val", "test"):
        if (manifest.table["split"] == split).any():
            evaluate_run(part, split=split, progress=progress)
    write_result(part)


def _finish(
    part: Run,
    manifest: Manifest,
    info: dict[str, Any],
    result: dict[str, Any],
    told: dict[str, Any],
) -> None:
    """Takes tables and paths out of the folder, and puts card, release and sums in."""
    for table in (*part.folder.glob("predictions-*"), *part.folder.glob("metrics-*")):
        table.unlink()
    kept = {key: info[key] for key in (*_INFO, "best_val_mae_months", "stopped") if key in info}
    # By name alone: whoever has that very file can put it where they work.
    kept["manifest"] = {"path": manifest.path.name, **result["manifest"]}
    if "init" in result:
        kept["init"] = result["init"]
    write_json(part.info_path, kept)
    write_json(part.recipe_path, result["recipe"])
    write_json(part.folder / RELEASE_NAME, told)
    size = part.best_path.stat().st_size
    card = model_card(result, told, file_digest(part.best_path), size)
    write_text(part.folder / "README.md", card)
    write_text(part.folder / SUMS_NAME, sums(part.folder))


def _check_finished(run: Run, info: dict[str, Any]) -> None:
    if info.get("stopped") not in TRAINED:
        raise InputError(
            Fault(
                str(run.folder),
                f"its training is {info.get('stopped')!r}",
                f"Go on with it: boneage train --resume {run.folder}.",
                expected="a run that came to its end",
            )
        )


def _check_cost(run: Run, before: float, after: float, storage: Storage) -> None:
    if after - before <= MOST_COST_MONTHS:
        return
    raise InputError(
        Fault(
            str(run.folder),
            f"stored as {storage} it makes {after - before:.3f} months more on validation "
            f"({before:.3f}, then {after:.3f})",
            "Store it whole with --storage float32."
            if storage == "float16"
            else "Is the network still built as it was when it was trained?",
            expected=f"at most {MOST_COST_MONTHS} more",
        )
    )


def _check_size(folder: Path, most_bytes: int) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > most_bytes:
        raise InputError(
            Fault(
                "the released model",
                f"it takes {size:,} bytes",
                "Train a smaller network, or allow more with --most-megabytes.",
                expected=f"at most {most_bytes:,}",
            )
        )
