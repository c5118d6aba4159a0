"""Export a run's network for other programs, and compare the answers with those of Keras."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import Fault, InputError
from boneage.evaluation.html import render
from boneage.evaluation.model_card import wrap_markdown
from boneage.evaluation.result import NEEDED_INFO, describe_run, without_folder
from boneage.evaluation.scoring import run_manifest
from boneage.models.export import (
    FORMATS,
    Answers,
    FormatName,
    Storage,
    check_packages,
    with_named_answers,
    with_pixels,
)
from boneage.prediction.predictor import Predictor
from boneage.prediction.shipped import (
    CARD_NAME,
    RELEASE_NAME,
    SUMS_NAME,
    checksums,
    identify_model,
    is_release,
)
from boneage.run import Run
from boneage.runtime.files import (
    check_new_folder,
    new_folder,
    read_json,
    write_json,
    write_text,
)
from boneage.runtime.names import check_name
from boneage.runtime.provenance import (
    file_digest,
    licence,
    package_versions,
    provenance,
    usable_cores,
)
from boneage.runtime.threads import threads

if TYPE_CHECKING:
    import keras

PARITY_IMAGES = 200
MAX_DIFFERENCE_MONTHS = {"onnx": 0.02, "litert": 0.05, "openvino": 0.05, "saved-model": 0.05}
"""How far an exported network's answer may be from that of Keras in float32."""

MAX_BATCH_DIFFERENCE_MONTHS = 0.01
"""How far the answer for an image may depend on the other images of its batch."""

MODEL_CARD_NAME = "MODEL_CARD.md"
_BATCH_SIZE = 64
_SEED = 2016  # of the images that are drawn for the comparison
_CONSTANTS = ("intervals.json", "familiarity.npz")
_OF_RELEASE = ("result.json", "stress.json", "known_ids.json")
_TOOLS = (
    *("tensorflow", "tensorflow-cpu", "keras", "onnx", "tf2onnx", "onnxruntime"),
    *("ai-edge-litert", "openvino"),
)

Images = npt.NDArray[np.uint8]
Gender = npt.NDArray[np.float32]


def export_run(
    run: Run,
    out: Path,
    format_name: FormatName = "onnx",
    *,
    storage: Storage | None = None,
    data: Path | None = None,
    count: int = PARITY_IMAGES,
) -> dict[str, Any]:
    """Write a new folder with a run's network in another format.

    The network is built again for float32 first. The folder also holds the recipe, the constants
    of intervals and of refusal if the run has them, a card, the licence and checksums.
    An ONNX folder can be used wherever a run folder is only read, such as by `boneage predict`.

    Args:
        run: A finished run or a released model, with its `best.keras`.
        out: The folder to make.
        format_name: The format.
        storage: Type of the stored weights. Default: float16 where the format has it.
        data: A manifest whose images are compared. Default: that of the run if it is at hand, or
            drawn hands.
        count: Number of images that are compared.

    Returns:
        The content of the folder's `release.json`. Its key `export` has `parity`; see
        `measure_parity`.

    Raises:
        InputError: The folder is in use, a package is missing, the format has no such storage, the
            run or an image can't be read, or the answers differ too much.
    """
    chosen, summary = _check_request(run, out, format_name, storage)
    images, gender, origin = parity_images(run, data, count)
    from boneage.models.saved import load_float32

    with new_folder(out) as folder:
        network = with_named_answers(load_float32(run))
        parity = write_network(
            network, folder / FORMATS[format_name].file, format_name, chosen, images, gender
        )
        export = {
            "of": file_digest(run.best_path),
            **_describe_network(network, format_name, chosen),
        }
        summary["export"] = {**export, "parity": {**parity, "of": origin}}
        _fill(folder, run, summary)
    return summary


