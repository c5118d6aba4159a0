"""Make a released model of a finished run: small, checked, with its card and checksums."""

from __future__ import annotations

import datetime
import io
import zipfile
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.export import Gender, Images, parity_images, write_network
from boneage.evaluation.familiarity import fit_familiarity
from boneage.evaluation.known_ids import find_known_ids, read_known_ids, write_known_ids
from boneage.evaluation.model_card import LARGER, model_card
from boneage.evaluation.records import read_metrics
from boneage.evaluation.result import count_scorings, describe_run, write_result
from boneage.evaluation.scoring import (
    evaluate_run,
    fit_intervals,
    predict_split,
    run_manifest,
)
from boneage.evaluation.stress import find_stress
from boneage.models.export import FORMATS, Storage, as_float16, check_packages, with_named_answers
from boneage.prediction.familiarity import NAME as FAMILIARITY_NAME
from boneage.prediction.predictor import Predictor
from boneage.prediction.shipped import CARD_NAME, RELEASE_NAME, SUMS_NAME, checksums
from boneage.recipe import Views
from boneage.run import MANIFEST_KEYS, TRAINED, Run
from boneage.runtime.files import (
    check_new_folder,
    new_folder,
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from boneage.runtime.names import check_name
from boneage.runtime.provenance import file_digest, package_versions, provenance

STRESS_NAME = "stress.json"

MAX_BYTES = 12_000_000
"""Largest size of each file of the network, by default."""

MAX_COST_MONTHS = 0.02
"""Largest increase of the validation MAE that smaller storage may cause."""

_WEIGHTS = "model.weights.h5"  # in a .keras file, which is a zip
_NEEDED_INFO = (
    *("name", "seed", "started", "model.parameters", "stopped"),
    *("provenance.boneage", "provenance.versions"),
    *("provenance.device", "provenance.cores", "provenance.python"),
    *MANIFEST_KEYS,
)


def release(
    run: Run,
    out: Path,
    *,
    storage: Storage = "float16",
    views: int | None = None,
    phases: int | None = None,
    note: str = "",
    known_ids: bool = True,
    max_bytes: int = MAX_BYTES,
    progress: bool = True,
) -> Run:
    """Make a released model of a finished run: a run folder without tables or machine paths.

    The network is built again to compute in float32 and saved without its optimizer, as a plain
    `.keras` file. Keras reads its float16 weights as float32. The same network is saved for ONNX
    Runtime, so that the release answers without Keras. That file is then evaluated: `result.json`
    and the card hold its own scores, not those of the run.

    Args:
        run: A finished run with its manifest and radiographs.
        out: The folder to make. Its name is the name of the model, which
            `boneage/prediction/shipped_models` is searched for.
        storage: Type of the stored weights.
        views: Test-time views averaged per image. Default: the recipe's value.
        phases: Phases averaged per radiograph. Default: the recipe's value.
        note: Text for the card about the training radiographs.
        known_ids: Whether to add the filters of the ids that the run knew, and the models that it
            started from; see `KnownIds`.
        max_bytes: Largest size of each of `best.keras` and `model.onnx`.
        progress: Show progress.

    Returns:
        The released model.

    Raises:
        InputError: The run is unfinished, its manifest is gone or changed, the folder is in use,
            a package is missing, the files are too large, or smaller storage costs too much
            accuracy.
    """
    check_name(out.absolute().name, f"--out {out}")
    info = run.read_info(_NEEDED_INFO)
    _check_finished(run, info)
    check_new_folder(out)
    check_packages("onnx")
    manifest = run_manifest(run)
    predictor = Predictor(run, views=views, phases=phases)
    used = predictor.groups[0]
    import keras  # only now, because it takes seconds

    with new_folder(out) as folder:
        part = Run(folder)
        stored = _store_model(run, part, storage)
        recipe = run.read_recipe().model_dump(mode="json")
        recipe["prediction"] |= {"views": used.views, "phases": used.phases}
        write_json(part.recipe_path, recipe)
        info.pop("digests", None)  # those of the run's own files
        write_json(part.info_path, info)
        onnx = _write_onnx(part, storage, parity_images(run))
        before = _validation_mae(predictor, manifest, progress)
        has = set(manifest.table["split"])
        splits = [split for split in ("val", "test") if split in has]
        evaluate_run(part, split=splits, progress=progress)
        fit_intervals(part, get_args(Views), used.phases, progress=progress)
        after = read_metrics(part.metrics_path("val"))["mae_months"]["value"]
        _check_cost(run, before, after, storage)
        fit_familiarity(part, manifest)
        if (stress := find_stress(run)) is not None:  # of the model as trained
            write_json(part.folder / STRESS_NAME, stress)
        summary = {
            "name": out.absolute().name,
            "released": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "trained_model_digest": file_digest(run.best_path),
            "storage": {"weights": storage, **stored, "compute": "float32"},
            "onnx": onnx,
            "val_mae_months": {"as_trained": before, "as_released": after},
            "note": note,
            **count_larger(manifest),
            "provenance": provenance() | {"backend": keras.backend.backend()},
        }
        if known_ids and (known := find_known_ids(run, manifest.table)) is not None:
            write_known_ids(part.folder, known)
        earlier = count_scorings(run, "test", manifest.digest)
        _finish(part, summary, earlier)
        _check_size(part, max_bytes)
    return Run(out)


def store_small(archive: Path) -> dict[str, int]:
    """Rewrite a `.keras` file with its large weights stored as float16.

    Vectors stay float32: they are few, and a small variance of BatchNormalization may underflow.
    So do tensors that overflow, or that lose more than rounding because their values are tiny.

    Returns:
        `float16_values` and `other_values`: the number of values stored in each way.
    """
    with zipfile.ZipFile(archive) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    counts = {"float16_values": 0, "other_values": 0}
    target = io.BytesIO()
    with h5py.File(io.BytesIO(members[_WEIGHTS])) as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                new.create_group(name).attrs.update(item.attrs)
                return
            values = np.asarray(item)
            small = as_float16(values)
            kept = values if small is None else small
            new.create_dataset(name, data=kept).attrs.update(item.attrs)
            counts["other_values" if small is None else "float16_values"] += values.size

        old.visititems(copy)
    members[_WEIGHTS] = target.getvalue()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    write_bytes(archive, whole.getvalue())
    return counts


def _store_model(run: Run, part: Run, storage: Storage) -> dict[str, int]:
    """Write the best model, built for float32; return the number of values stored in each way."""
    from boneage.models.saved import load_float32

    model = load_float32(run)
    model.save(part.best_path)
    if storage == "float16":
        return store_small(part.best_path)
    return {"float16_values": 0, "other_values": model.count_params()}


def _write_onnx(part: Run, storage: Storage, parity: tuple[Images, Gender, str]) -> dict[str, Any]:
    """Write the released network for ONNX Runtime, which answers from now on.

    Returns:
        The key `onnx` of `release.json`.
    """
    from boneage.models.saved import load_model

    images, gender, origin = parity
    network = with_named_answers(load_model(part))
    found = write_network(network, part.onnx_path, "onnx", storage, images, gender)
    return {
        "weights": storage,
        "parity": {**found, "of": origin},
        "versions": package_versions(FORMATS["onnx"].packages),
    }


def count_larger(manifest: Manifest) -> dict[str, Any]:
    """Return the key `larger` if larger radiographs of the same children are training images."""
    train = manifest.table[manifest.table["split"] == "train"]
    if not {"source", "patient_id"} <= set(train):
        return {}
    is_larger = train["source"].str.endswith(LARGER)
    children = set(train["patient_id"][~is_larger]) - {""}
    if not is_larger.any() or not train["patient_id"][is_larger].isin(children).all():
        return {}
    return {"larger": {"thumbnails": int((~is_larger).sum()), "radiographs": int(is_larger.sum())}}


def _validation_mae(predictor: Predictor, manifest: Manifest, progress: bool) -> float:
    """Return the validation MAE of the run's own model on this machine, in months."""
    table = predict_split(predictor, manifest, "val", progress=progress)
    return float((table["predicted_age_months"] - table["age_months"]).abs().mean())


def _finish(part: Run, summary: dict[str, Any], scorings: int) -> None:
    """Remove tables and paths from the folder; add the result, card, release and checksums."""
    result = read_json(write_result(part, earlier_scorings=scorings))
    for table in (*part.folder.glob("predictions-*"), *part.folder.glob("metrics-*")):
        table.unlink()
    write_json(part.info_path, describe_run(part))
    write_json(part.recipe_path, result["recipe"])
    write_json(part.folder / RELEASE_NAME, summary)
    write_card(part)
    write_text(part.folder / SUMS_NAME, checksums(part.folder))


def write_card(released: Run) -> Path:
    """Write the model card of a released model again, from the files of its folder.

    If the folder has a `stress.json`, as `boneage stress` writes it, the card has its table.

    Returns:
        The path of the card.

    Raises:
        InputError: A file is missing or damaged.
    """
    folder = released.folder
    stress = folder / "stress.json"
    card = model_card(
        read_json(released.result_path),
        read_json(folder / RELEASE_NAME),
        file_digest(released.best_path),
        released.best_path.stat().st_size,
        read_json(stress) if stress.exists() else None,
        read_known_ids(folder),
        refuses=(folder / FAMILIARITY_NAME).exists(),
    )
    write_text(folder / CARD_NAME, card)
    return folder / CARD_NAME


def _check_finished(run: Run, info: dict[str, Any]) -> None:
    if info.get("stopped") not in TRAINED:
        raise InputError(
            Fault(
                str(run.folder),
                f"its training is not finished: it is {info.get('stopped')!r}",
                f"Continue the training: boneage train --resume {run.folder}",
            )
        )


def _check_cost(run: Run, before: float, after: float, storage: Storage) -> None:
    if after - before <= MAX_COST_MONTHS:
        return
    raise InputError(
        Fault(
            str(run.folder),
            f"stored as {storage}, its validation MAE is {after - before:.3f} months higher "
            f"({before:.3f}, then {after:.3f})",
            "Store the weights with --storage float32."
            if storage == "float16"
            else "Was the network built differently when it was trained?",
            expected=f"at most {MAX_COST_MONTHS} months",
        )
    )


def _check_size(part: Run, max_bytes: int) -> None:
    sizes = {path.name: path.stat().st_size for path in (part.best_path, part.onnx_path)}
    faults = [
        Fault(
            f"{name} of the released model",
            f"the file has {size:,} bytes, and {max_bytes:,} are allowed",
            "Train a smaller network, or raise the limit with --max-megabytes.",
        )
        for name, size in sizes.items()
        if size > max_bytes
    ]
    if faults:
        raise InputError(faults)
