"""Do the answers of a model move where the joints are?

    python experiments/explanation/measure.py RUN MANIFEST --joints JOINTS > results/NAME.json

JOINTS holds Pascal VOC files `<id>.xml` with a box around every ossification region (Koitka et al.
2018). The radiographs are those of the chosen splits (default: val and test) that have such a file.
The result is JSON, for the model and for networks of the same recipe with random weights:

- `joints`: all boxes of one kind of joint are blurred. How many months does the answer move for
  each 1 % of the area? Three times, boxes of the same sizes are blurred elsewhere on the hand,
  where they cover joints least. A network that does not know joints has a ratio of about 1.
- `heat_map`: the share of the heat map of `predict --explain` that is inside the boxes, divided by
  their share of the area, of the framed image and of the hand.
- `second_method`: the rank correlation of that heat map with integrated gradients from the blurred
  image, over the 16 x 16 cells that show the hand. It needs TensorFlow.

Intervals are 95 % bootstrap intervals over the radiographs.
"""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.datasets.manifest import read_manifest
from boneage.prediction.engines import Engine, KerasEngine, load_engine
from boneage.prediction.explanation import BLUR, occlude
from boneage.prediction.shipped import open_run
from boneage.radiographs.framing import frame
from boneage.radiographs.hand_detection import find_hand
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Recipe
from boneage.runtime.provenance import provenance

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.float32]

KINDS = ("DIP", "PIP", "MCP", "Wrist", "Radius", "Ulna")
REPEATS = 3
TRIED = 60
CELLS = 16
STEPS = 8


@dataclass
class Hand:
    """A framed radiograph with its joints.

    Attributes:
        pixels: uint8 (size, size).
        gender: 1.0 = male.
        joints: The kind of each box, and its corners (x, y) on the framed image.
        silhouette: float32 (size, size), 1 on the hand.
    """

    pixels: Pixels
    gender: float
    joints: list[tuple[str, npt.NDArray[np.float64]]]
    silhouette: Mask

    def mask(self, corners: npt.NDArray[np.float64]) -> Mask:
        """Return 1 inside the corners."""
        mask = np.zeros(self.pixels.shape, np.uint8)
        cv2.fillConvexPoly(mask, np.rint(corners - 0.5).astype(np.int32), 1)
        return mask.astype(np.float32)

    def union(self, kind: str | None = None) -> Mask:
        """Return 1 inside the boxes of a kind, or of all kinds."""
        masks = [self.mask(corners) for name, corners in self.joints if kind in (None, name)]
        return np.maximum.reduce([np.zeros(self.pixels.shape, np.float32), *masks])


def hands(manifest: Path, splits: Sequence[str], joints: Path, recipe: Recipe) -> Iterator[Hand]:
    """Yield every annotated radiograph of the splits, framed."""
    images, seen = read_manifest(manifest), set()
    rows = zip(images.image_paths(), images.table.to_dict("records"), strict=True)
    for path, row in rows:
        annotation = joints / f"{path.stem}.xml"
        if row["split"] not in splits or not annotation.exists() or path.stem in seen:
            continue
        seen.add(path.stem)
        radiograph = read_radiograph(path)
        framed = frame(radiograph, recipe.framing)
        back = cv2.invertAffineTransform(framed.to_radiograph)
        root = ET.parse(annotation).getroot()
        sides = [float(root.findtext(f"size/{name}", "nan")) for name in ("width", "height")]
        found = []
        for box in root.iter("object"):
            names = ("xmin", "ymin", "xmax", "ymax")
            ends = [float(box.findtext(f"bndbox/{name}", "nan")) for name in names]
            left, top, right, bottom = np.array(ends) / (sides * 2) * (radiograph.shape[::-1] * 2)
            corners = [(left, top, 1), (right, top, 1), (right, bottom, 1), (left, bottom, 1)]
            found.append((box.findtext("name", ""), np.array(corners) @ back.T))
        if not found:
            continue
        mask = find_hand(framed.pixels).mask
        if not mask.any():
            mask = cv2.threshold(framed.pixels, 0, 1, cv2.THRESH_OTSU)[1]
        small = cv2.resize(mask, framed.pixels.shape, interpolation=cv2.INTER_NEAREST)
        yield Hand(framed.pixels, float(row["sex"] == "M"), found, small.astype(np.float32))