def write_network(
    network: keras.Model,
    path: Path,
    format_name: FormatName,
    storage: Storage,
    images: Images,
    gender: Gender,
) -> dict[str, Any]:
    """Write a network of `with_named_answers`, and compare the file's answers with its own.

    Returns:
        The answer of `measure_parity`.

    Raises:
        InputError: The answers differ too much.
    """
    FORMATS[format_name].write(with_pixels(network), path, storage)

    def expected(pixels: Images, sexes: Gender) -> Answers:
        scaled = pixels.astype(np.float32) / np.float32(255)
        return dict(network.predict_on_batch([scaled, sexes]))

    parity = measure_parity(expected, FORMATS[format_name].load(path), images, gender)
    _check_parity(parity, format_name, storage)
    return parity


def measure_parity(
    expected: Callable[[Images, Gender], Answers],
    exported: Callable[[Images, Gender], Answers],
    images: Images,
    gender: Gender,
) -> dict[str, Any]:
    """Compare the answers of an exported network with those of Keras.

    The exported network answers in batches and also one image at a time.

    Args:
        expected: The network in Keras.
        exported: The exported network.
        images: uint8 (n, size, size, 1), framed as in training.
        gender: float32 (n, 1), 1.0 = male.

    Returns:
        `images`, and the largest differences: `months`, `probability` of a month if there are any,
        and `batch_months` between the answers of a batch and of single images.
    """
    own = _answers(expected, images, gender, _BATCH_SIZE)
    batched = _answers(exported, images, gender, _BATCH_SIZE)
    single = _answers(exported, images, gender, 1)

    def largest(name: str, first: Answers, second: Answers) -> float:
        return float(np.abs(first[name].astype(np.float64) - second[name]).max())

    parity: dict[str, Any] = {
        "images": len(images),
        "months": max(largest("age_months", own, each) for each in (batched, single)),
        "batch_months": largest("age_months", batched, single),
    }
    if "age_distribution" in own:
        parity["probability"] = largest("age_distribution", own, batched)
    return parity


