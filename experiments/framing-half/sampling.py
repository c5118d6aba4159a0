"""How must a radiograph be shrunk for a model that was trained on thumbnails?

    python experiments/framing-half/sampling.py MANIFEST [--run rsna-best] [--split val,test]
        [--change "noise 5 of 255"]

MANIFEST lists radiographs that are larger than the thumbnails. Each is framed from all of its
pixels, and after it was shrunk: by averages to every number of `--source-pixels`; to the first of
them by single pixels, too, and by single pixels at four phases, whose answers are averaged.
`--change` first makes a change of `boneage stress`. The result is JSON, for each way:

- the MAE and the bias (answer minus label) in months, of each split and of all, by one view;
- the difference of its MAE from that of the first way, and the mean difference of the answers.

Intervals are of 95 %, by a bootstrap of the images, or of the patients where the manifest has them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.evaluation.paired import bootstrap_mean
from boneage.evaluation.radiograph_changes import CHANGES, UNCHANGED, Change
from boneage.prediction.engines import Engine, load_engine
from boneage.prediction.shipped import open_run
from boneage.prediction.test_time_views import mean_of_views
from boneage.radiographs.framing import CENTRE, PHASES, frame
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing
from boneage.runtime.provenance import provenance

Months = npt.NDArray[np.float64]
Phases = Sequence[tuple[float, float]]


def ways(framing: Framing, source_pixels: Sequence[int]) -> dict[str, tuple[Framing, Phases]]:
    """Return every way to frame, by its name: the settings and the phases."""

    def changed(**settings: Any) -> Framing:
        return Framing.model_validate({**framing.model_dump(), **settings})

    nearest = changed(source_pixels=source_pixels[0], sampling="nearest")
    averages = {
        f"area, {pixels} px": (changed(source_pixels=pixels, sampling="area"), (CENTRE,))
        for pixels in source_pixels
    }
    return {
        "all pixels": (changed(source_pixels=None, sampling="area"), (CENTRE,)),
        **averages,
        f"nearest, {source_pixels[0]} px": (nearest, (CENTRE,)),
        f"nearest, {source_pixels[0]} px, four phases": (nearest, PHASES),
    }


def answers(
    manifest: Manifest, engine: Engine, framing: Framing, phases: Phases, change: Change
) -> Months:
    """Return the answers to all radiographs of a manifest, months, averaged over the phases."""
    images = []
    ids, files = manifest.table["image_id"], manifest.image_paths()
    for image_id, path, region in zip(ids, files, manifest.regions(), strict=True):
        radiograph = change(read_radiograph(path), image_id, framing.size)
        images += [frame(radiograph, framing, region, phase=phase).pixels for phase in phases]
    sexes = np.repeat(manifest.gender(), len(phases), axis=0)
    return mean_of_views(engine, images, sexes).reshape(-1, len(phases)).mean(1)


def scores(months: Months, ages: Months, first: Months, patients: Any) -> dict[str, Any]:
    """Return MAE and bias, and their differences from those of the first way."""
    error = months - ages
    return {
        "n": len(ages),
        "mae": bootstrap_mean(abs(error), patients),
        "bias": bootstrap_mean(error, patients),
        "mae_minus_first": bootstrap_mean(abs(error) - abs(first - ages), patients),
        "answer_minus_first": bootstrap_mean(months - first, patients),
    }


def main() -> None:
    """Measure the manifest on the command line."""
    changes = {change.name: change for change in (UNCHANGED, *CHANGES)}
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--run", type=Path, default=Path("rsna-best"))
    arguments.add_argument("--split", default="val,test", help="splits, with commas")
    arguments.add_argument("--source-pixels", default="100,200", help="sides, with commas")
    arguments.add_argument("--change", default=UNCHANGED.name, choices=changes, metavar="NAME")
    given = arguments.parse_args()
    cv2.setNumThreads(1)
    manifest, run = read_manifest(given.manifest), open_run(given.run)
    engine, names = load_engine(run), given.split.split(",")
    parts = [manifest.split(name) for name in names]
    splits = np.repeat(names, [len(part) for part in parts])
    ages = np.concatenate([part.age_months()[:, 0] for part in parts]).astype(np.float64)
    tables = [part.table for part in parts]
    patients = None
    if "patient_id" in manifest.table:
        patients = np.concatenate([table["patient_id"] for table in tables])
    rows, first = [], None
    sides, change = [int(side) for side in given.source_pixels.split(",")], changes[given.change]
    for name, way in ways(run.read_recipe().framing, sides).items():
        months = np.concatenate([answers(part, engine, *way, change) for part in parts])
        first = months if first is None else first
        row: dict[str, Any] = {"name": name}
        for split in ("all", *names):
            of = np.full(len(ages), True) if split == "all" else splits == split
            groups = None if patients is None else patients[of]
            row[split] = scores(months[of], ages[of], first[of], groups)
        rows.append(row)
    made = {"machine": provenance(), "run": run.folder.name, "change": change.name}
    made |= {"manifest_digest": manifest.digest, "split_digest": manifest.split_digest}
    print(json.dumps({**made, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