def blurred(pixels: Pixels, mask: Mask, blur: float) -> Pixels:
    """Return an image that is blurred where the mask is 1, with a soft edge."""
    size = len(pixels)
    smooth = cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), blur * size)
    weight = cv2.GaussianBlur(mask, (0, 0), 0.01 * size)
    return np.rint(pixels + (smooth - pixels) * weight).astype(np.uint8)


def elsewhere(hand: Hand, kind: str, generator: np.random.Generator) -> Mask:
    """Return the boxes of a kind, each moved to a random place of the hand.

    Of 60 places, the one is taken that covers joints and the boxes before it least, and is on the
    hand.
    """
    union, total = hand.union(), np.zeros(hand.pixels.shape, np.float32)
    rows, columns = np.nonzero(hand.silhouette)
    for name, corners in hand.joints:
        if name != kind:
            continue
        best: tuple[float, Mask] | None = None
        for index in generator.integers(0, len(rows), TRIED):
            place = (columns[index] + 0.5, rows[index] + 0.5)
            mask = hand.mask(corners - corners.mean(0) + place)
            area = hand.mask(corners).sum()
            outside = max(0.0, 0.8 - float((mask * hand.silhouette).sum()) / area)
            cost = float((mask * union).sum() + (mask * total).sum()) / area + 2 * outside
            if best is None or cost < best[0]:
                best = cost, mask
        if best is not None:
            total = np.maximum(total, best[1])
    return total


def move_joints(engine: Engine, found: Sequence[Hand], blur: float) -> dict[str, Any]:
    """Blur one kind of joint at a time, and as much of the hand elsewhere."""
    generator = np.random.default_rng(0)
    # for each hand and kind: months and area of the joints, months and area elsewhere
    sums = np.full((len(found), len(KINDS), 4), np.nan)
    covered, signed = [], np.full((len(found), len(KINDS)), np.nan)
    for row, hand in enumerate(found):
        kinds = [kind for kind in KINDS if hand.union(kind).any()]
        masks = [hand.union(kind) for kind in kinds]
        others = [elsewhere(hand, kind, generator) for kind in kinds for _ in range(REPEATS)]
        covered += [float((mask * hand.union()).sum() / mask.sum()) for mask in others]
        images = [hand.pixels, *(blurred(hand.pixels, mask, blur) for mask in [*masks, *others])]
        genders = np.full((len(images), 1), hand.gender, np.float32)
        months = engine.predict(np.stack(images), genders).months
        moved = months[1:] - months[0]
        at, away = moved[: len(kinds)], moved[len(kinds) :].reshape(-1, REPEATS)
        areas = 100 * np.array([mask.mean() for mask in masks])
        other_areas = 100 * np.array([mask.mean() for mask in others]).reshape(-1, REPEATS)
        columns = [KINDS.index(kind) for kind in kinds]
        values = [np.abs(at), areas, np.abs(away).mean(1), other_areas.mean(1)]
        sums[row, columns] = np.stack(values, axis=1)
        signed[row, columns] = at

    def ratio(rows: npt.NDArray[np.float64]) -> float:
        months, area, other_months, other_area = np.nansum(rows.reshape(-1, 4), axis=0)
        return float(months / area / (other_months / other_area))

    result: dict[str, Any] = {"all": with_interval(sums, ratio)}
    for column, kind in enumerate(KINDS):
        part = sums[:, column][~np.isnan(sums[:, column, 0])]
        result[kind] = {
            **with_interval(part, ratio),
            "mean_months": float(part[:, 0].mean()),
            "mean_months_signed": float(np.nanmean(signed[:, column])),
            "mean_months_elsewhere": float(part[:, 2].mean()),
            "area_percent": float(part[:, 1].mean()),
            "area_percent_elsewhere": float(part[:, 3].mean()),
        }
    return result | {"joints_covered_elsewhere": float(np.mean(covered))}


