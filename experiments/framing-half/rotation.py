"""What does a slanting hand cost, with quarter turns and with fine ones (`framing.upright`)?

    python experiments/framing-half/rotation.py MANIFEST [--run rsna-best] [--degrees 0,10,20,45]

Every radiograph is turned on a black canvas that holds all of it, to a side that its row decides.
It is then framed as the run's recipe says. The result is JSON, by angle and setting:

- MAE and bias in months by one view, and their differences from the same setting's at the first
  angle. For fine turns also the difference of the MAE from that of quarter turns;
- the share of the images that were turned finely;
- of the angle that `slant` finds, whether or not it is above the limit: the share of images that
  have one, and by how many degrees it differs from what the first angle's and the turn add up to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sampling import Months, scores

from boneage.datasets.manifest import read_manifest
from boneage.prediction.engines import load_engine
from boneage.prediction.shipped import open_run
from boneage.prediction.test_time_views import mean_of_views
from boneage.radiographs.framing import frame
from boneage.radiographs.hand_detection import find_hand, slant
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.recipe import Framing
from boneage.runtime.provenance import provenance

Angles = npt.NDArray[np.float64]


def turned(radiograph: Radiograph, degrees: float) -> Radiograph:
    """Turn a radiograph counter-clockwise on a black canvas that holds all of it."""
    height, width = radiograph.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    across, down = np.ceil(np.abs(matrix[:, :2]) @ (width, height)).astype(int).tolist()
    matrix[:, 2] += (across - width) / 2, (down - height) / 2
    return np.asarray(cv2.warpAffine(radiograph, matrix, (across, down)), radiograph.dtype)


def slants(radiographs: Iterable[Radiograph]) -> Angles:
    """Return the angle of every hand, degrees; not a number where none is found."""
    found = [slant(find_hand(each, black_corners=True)) for each in radiographs]
    return np.array([np.nan if each is None else each for each in found])


def compared(now: Angles, before: Angles, applied: Angles) -> dict[str, float]:
    """Compare the angles of turned hands with those before the turn."""
    apart = np.abs((now + applied - before + 45) % 90 - 45)
    both = np.isfinite(apart)
    median, late = np.percentile(apart[both], (50, 95)).tolist()
    return {"found": float(both.mean()), "median": median, "percentile_95": late}


def main() -> None:
    """Measure the manifest on the command line."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("manifest", type=Path)
    arguments.add_argument("--run", type=Path, default=Path("rsna-best"))
    arguments.add_argument("--split", default="val,test", help="splits, with commas")
    arguments.add_argument("--degrees", default="0,10,20,45", help="angles, with commas")
    arguments.add_argument("--limit", type=int, default=10**9, help="images of each split")
    given = arguments.parse_args()
    cv2.setNumThreads(1)
    manifest, run = read_manifest(given.manifest), open_run(given.run)
    engine = load_engine(run)
    parts = [manifest.split(name) for name in given.split.split(",")]
    paths = [path for part in parts for path in part.image_paths()[: given.limit]]
    ages = np.concatenate([part.age_months()[: given.limit, 0] for part in parts]).astype(float)
    sexes = np.concatenate([part.gender()[: given.limit] for part in parts])
    framing = run.read_recipe().framing.model_dump()
    signs = np.random.default_rng(0).choice([-1, 1], len(paths))
    radiographs = [read_radiograph(path) for path in paths]
    rows, first, before = [], dict[str, Months](), slants(radiographs)
    for degrees in map(float, given.degrees.split(",")):
        applied = degrees * signs
        slanting = list(map(turned, radiographs, applied)) if degrees else radiographs
        answers = dict[str, Months]()
        for upright in ("quarters", "fine"):
            settings = Framing.model_validate({**framing, "upright": upright})
            framed = [frame(each, settings) for each in slanting]
            months = mean_of_views(engine, [each.pixels for each in framed], sexes)
            answers[upright] = months
            row: dict[str, Any] = {"degrees": degrees, "upright": upright}
            row |= scores(months, ages, first.setdefault(upright, months), None)
            if upright == "fine":
                row["turned_finely"] = np.mean([each.crop.rotation % 90 != 0 for each in framed])
                row["mae_minus_quarters"] = scores(months, ages, answers["quarters"], None)[
                    "mae_minus_first"
                ]
                row["degrees_apart"] = compared(slants(slanting), before, applied)
            rows.append(row)
    made = {"machine": provenance(), "run": run.folder.name}
    made |= {"manifest_digest": manifest.digest, "split_digest": manifest.split_digest}
    print(json.dumps({**made, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
