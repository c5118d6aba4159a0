"""Which images does a model refuse: no hands, inverted hands, two hands, halves, hands?

    python experiments/refusal/refusal.py MODEL --hands MANIFEST --others FOLDER [--full FOLDER]
        --out RESULT.json

MODEL is a shipped model or a run folder with `familiarity.npz`. MANIFEST has radiographs of hands;
those of its test split are counted, and of larger ones (`source` ends with `large`) those of val,
too. FOLDER of --others has pictures that are no hands, named `KIND_NUMBER.*`, and DICOM files.
FOLDER of --full has hands at their full size. Other pictures are drawn here, or are scikit-image's.

The result has counts only, for each kind of image: `n`, how many are answered, how many are
refused and why, and the findings of the answered ones. Inverted hands and two hands (a radiograph
and its mirror image, or that of another child) also have `right`: answered within six months of
the answer for the radiograph alone. One test-time view is used.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pictures import Image, drawn_pictures, photographs

from boneage.datasets.manifest import read_manifest
from boneage.datasets.phantom.cohort import draw_hand
from boneage.prediction.predictor import UNFAMILIAR, Predictor, mean_answer
from boneage.prediction.shipped import open_run
from boneage.prediction.test_time_views import BATCH_SIZE
from boneage.radiographs.image_quality import highest_level
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.runtime.files import write_json
from boneage.runtime.provenance import provenance

PHANTOM_AGES = (6, 24, 60, 100, 140, 180, 216)
NEAR_MONTHS = 6.0
Item = tuple[str, Radiograph, float | None]
"""The kind of an image, the image, and the right answer where it is known."""


def judge(predictor: Predictor, items: Iterable[Item]) -> dict[str, Any]:
    """Count what a model does with images, by kind."""
    kinds: dict[str, Counter[str]] = {}
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH_SIZE)):
        assessed = [predictor.assess(image) for _, image, _ in batch]
        rows = [row for row, each in enumerate(assessed) if each.inputs is not None]
        inputs = [each.inputs for each in assessed if each.inputs is not None]
        outputs = predictor.estimate(inputs, np.zeros((len(inputs), 1), np.float32))
        found = predictor.judge(outputs, [assessed[row].confidence for row in rows])
        months = dict(zip(rows, mean_answer(outputs).tolist(), strict=True)) if rows else {}
        judged = dict(zip(rows, found, strict=True))
        for row, ((kind, _, right), each) in enumerate(zip(batch, assessed, strict=True)):
            counts = kinds.setdefault(kind, Counter())
            counts["n"] += 1
            network = judged.get(row)
            unfamiliar = network is not None and network.code == UNFAMILIAR
            counts["familiar"] += row in judged and not unfamiliar
            if each.refusal is not None or unfamiliar:
                counts["refused"] += 1
                counts[f"refused: {each.refusal.code if each.refusal else UNFAMILIAR}"] += 1
                continue
            counts["answered"] += 1
            for finding in (*each.findings, *([network] if network else [])):
                counts[f"finding: {finding.code}"] += 1
            counts["right"] += right is not None and abs(months[row] - right) <= NEAR_MONTHS
    return {
        kind: {key: n for key, n in sorted(counts.items()) if n} for kind, counts in kinds.items()
    }


def hands(paths: Iterable[Path], kind: str) -> Iterator[Item]:
    """Yield radiographs as they are."""
    for path in paths:
        yield kind, read_radiograph(path), None


def answers(predictor: Predictor, images: list[Radiograph]) -> list[float]:
    """Return the answers for radiographs of girls, whatever is refused."""
    inputs = [each.inputs for each in map(predictor.assess, images) if each.inputs is not None]
    return mean_answer(predictor.estimate(inputs, np.zeros((len(inputs), 1), np.float32))).tolist()


def beside(left: Radiograph, right: Radiograph) -> Radiograph:
    """Return two radiographs side by side, both as high as the first."""
    size = max(8, right.shape[1] * left.shape[0] // right.shape[0]), left.shape[0]
    shrunk = cv2.resize(right, size, interpolation=cv2.INTER_AREA)
    return np.hstack([left, shrunk.astype(left.dtype)])


def changed(predictor: Predictor, images: list[Radiograph], name: str) -> Iterator[Item]:
    """Yield radiographs inverted, doubled and halved, with the answer for the unchanged one."""
    halves: dict[str, Callable[[Radiograph], Radiograph]] = {
        "upper": lambda image: image[: image.shape[0] // 2],
        "lower": lambda image: image[image.shape[0] // 2 :],
        "left": lambda image: image[:, : image.shape[1] // 2],
        "right": lambda image: image[:, image.shape[1] // 2 :],
    }
    for number, (image, right) in enumerate(zip(images, answers(predictor, images), strict=True)):
        top = highest_level(image)
        yield f"inverted, {name}", (top - image).astype(image.dtype), right
        two = beside(image, image[:, ::-1])
        yield f"two hands of one child, {name}", two, right
        yield f"two hands, inverted, {name}", (top - two).astype(image.dtype), right
        yield f"two hands of two children, {name}", beside(image, images[number - 1]), None
        for side, half in list(halves.items())[number % 2 :: 2]:
            yield f"{side} half, {name}", np.ascontiguousarray(half(image)), None


def pictures_in(folder: Path) -> Iterator[Item]:
    """Yield the pictures of a folder, those that are no DICOM files also enlarged."""
    for path in sorted(folder.rglob("*.*")):
        image = read_radiograph(path)
        if path.suffix == ".dcm":
            yield "dicom", image, None
            continue
        kind = path.stem.rpartition("_")[0]
        yield kind, image, None
        large = cv2.resize(image, (512, 512), interpolation=cv2.INTER_CUBIC)
        yield f"{kind}, 512 px", np.asarray(large, np.uint8), None


def made_pictures(count: int) -> Iterator[Item]:
    """Yield drawn pictures, so many of each kind, and photographs."""
    made: Iterator[tuple[str, Image]] = chain(drawn_pictures(count, seed=100), photographs(100))
    for kind, image in made:
        yield kind, image, None


def phantoms() -> Iterator[Item]:
    """Yield drawn hands."""
    for age in PHANTOM_AGES:
        for number in range(10):
            rng = np.random.default_rng([age, number])
            size = (128, 256, 500)[number % 3]
            yield (
                f"phantom, {age} months",
                draw_hand(age, "FM"[number % 2], rng=rng, size=size),
                None,
            )


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--hands", type=Path, required=True)
    parser.add_argument("--others", type=Path, nargs="+", required=True)
    parser.add_argument("--full", type=Path)
    parser.add_argument("--count", type=int, default=20, help="Drawn pictures of each kind.")
    parser.add_argument("--changed", type=int, default=120, help="Hands to change.")
    parser.add_argument("--limit", type=int, help="Test hands. Default: all.")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    predictor = Predictor(open_run(options.model), views=1)
    manifest = read_manifest(options.hands)
    table = manifest.table
    is_large = table["source"].str.endswith("large").to_numpy()
    paths = np.array(manifest.image_paths())
    small = paths[(table["split"] == "test").to_numpy() & ~is_large][: options.limit].tolist()
    large = paths[table["split"].isin(["val", "test"]).to_numpy() & is_large].tolist()
    rows = np.random.default_rng(0).permutation(len(small))[: options.changed].tolist()
    result: dict[str, Any] = {"hands": judge(predictor, hands(small, "100 px, test"))}
    result["hands"] |= judge(predictor, hands(large, "512 px, val and test"))
    if options.full:
        full = sorted(options.full.glob("*.png"))
        result["hands"] |= judge(predictor, hands(full, "full size"))
    result["hands"] |= judge(predictor, phantoms())
    print(result["hands"], flush=True)
    result["no hands"] = {}
    for items in (*map(pictures_in, options.others), made_pictures(options.count)):
        result["no hands"] |= judge(predictor, items)
    print(result["no hands"], flush=True)
    result["changed hands"] = {}
    for name, chosen in (
        ("100 px", [small[row] for row in rows]),
        ("512 px", large[: options.changed // 2]),
    ):
        images = [read_radiograph(path) for path in chosen]
        result["changed hands"] |= judge(predictor, changed(predictor, images, name))
    for name, kinds in result.items():
        n = sum(each["n"] for each in kinds.values())
        refused = sum(each.get("refused", 0) for each in kinds.values())
        print(f"{name}: {refused} of {n} refused ({refused / n:.2%})")
    recorded = provenance()
    result["provenance"] = {
        key: recorded[key] for key in ("commit", "boneage", "python", "versions")
    }
    write_json(options.out, result)


if __name__ == "__main__":
    main()
