"""Fit which images a run knows, so that `predict` can refuse the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from boneage.datasets.manifest import Manifest
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError
from boneage.evaluation.scoring import run_manifest
from boneage.prediction.familiarity import MIN_IMAGES, Familiarity
from boneage.prediction.predictor import Assessed, Inputs, Predictor
from boneage.radiographs.framing import cut_region
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.run import Run
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

MAX_IMAGES = 1200
"""Training images, and validation images, that are used; of more, a random part."""
_DRAWINGS = 400
_DRAWING_SEED = 0x64726177  # keeps them apart from the phantoms of any cohort
_DRAWING_SIZES = (128, 256, 512)


def fit_familiarity(run: Run, manifest: Manifest | None = None, *, seed: int = 0) -> Path | None:
    """Write `familiarity.npz` into a run's folder.

    Images that `predict` refuses by their pixels alone, and those that can't be read, are left out.

    Args:
        run: A finished run.
        manifest: The manifest with its splits `train` and `val`. Default: the run's own.
        seed: Seed of the choice of images, and of the fit.

    Returns:
        The path of the file; None where the network has no pooled features, or either split has
        fewer than `MIN_IMAGES` usable images.

    Raises:
        InputError: The manifest is gone or changed, or the model can't be read.
    """
    manifest = run_manifest(run) if manifest is None else manifest
    sizes = manifest.table["split"].value_counts()
    if min(sizes.get("train", 0), sizes.get("val", 0)) < MIN_IMAGES:
        return None
    predictor = Predictor(run, views=1)
    train, _ = _features(predictor, *_radiographs(manifest.split("train"), seed))
    val, confidence = _features(predictor, *_radiographs(manifest.split("val"), seed))
    if min(len(train), len(val)) < MIN_IMAGES:
        return None
    drawn, _ = _features(predictor, _draw, range(_DRAWINGS))
    return Familiarity.fit(train, val, confidence, drawn, seed=seed).write(run.folder)


def _radiographs(split: Manifest, seed: int) -> tuple[Callable[[int], Radiograph], Sequence[int]]:
    """Return a function that reads the radiograph of a row, and the rows to read."""
    images = list(zip(split.image_paths(), split.regions(), strict=True))

    def read(row: int) -> Radiograph:
        path, region = images[row]
        radiograph = read_radiograph(path)
        return radiograph if region is None else cut_region(radiograph, region)

    rows = np.random.default_rng(seed).permutation(len(images))[:MAX_IMAGES]
    return read, np.sort(rows).tolist()


def _draw(number: int) -> Radiograph:
    size = _DRAWING_SIZES[number % len(_DRAWING_SIZES)]
    return phantom(_DRAWING_SEED, number, size).image


def _features(
    predictor: Predictor, read: Callable[[int], Radiograph], rows: Sequence[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return pooled features (n, k), and the confidence of the orientation (n,)."""
    confidence: list[float] = []

    def assess(row: int) -> Assessed | None:
        try:
            return predictor.assess(read(row))
        except InputError:
            return None

    def usable() -> Iterator[Inputs]:
        with threads(usable_cores()) as pool:
            for each in pool.map(assess, rows):
                if each is not None and each.inputs is not None and each.refusal is None:
                    confidence.append(each.confidence)
                    yield each.inputs

    gender = np.zeros((len(rows), 1), np.float32)  # it does not reach these features
    pooled = [outputs.pooled for (outputs,) in predictor.estimates(usable(), gender)]
    known = [each for each in pooled if each is not None]
    features = np.concatenate(known) if known else np.empty((0, 1), np.float32)
    return features, np.array(confidence)