def _answers(
    network: Callable[[Images, Gender], Answers], images: Images, gender: Gender, size: int
) -> Answers:
    parts = [
        network(images[first : first + size], gender[first : first + size])
        for first in range(0, len(images), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_parity(parity: Mapping[str, Any], format_name: FormatName, storage: Storage) -> None:
    limits = {"months": MAX_DIFFERENCE_MONTHS[format_name]}
    limits["batch_months"] = MAX_BATCH_DIFFERENCE_MONTHS
    words = {"months": "from those of Keras", "batch_months": "between a batch and single images"}
    faults = [
        Fault(
            f"--format {format_name}",
            f"its answers differ by up to {parity[key]:.4f} months {words[key]}",
            "Store the weights with --storage float32."
            if storage == "float16"
            else "Choose another --format, and report this network to the authors of boneage.",
            f"at most {limit} months",
        )
        for key, limit in limits.items()
        if not parity[key] <= limit  # also if it is no number
    ]
    if faults:
        raise InputError(faults)


def parity_images(
    run: Run, data: Path | None = None, count: int = PARITY_IMAGES
) -> tuple[Images, Gender, str]:
    """Return framed images for a comparison, and where they come from.

    Args:
        run: The run that frames them.
        data: A manifest. Default: that of the run if it is at hand, or else drawn hands.
        count: Number of images; fewer if the manifest has fewer.

    Returns:
        Images uint8 (n, size, size, 1), gender float32 (n, 1), and the name of the manifest's file
        or `drawn hands`.

    Raises:
        InputError: The manifest or an image can't be read.
    """
    predictor = Predictor(run)
    manifest = _own_manifest(run) if data is None else read_manifest(data)
    if manifest is None:
        drawn = [phantom(_SEED, index) for index in range(count)]
        inputs = [predictor.frame(each.image)[0] for each in drawn]
        gender = np.array([each.sex == "M" for each in drawn])
    else:
        rows = np.random.default_rng(_SEED).permutation(len(manifest))[:count]
        paths, regions = manifest.image_paths(), manifest.regions()
        with threads(usable_cores()) as pool:
            inputs = list(pool.map(lambda row: predictor.read(paths[row], regions[row]), rows))
        gender = manifest.gender()[rows, 0]
    images = np.stack([each[0][0] for each in inputs])[..., np.newaxis]
    origin = "drawn hands" if manifest is None else manifest.path.name
    return images, gender.astype(np.float32)[:, np.newaxis], origin


def _own_manifest(run: Run) -> Manifest | None:
    try:
        return run_manifest(run)
    except InputError:
        return None


def _check_request(
    run: Run, out: Path, format_name: FormatName, storage: Storage | None
) -> tuple[Storage, dict[str, Any]]:
    """Check what can be checked before Keras is imported.

    Returns:
        The type of the stored weights, and what `release.json` will say apart from the export.
    """
    check_name(out.absolute().name, f"--out {out}")
    check_new_folder(out)
    check_packages(format_name)
    storages = FORMATS[format_name].storages
    chosen = storage or storages[0]
    if chosen not in storages:
        what = f"the format {format_name} does not store weights as {chosen}"
        raise InputError(Fault(f"--storage {chosen}", what, f"Choose {' or '.join(storages)}."))
    if not run.best_path.exists():
        what = f"{run.best_path.name} is missing"
        fix = "Name the run or the released model that this network was exported from."
        raise InputError(Fault(str(run.folder), what, fix))
    summary = {
        "name": check_name(identify_model(run).name, str(run.info_path)),
        "released": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "trained_model_digest": file_digest(run.best_path),
        "note": "",
    }
    if is_release(run.folder):
        summary |= read_json(run.folder / RELEASE_NAME)
    else:
        run.read_info(NEEDED_INFO)
    return chosen, summary


def _describe_network(
    network: keras.Model, format_name: FormatName, storage: Storage
) -> dict[str, Any]:
    size = network.inputs[0].shape[1]
    shapes = {name: ["batch", *value.shape[1:]] for name, value in network.output.items()}
    return {
        "format": format_name,
        "file": FORMATS[format_name].file,
        "weights": storage,
        "compute": "float32",
        "inputs": {
            "image": {"dtype": "uint8", "shape": ["batch", size, size, 1]},
            "gender": {"dtype": "float32", "shape": ["batch", 1]},
        },
        "outputs": {name: {"dtype": "float32", "shape": shape} for name, shape in shapes.items()},
        "provenance": provenance(),
        "versions": package_versions(_TOOLS),
    }


def _fill(folder: Path, run: Run, summary: Mapping[str, Any]) -> None:
    """Write everything but the network into the folder of an export."""
    part, released = Run(folder), is_release(run.folder)
    write_json(part.recipe_path, without_folder(read_json(run.recipe_path)))
    write_json(part.info_path, run.read_info() if released else describe_run(run))
    for name in (*_CONSTANTS, *(_OF_RELEASE if released else ())):
        if (run.folder / name).exists():
            shutil.copyfile(run.folder / name, folder / name)
    if released:
        shutil.copyfile(run.folder / CARD_NAME, folder / MODEL_CARD_NAME)
    write_json(folder / RELEASE_NAME, dict(summary))
    write_text(folder / "LICENSE", licence())
    recipe = run.read_recipe()
    card = render(
        "export_card.md",
        name=summary["name"],
        folder=folder.name,
        export=summary["export"],
        framing=recipe.framing,
        views=recipe.prediction.views,
        digest=summary["export"]["of"],
        model_card=MODEL_CARD_NAME if released else None,
        constants=[name for name in _CONSTANTS if (folder / name).exists()],
        packages=summary["export"]["versions"],
    )
    write_text(folder / CARD_NAME, wrap_markdown(card))
    write_text(folder / SUMS_NAME, checksums(folder))