def with_interval(values: npt.NDArray[np.float64], score: Callable[..., float]) -> dict[str, Any]:
    """Return a ratio with its bootstrap interval over the rows."""
    generator = np.random.default_rng(0)
    draws = [score(values[generator.integers(0, len(values), len(values))]) for _ in range(2000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"n": len(values), "ratio": float(score(values)), "low": float(low), "high": float(high)}


def score_heat(heats: Sequence[Mask], found: Sequence[Hand]) -> dict[str, Any]:
    """Return the share of heat in the boxes, divided by their share of the area."""
    frame_ratios, hand_ratios = [], []
    for heat, hand in zip(heats, found, strict=True):
        size, union = np.abs(heat), hand.union()
        frame_ratios.append((size * union).sum() / size.sum() / union.mean())
        on_hand = size * hand.silhouette
        share = (union * hand.silhouette).sum() / hand.silhouette.sum()
        hand_ratios.append((on_hand * union).sum() / on_hand.sum() / share)
    scores = {"of_the_framed_image": frame_ratios, "of_the_hand": hand_ratios}
    return {name: with_interval(np.array(each), np.mean) for name, each in scores.items()}


def cells(values: Mask) -> Mask:
    """Return the means over 16 x 16 cells."""
    return np.asarray(cv2.resize(values, (CELLS, CELLS), interpolation=cv2.INTER_AREA))


def correlate(model: Any, heats: Sequence[Mask], found: Sequence[Hand]) -> dict[str, Any]:
    """Compare the heat maps with integrated gradients from the blurred image, by ranks."""
    import tensorflow as tf

    rho = []
    for heat, hand in zip(heats, found, strict=True):
        pixels = hand.pixels.astype(np.float32)
        start = cv2.GaussianBlur(pixels, (0, 0), BLUR * len(pixels))
        change = (pixels - start)[..., np.newaxis] / 255
        shares = (np.arange(STEPS, dtype=np.float32) + 0.5) / STEPS
        images = tf.constant(start[..., np.newaxis] / 255 + shares[:, None, None, None] * change)
        genders = tf.fill((STEPS, 1), hand.gender)
        with tf.GradientTape() as tape:
            tape.watch(images)
            months = tf.reduce_sum(model((images, genders), training=False))
        gradient = tape.gradient(months, images).numpy().mean(0)
        on_hand = cells(hand.silhouette) > 0.5
        pair = [cells(each)[on_hand] for each in (heat, (gradient * change)[..., 0])]
        ranks = [np.argsort(np.argsort(each)) for each in pair]
        rho.append(np.corrcoef(*ranks)[0, 1])
    found_mean = with_interval(np.array(rho), np.mean)
    return {"spearman" if name == "ratio" else name: value for name, value in found_mean.items()}


def main() -> None:
    """Measure a run and networks with random weights."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--joints", type=Path, required=True)
    arguments.add_argument("--split", action="append")
    arguments.add_argument("--limit", type=int, help="radiographs")
    arguments.add_argument("--random", type=int, default=3, help="networks with random weights")
    arguments.add_argument("--random-heat", type=int, default=12, help="their heat maps")
    given = arguments.parse_args()
    run = open_run(given.run)
    recipe = run.read_recipe()
    splits = given.split or ["val", "test"]
    found = list(islice(hands(given.manifest, splits, given.joints, recipe), given.limit))
    engine = load_engine(run)
    heats = [occlude(engine, hand.pixels, hand.gender) for hand in found]
    result: dict[str, Any] = {
        "machine": provenance(),
        "model": recipe.name,
        "radiographs": len(found),
        "blur_share_of_side": BLUR,
        "joints": move_joints(engine, found, BLUR),
        "joints_other_blur": {
            f"{factor:g}": move_joints(engine, found, factor * BLUR)["all"] for factor in (0.5, 2)
        },
        "heat_map": score_heat(heats, found),
    }
    import keras

    from boneage.models.builder import build_model
    from boneage.models.saved import load_model

    result["second_method"] = correlate(load_model(run), heats, found)
    settings = recipe.model.model_dump() | {"weights": "none", "weights_sha256": None}
    for seed in range(given.random):
        keras.utils.set_random_seed(seed)
        untrained = KerasEngine(build_model(image_size=recipe.framing.size, **settings))
        few = found[: given.random_heat if seed == 0 else 0]
        random_heats = [occlude(untrained, hand.pixels, hand.gender) for hand in few]
        row: dict[str, Any] = {"seed": seed, "joints": move_joints(untrained, found, BLUR)["all"]}
        if few:
            row["heat_map"] = score_heat(random_heats, few)
        result.setdefault("random_weights", []).append(row)
    rounded = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 4))
    print(json.dumps(rounded, indent=2))


if __name__ == "__main__":
    main()
