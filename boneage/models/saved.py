"""Read the `.keras` files that training writes, also those that somebody has changed."""

from __future__ import annotations

import contextlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from boneage.errors import Fault, InputError
from boneage.models.backbones import require_backbone
from boneage.models.builder import build_model
from boneage.run import Run
from boneage.runtime.files import LARGEST_FILE, open_regular

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_LARGEST_TEXT = 4 * 2**20  # bytes of all members but the weights; ours have 100 thousand
_MOST_MEMBERS = 1000  # ours have three
_SPARE_BYTES = 2**20  # of a file of weights, for the names and the structure

_FIX = "Was the file cut short, changed or taken from another run? Copy it again, or train again."


def load_model(run: Run) -> keras.Model:
    """Return the best model of a run, ready to predict.

    The network is first built without values, which takes no memory. Only a network that answers
    what the recipe says, and has as many values as the file, is then loaded. No code in the file
    is run.

    Raises:
        InputError: The file is damaged, or is not the one that the run trained. Or it holds
            another network than the recipe says, or needs a package that is not installed.
    """
    with contextlib.suppress(InputError):
        require_backbone(run)  # its package may define layers
    try:
        return _load_checked(run)
    except InputError:
        require_backbone(run)
        raise


def load_float32(run: Run) -> keras.Model:
    """Return the best model of a run, built again to compute in float32 and without optimizer.

    Raises:
        InputError: As `load_model`, or the weights don't fit the network of today.
    """
    recipe = run.read_recipe()
    trained = load_model(run)
    settings = {**recipe.model.model_dump(), "weights": "none"}
    model = build_model(image_size=recipe.framing.size, precision="float32", **settings)
    try:
        model.set_weights(trained.get_weights())
    except ValueError as error:  # the run is older than today's network
        raise InputError(
            Fault(
                str(run.best_path),
                f"its weights don't fit the network of its recipe: {str(error).splitlines()[0]}",
                "Train the recipe again with this version of boneage.",
            )
        ) from None
    return model


def _load_checked(run: Run) -> keras.Model:
    path, size = run.best_path, run.read_recipe().framing.size
    if run.onnx_path.exists() and not path.exists():
        what = f"{path.name} is missing, and {run.onnx_path.name} can't be trained or exported"
        fix = "Name the run or the released model that this network was exported from."
        raise InputError(Fault(str(run.folder), what, fix))
    info = run.read_info()
    run.check_files(info)
    recorded = (info.get("model") or {}).get("parameters")
    skeleton = _read_skeleton(path)
    _check_network(path, skeleton, size)
    if recorded not in (None, skeleton.count_params()):
        what = f"its network has {skeleton.count_params():,} parameters"
        raise _fault(path, what, f"{recorded:,}, as {run.info_path.name} says")
    model = _load(path)
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise _fault(path, "some of its weights are not finite numbers")
    return model


def _read_skeleton(path: Path) -> keras.Model:
    """Return the network of a file without values, and check the sizes of its parts.

    Raises:
        InputError: The file is damaged or holds no network.
    """
    try:
        with open_regular(path, LARGEST_FILE) as file, zipfile.ZipFile(file) as archive:
            _check_sizes(archive)
            stored = archive.getinfo(_WEIGHTS).file_size
            config = json.loads(archive.read(_CONFIG))
        # Keras would give the variables their values with the next network of this thread.
        with ThreadPoolExecutor(1) as thread:
            model = thread.submit(_build_without_values, config).result()
        values = model.count_params()
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file makes Keras raise anything
        raise _fault(path, _reason(error)) from None
    # Released models store values of two bytes.
    if 2 * values > stored:
        raise _fault(path, f"its network needs {values:,} values, and it holds fewer")
    return model


def _build_without_values(config: dict[str, Any]) -> Any:
    with keras.StatelessScope(initialize_variables=False):
        return keras.saving.deserialize_keras_object(config, safe_mode=True)


def _check_sizes(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    weights = archive.getinfo(_WEIGHTS)
    others = sum(member.file_size for member in members if member.filename != _WEIGHTS)
    if weights.file_size > 8 * weights.compress_size + _SPARE_BYTES:
        raise ValueError(f"{_WEIGHTS} has {weights.file_size:,} bytes")
    if len(members) > _MOST_MEMBERS or others > _LARGEST_TEXT:
        raise ValueError(f"it has {len(members):,} parts, of {others:,} bytes without the weights")


def _check_network(path: Path, model: Any, size: int) -> None:
    expected = [(None, size, size, 1), (None, 1)]
    inputs, outputs = (
        [tuple(each.shape) for each in getattr(model, name, None) or []]
        for name in ("inputs", "outputs")
    )
    if (inputs, outputs) != (expected, [(None, 1)]):
        raise _fault(
            path,
            f"its network takes inputs of {inputs} and answers {outputs}",
            f"{expected} and [(None, 1)], as recipe.json says",
        )


def _load(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise _fault(path, "it does not fit into memory") from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes Keras raise anything
        raise _fault(path, _reason(error)) from None


def _reason(error: Exception) -> str:
    """Return the first line of an error of Keras, without the advice to run the file's code."""
    text = str(error).strip()
    if "safe_mode" in text or "unsafe" in text:
        return "it holds code, which is never run"
    line = text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line:.200}" if line else type(error).__name__


def _fault(path: Path, what: str, expected: str = "") -> InputError:
    return InputError(Fault(str(path), f"the model can't be read: {what}", _FIX, expected))
